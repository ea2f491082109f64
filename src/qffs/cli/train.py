"""The subcommands that train: ``demo`` and ``train``."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from qffs.cli.options import Changes, Json, Output, Trust, advise, say, show
from qffs.errors import InvalidArgument
from qffs.progress import first


def demo(changes: Changes = None, output: Output = Path("runs/demo"), json: Json = False) -> None:
    """Train, quantize, fine-tune, convert, verify and simulate a network, and show its accuracy after each time step.

    The recipe is that of the digits, with augmentation and steps that also suit other data; KEY=VALUE changes it.

    Example: `qffs demo data=cifar10:cifar10.zip model=cifar_resnet20 weights=resnet20.safetensors quantized.epochs=8`
    """
    from qffs.recipes import of_demo
    from qffs.runs.train import demo as run_demo

    results = run_demo(of_demo(changes or ()), output)
    show(results, json)
    if not json:
        say(f"Wrote {output}/results.json, accuracy.png, and the checkpoints float, qann and snn.")


def _nothing_to_save(_: int, __: FrameType | None) -> NoReturn:
    """End the process on SIGTERM while there is nothing to save yet.

    Raises `SystemExit`, which is no `Exception`: a module that is being imported might catch one.
    """
    if first():
        typer.echo("qffs: stopped by SIGTERM before anything was done", err=True)
    raise SystemExit(0)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with qffs (qffs recipes list), or a YAML file.")],
    changes: Changes = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to, by default runs/RECIPE.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder where it stopped.")] = False,
    save_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Save the state every so many seconds within an epoch.")
    ] = 60.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write curves for TensorBoard.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Train, quantize, fine-tune, convert and measure a network as a recipe says; a run can be stopped and resumed.

    Example: `qffs train cifar10_resnet20 data=cifar10:cifar10.zip quantized.epochs=3 --output runs/short`
    """
    if not 0 <= save_every < math.inf:
        raise InvalidArgument(f"--save-every must be a finite number of at least 0, not {save_every}")
    signal.signal(signal.SIGTERM, _nothing_to_save)
    from qffs.recipes import read
    from qffs.runs.train import train as run_train

    folder = output or Path("runs") / Path(recipe).stem
    values = read(recipe, changes or (), trust=trust)
    results = run_train(values, folder, resume=resume, save_every_s=save_every, tensorboard=tensorboard)
    if first():
        show(results, json)
        if not json:
            from qffs.report.results import advice_on_training

            say(f"Wrote {folder}: results.json, accuracy.png, recipe.yaml, and the checkpoints float, qann and snn.")
            advise(advice_on_training(results))
