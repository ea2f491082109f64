"""The command line: one short function per subcommand, each of which calls one function of the library.

torch is imported inside the subcommands, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from signal import Signals
from typing import Annotated, Any

import typer

from qffs.cli import recipes
from qffs.cli.convert import convert, networks, plan, quantize
from qffs.cli.export import export, pull, push
from qffs.cli.former_flags import DemoCommand, QuantizeCommand
from qffs.cli.measure import energy, noise, simulate
from qffs.cli.options import Command, with_home
from qffs.cli.report import report
from qffs.cli.studies import compare, methods, paper
from qffs.cli.train import demo, train
from qffs.errors import Inaccurate, NotConvertible, QffsError, Stopped
from qffs.progress import first
from qffs.runs.processors import openmp_defaults
from qffs.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from qffs.kernels.cpu import cache

        typer.echo(f"qffs {__version__}, {cache.describe()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a trained PyTorch network into a fast spiking neural network, exactly.

    Example: `qffs demo` trains, converts and measures a network of handwritten digits in well under a minute.
    """


COMMANDS = (
    demo, networks, train, plan, quantize, convert, simulate, noise, energy, report, paper, compare, methods, export,
    push, pull,
)  # fmt: skip
KINDS: dict[Callable[..., None], type[Command]] = {demo: DemoCommand, quantize: QuantizeCommand}
for each in COMMANDS:
    app.command(cls=KINDS.get(each, Command))(with_home(each))
app.add_typer(recipes.app, name="recipes")


def _notice(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    """Print a warning on standard error, as one sentence if it is of this library; only process 0 does, and once."""
    ours = Path(filename).is_relative_to(Path(__file__).parents[1])
    text = f"qffs: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno)
    if first() and text not in _notices:
        _notices.add(text)
        typer.echo(text, err=True, nl=False)


_notices: set[str] = set()


def main() -> None:
    """Run the command line; whatever is no bug becomes one sentence on standard error and exit code 2."""
    warnings.showwarning = _notice
    warnings.simplefilter("ignore", Inaccurate)  # commands measure on all images, and advise by that
    os.environ.update(openmp_defaults())  # OpenMP reads them when a subcommand imports torch
    if isinstance(sys.stdout, TextIOWrapper):  # a question mark for a character that the terminal does not have
        sys.stdout.reconfigure(errors="replace")
    code = _exit_code()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # All files are written. PyTorch's threads for messages between processes sometimes abort a process at its end,
        # and torchrun would then report the whole run as failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


INTERRUPTED = 128 + Signals.SIGINT
"""The exit code after Ctrl-C."""

PARTED = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was aborted")
"""Messages of PyTorch in a process whose connection to another process has ended; the process that failed says why."""


def _exit_code() -> int:
    """Run the app and return the exit code of the command line; failures outside of the library are explained."""
    try:
        code = _run()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Exception as error:
        from qffs.cli.failures import abandon_output, explained

        sentence = explained(error)
        if sentence is None:
            raise
        abandon_output()
        _say(" ".join(sentence.split()))
        return 2


def _say(sentence: str) -> None:
    """Print ``qffs:`` and a sentence on standard error, if that can be written."""
    with suppress(OSError):
        typer.echo(f"qffs: {sentence}", err=True)


def _run() -> int:
    """Run the app, and return its exit code."""
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # which the library of the command line turns into code 1
            raise end.__context__ from None
        if end.code == INTERRUPTED:  # so does it with Ctrl-C, and says nothing
            _say("stopped")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Stopped as error:
        for each in (Signals.SIGTERM, Signals.SIGINT):  # a launcher may send them again while this process ends
            signal.signal(each, signal.SIG_IGN)
        if first():
            _say(str(error))
        return 0 if error.signal == Signals.SIGTERM else 128 + error.signal
    except QffsError as error:
        lines = str(error).splitlines()  # PyTorch or the system may add several lines; a refused network is a list
        text = str(error) if isinstance(error, NotConvertible) else " ".join(line.strip() for line in lines)
        _say(text)
        return 2
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") == "1" or not any(words in str(error) for words in PARTED):
            raise
        _say(f"process {os.environ.get('RANK')} ends, because another process has ended")
        return 1
    except KeyboardInterrupt:
        _say("stopped")
        return INTERRUPTED
    return 0
