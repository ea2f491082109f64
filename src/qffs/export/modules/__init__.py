"""Networks as modules of other libraries for spiking networks."""
