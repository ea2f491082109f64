"""The command line: one short function a subcommand, each calling one function of the library.

torch is imported inside the subcommands, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from signal import Signals
from typing import Annotated, Any

import typer

from qffs import recipes_cli
from qffs.errors import NotConvertible, QffsError, Stopped
from qffs.options import (
    NETWORK,
    BatchSize,
    Bfloat16,
    Bits,
    Charge,
    Data,
    Device,
    Epochs,
    Json,
    LearningRate,
    Output,
    OutputBits,
    PerChannel,
    Seed,
    Size,
    Steps,
    Weights,
    Where,
    charge_steps_of,
    recipe_of,
)
from qffs.progress import first
from qffs.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(recipes_cli.app, name="recipes")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qffs {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Turn a trained PyTorch network into a fast spiking neural network, exactly.

    Example: `qffs demo` does the whole way on handwritten digits in well under a minute.
    """


@app.command()
def demo(
    data: Data = "digits",
    size: Size = None,
    model: Annotated[str, typer.Option(help=NETWORK)] = "digits_net",
    weights: Weights = None,
    bits: Bits = "2",
    output_bits: OutputBits = "analog",
    per_channel: PerChannel = False,
    float_epochs: Annotated[
        int | None, typer.Option(help="Full-precision epochs first; 2 with weights, else 15.")
    ] = None,
    epochs: Epochs = 15,
    learning_rate: LearningRate = 0.03,
    batch_size: BatchSize = 64,
    bfloat16: Bfloat16 = False,
    steps: Annotated[int | None, typer.Option(help="Time steps T; 8 for digits, else 16, at least 2 D.")] = None,
    charge_steps: Charge = "",
    output: Output = Path("runs/demo"),
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Train, quantise, fine-tune, convert, verify and simulate, and show accuracy by time step.

    Example: `qffs demo --data cifar10:cifar10.zip --model cifar_resnet20 --weights resnet20.safetensors --epochs 8`
    """
    from qffs import jobs

    recipe = recipe_of(
        data=data,
        size=size,
        model=model,
        weights=weights,
        bits=bits,
        output=output_bits,
        per_channel=per_channel,
        precision="bfloat16" if bfloat16 else "float32",
        steps=steps,
        charge_steps=charge_steps_of(charge_steps),
        seed=seed,
        device=device.value,
        float_epochs=float_epochs if float_epochs is not None else 2 if weights else 15,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    results = jobs.demo(recipe, output)
    _show(results, json)
    if not json:
        _say(f"Wrote {output}/results.json, accuracy.png, and the checkpoints float, qann and snn.")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with qffs (qffs recipes list), or a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What is to be otherwise: quantised.epochs=3")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to; runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run in the folder stopped.")] = False,
    save_every: Annotated[float, typer.Option(metavar="SECONDS", help="Save the state in an epoch this often.")] = 60.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard too.")] = False,
    json: Json = False,
) -> None:
    """Train, quantise, fine-tune, convert and measure a network as a recipe says; can be stopped and resumed.

    Example: `qffs train cifar10_resnet20 data=cifar10:cifar10.zip quantised.epochs=3 --output runs/short`
    """
    from qffs import jobs
    from qffs.recipes import read

    folder = output or Path("runs") / Path(recipe).stem
    results = jobs.train(
        read(recipe, changes or ()), folder, resume=resume, save_every_s=save_every, tensorboard=tensorboard
    )
    if first():
        _show(results, json)
        if not json:
            _say(f"Wrote {folder}: results.json, accuracy.png, recipe.yaml, and the checkpoints float, qann and snn.")


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help=NETWORK)],
    data: Data,
    output: Output,
    size: Size = None,
    weights: Weights = None,
    bits: Bits = "2",
    output_bits: OutputBits = "analog",
    per_channel: PerChannel = False,
    epochs: Epochs = 0,
    learning_rate: LearningRate = 0.03,
    batch_size: BatchSize = 64,
    bfloat16: Bfloat16 = False,
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Quantise a network's activations, calibrate and fine-tune them, and save the quantised network.

    Example: `qffs quantize digits_net --data digits --weights runs/demo/float/model.safetensors --epochs 5 -o qann`
    """
    from qffs import jobs

    recipe = recipe_of(
        data=data,
        size=size,
        model=model,
        weights=weights,
        bits=bits,
        output=output_bits,
        per_channel=per_channel,
        precision="bfloat16" if bfloat16 else "float32",
        seed=seed,
        device=device.value,
        float_epochs=0,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    results = jobs.quantise(recipe, output)
    right = f"{100 * results['training_accuracy']:.2f} %"
    _print_json(results) if json else _say(
        f"Wrote the quantised network to {output}; it classifies {right} of the training images rightly."
    )


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help=NETWORK)],
    shapes: Annotated[
        list[str] | None, typer.Option("--input", metavar="CxHxW", help="Shape of an input; once for each of several.")
    ] = None,
    weights: Weights = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse also what sends values instead of spikes.")] = False,
    json: Json = False,
) -> None:
    """Show what will become of every call of a network, without changing anything.

    Example: `qffs plan torchvision:resnet18 --input 3x224x224`
    """
    from qffs import jobs
    from qffs.report.results import plan_rows
    from qffs.sources import shape_of

    given = [shape_of(text) for text in shapes or ()]
    with redirect_stdout(sys.stderr):  # what the network's own code prints is no part of the table
        planned, inputs = jobs.plan(model, given, str(weights) if weights else None)
    if json:
        _print_json(plan_rows(planned))
    else:
        from rich.console import Console

        from qffs.report.table import show_plan

        show_plan(planned, f"{model} on {inputs}, two at a time", Console())
    planned.check(strict)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a quantised network.")],
    output: Output,
    charge_steps: Charge = "",
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Convert a quantised network to a spiking network and save it.

    Example: `qffs convert runs/demo/qann --charge-steps 3 -o snn`
    """
    from qffs import jobs

    results = jobs.convert(checkpoint, output, charge_steps_of(charge_steps), device.value, seed)
    _print_json(results) if json else _say(
        f"Wrote the spiking network to {output}: {len(results['highest_level'])} layers of neurons, "
        f"charged over {len(results['charge_schedule'])} steps."
    )


@app.command()
def simulate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a spiking network.")],
    data: Data = "digits",
    size: Size = None,
    steps: Steps = None,
    qann: Annotated[Path | None, typer.Option(help="Folder of its quantised network, to compare with.")] = None,
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Simulate a spiking network on all test images and show accuracy by time step.

    Example: `qffs simulate runs/demo/snn --qann runs/demo/qann --data digits --steps 8`
    """
    from qffs import jobs

    _show(jobs.simulate(checkpoint, data, steps, qann, device.value, True, seed, size), json)


def _show(results: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(results)
        return
    from rich.console import Console

    from qffs.report.table import show

    show(results, Console())


def _print_json(results: Any) -> None:
    from qffs.report.results import to_json

    typer.echo(to_json(results), nl=False)


def _say(sentence: str) -> None:
    typer.echo(sentence)


def main() -> None:
    """Run the command line; an error raised on purpose is one sentence on standard error and exit code 2."""
    try:
        app()
    except Stopped as error:
        if first():
            typer.echo(f"qffs: {error}", err=True)
        sys.exit(0 if error.signal == Signals.SIGTERM else 128 + error.signal)
    except QffsError as error:
        lines = str(error).splitlines()  # what PyTorch or the system adds may have several; refusals are a list
        text = str(error) if isinstance(error, NotConvertible) else " ".join(line.strip() for line in lines)
        typer.echo(f"qffs: {text}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("qffs: stopped", err=True)
        sys.exit(130)
