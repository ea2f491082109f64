"""The functions that the subcommands of the command line call: each reads files, works and writes files."""
