"""The training of a network with Fabric."""
