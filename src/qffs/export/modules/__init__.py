"""A network as modules of other libraries of spiking networks."""
