"""Options that several commands share, and functions that print results; torch is not imported."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from qffs.errors import InvalidArgument
from qffs.files import expanded


class Device(StrEnum):
    """The device that computes; ``auto`` is CUDA if there is a CUDA device, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data = Annotated[
    str,
    typer.Option(
        help="digits, cifar10:PATH, images:PATH, or just the PATH of a zip or folder; also of cifar-10-batches-py."
    ),
]
NETWORK = (
    "digits_net, cifar_resnet18, torchvision:NAME, timm:NAME, package.module:function, "
    "the folder of a float checkpoint, or a trained network of `qffs networks`."
)
Size = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Resize the shorter side to N pixels and cut out the center square; for images:PATH only."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
Weights = Annotated[
    Path | None, typer.Option(help="Trained float weights: a safetensors file, or a torch file of a state dict.")
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Values that replace those of the recipe, such as quantized.epochs=3"
    ),
]
Steps = Annotated[
    int | None, typer.Option(help="Time steps T to simulate; by default 8, or 2 D if that is more (D: charge steps).")
]
Charge = Annotated[
    str, typer.Option(help="Charge steps D, or one weight per step such as 0.5,0.25,0.25; by default D = 2^bits - 1.")
]
Seed = Annotated[
    int, typer.Option(help="Seed of random numbers; the same seed on the same machine gives the same results.")
]
Where = Annotated[Device, typer.Option(help="Device that computes; auto is CUDA if there is a CUDA device.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Let the recipe name a function outside of the current folder as its model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")]


class Command(TyperCommand):
    """A command that takes no empty text, which an unset variable of a shell leaves: as a path it is this folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raise `InvalidArgument` if there is an empty text, else parse the arguments."""
        for before, argument in zip(["", *args], args, strict=False):
            flag, equals, value = argument.partition("=")
            if not argument or (flag.startswith("--") and equals and not value):
                name = flag or (before if before.startswith("-") else "an argument")
                raise InvalidArgument(f"{name} is empty: give it a value, or leave it out")
        return super().parse_args(ctx, args)


def with_home(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose paths may begin with ``~``, which no shell expands after a ``=``; see `expanded`."""

    @wraps(command)
    def expanding(**arguments: Any) -> None:
        command(**{key: expanded(value) if isinstance(value, Path) else value for key, value in arguments.items()})

    return expanding


def charge_steps_of(text: str) -> int | list[float] | None:
    """Return the value of ``--charge-steps``: a number, or one weight per step; None for an empty text.

    Raises `InvalidArgument` for any other text.
    """
    try:
        return None if not text else [float(weight) for weight in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise InvalidArgument(
            f"--charge-steps must be a whole number or weights such as 0.5,0.25,0.25, not {text!r}"
        ) from None


def show(results: dict[str, Any], json: bool) -> None:
    """Print the results of measured networks as a table, or as JSON."""
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.tables import show

    show(results, Console())


def print_json(results: Any) -> None:
    """Print plain data as JSON and nothing else."""
    from qffs.files import to_json

    typer.echo(to_json(results), nl=False)


def say(sentence: str) -> None:
    """Print one line on standard output."""
    typer.echo(sentence)


def advise(sentence: str) -> None:
    """Print a sentence of advice on standard error, if there is one."""
    if sentence:
        typer.echo(f"qffs: {sentence}", err=True)


def show_rows(results: dict[str, Any], title: str) -> None:
    """Print a table of results: ``head``, ``rows`` and ``notes``."""
    from rich.console import Console

    from qffs.report.tables import show_rows

    show_rows(results["head"], results["rows"], title=title, notes=results["notes"], console=Console())
