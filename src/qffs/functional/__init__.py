"""Pure functions on tensors: the quantizer, the neuron and the difference rule. No modules, no state, no I/O."""
