"""How good a model is, and which labels are probably wrong."""
