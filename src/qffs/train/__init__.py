"""Training in full precision or with quantized activations: one loop for both, because a QANN is an ordinary module."""
