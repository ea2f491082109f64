"""Modules that hold parameters and call the functions of `qffs.functional`."""
