"""A network as populations of neurons and synapses, for simulators of circuits."""
