"""Pure functions on tensors: the quantiser, the neuron and the difference rule. No modules, no state, no I/O."""
