"""What users may say on the command line, and how it is read; free of torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qffs.errors import InvalidArgument
from qffs.recipes.recipe import Recipe


class Device(StrEnum):
    """Where to compute; auto takes CUDA where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data = Annotated[
    str, typer.Option(help="digits, cifar10:PATH, images:PATH, or just the PATH of a zip or folder; also CIFAR's own.")
]
NETWORK = "digits_net, cifar_resnet18, torchvision:NAME, timm:NAME, package.module:function, or a float checkpoint."
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
Bits = Annotated[
    str,
    typer.Option(
        metavar="BITS", help="Bits of the hidden activations, 1 to 8, or by name, such as `stem.*=full,layer4.*=3,*=2`."
    ),
]
PerChannel = Annotated[bool, typer.Option("--per-channel", help="Learn a step size for each channel.")]
OutputBits = Annotated[str, typer.Option(help="analog, or the bits of a spiking output layer.")]
Epochs = Annotated[int, typer.Option(help="Epochs of training with quantized activations.")]
LearningRate = Annotated[float, typer.Option(help="First learning rate; it falls to zero along a cosine.")]
BatchSize = Annotated[int, typer.Option(help="Images a training step.")]
Bfloat16 = Annotated[bool, typer.Option("--bfloat16", help="Train in bfloat16 autocast: faster where the CPU has it.")]
Steps = Annotated[int | None, typer.Option(help="Time steps T to simulate; 8, at least 2 D.")]
Charge = Annotated[str, typer.Option(help="Charge steps D, or weights by step such as 0.5,0.25,0.25; 2^bits - 1.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same results.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")]


def bits_of(text: str) -> int | dict[str, int | str]:
    """``--bits``: a number, or numbers by pattern."""
    if text.isdecimal():
        return int(text)
    pairs = [part.rpartition("=") for part in text.split(",")]
    chosen = {pattern.strip(): value if value == "full" else int(value) for pattern, _, value in pairs
              if pattern.strip() and (value == "full" or value.isdecimal())}  # fmt: skip
    if len(chosen) < len(pairs):
        raise InvalidArgument(
            f"--bits must be a number from 1 to 8, or one (or full) a pattern, as in layer4.*=3,*=2, not {text!r}"
        )
    return chosen


def output_bits_of(text: str) -> int | Literal["analog"]:
    """``--output-bits``."""
    if text == "analog":
        return "analog"
    if not text.isdecimal():
        raise InvalidArgument(f"--output-bits must be analog or a number from 1 to 8, not {text!r}")
    return int(text)


def charge_steps_of(text: str) -> int | list[float] | None:
    """``--charge-steps``: a number, or weights by step; None where nothing is said."""
    try:
        return None if not text else [float(weight) for weight in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise InvalidArgument(
            f"--charge-steps must be a whole number or weights such as 0.5,0.25,0.25, not {text!r}"
        ) from None


def recipe_of(
    *,
    bits: str,
    output: str,
    weights: Path | None,
    float_epochs: int,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    **same: Any,
) -> Recipe:
    """The recipe that options say; ``same`` are those that have the name and the value of a key."""
    both = {"learning_rate": learning_rate, "batch_size": batch_size}
    return Recipe.of(
        {
            **same,
            "bits": bits_of(bits),
            "output": output_bits_of(output),
            "weights": str(weights) if weights else None,
            "full_precision": {"epochs": float_epochs, **both},
            "quantized": {"epochs": epochs, **both},
        }
    )


def show(results: dict[str, Any], json: bool) -> None:
    """The measured networks as a table, or as JSON."""
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.tables import show

    show(results, Console())


def print_json(results: Any) -> None:
    """Plain data as JSON and nothing else."""
    from qffs.files import to_json

    typer.echo(to_json(results), nl=False)


def say(sentence: str) -> None:
    """One line on standard output."""
    typer.echo(sentence)
