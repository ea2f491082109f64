"""The command line, as ``python -m qffs`` and as the script ``qffs``; Ctrl-C is one sentence from the first import."""

import os
import signal
import sys


def _stop(*_: object) -> None:
    """End the process: a module that is being imported might catch an exception, or turn it into another one."""
    sys.stderr.write("qffs: stopped\n")
    sys.stderr.flush()
    os._exit(130)


def main() -> None:
    """Import the command line and run it."""
    usual = signal.signal(signal.SIGINT, _stop)
    from qffs.cli import main as run

    signal.signal(signal.SIGINT, usual)
    run()


if __name__ == "__main__":
    main()
