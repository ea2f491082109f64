"""Networks as populations of neurons and synapses, for simulators of neural circuits."""
