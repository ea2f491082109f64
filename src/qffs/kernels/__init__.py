"""Other bodies of the loops in `qffs.functional`: compiled, with the same signatures, tested against them."""
