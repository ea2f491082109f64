"""Whole jobs from files to files: what each subcommand of the command line calls."""
