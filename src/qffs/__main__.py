"""``python -m qffs`` is the command line."""

from qffs.cli import main

if __name__ == "__main__":
    main()
