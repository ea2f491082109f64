"""The command line, as ``python -m qffs``."""

from qffs.cli import main

if __name__ == "__main__":
    main()
