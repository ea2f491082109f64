"""A spiking network, and everything that runs it."""
