"""Questions that take many runs: other methods on the same network, the figures of the paper."""
