"""Compiled forms of the loops in `qffs.functional`, with the same results."""
