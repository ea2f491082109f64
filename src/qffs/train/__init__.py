"""Training, in full precision or with quantized activations: the same loop, because a QANN is an ordinary module."""
