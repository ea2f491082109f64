"""Thin modules over `qffs.functional`: parameters and one call down."""
