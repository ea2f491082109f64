"""qffs."""
