"""The same training step, computed faster."""
