"""The training of a network with Lightning."""
