"""Training, in full precision or with quantised activations: the same loop, because a QANN is an ordinary module."""
