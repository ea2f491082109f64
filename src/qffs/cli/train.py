"""The subcommands that train: the whole way, a recipe, a quantized network."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from qffs.cli.options import (
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
    Weights,
    Where,
    charge_steps_of,
    print_json,
    recipe_of,
    say,
    show,
)
from qffs.progress import first


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
    """Train, quantize, fine-tune, convert, verify and simulate, and show accuracy by time step.

    Example: `qffs demo --data cifar10:cifar10.zip --model cifar_resnet20 --weights resnet20.safetensors --epochs 8`
    """
    from qffs.runs.train import demo as run_demo

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
    results = run_demo(recipe, output)
    show(results, json)
    if not json:
        say(f"Wrote {output}/results.json, accuracy.png, and the checkpoints float, qann and snn.")


def _not_begun(_: int, __: FrameType | None) -> NoReturn:
    """There is nothing to save yet; no `Exception`, which what is being imported might take for a failure."""
    if first():
        typer.echo("qffs: stopped by SIGTERM before anything was done", err=True)
    raise SystemExit(0)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with qffs (qffs recipes list), or a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What is to be otherwise: quantized.epochs=3")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to; runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run in the folder stopped.")] = False,
    save_every: Annotated[float, typer.Option(metavar="SECONDS", help="Save the state in an epoch this often.")] = 60.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard too.")] = False,
    json: Json = False,
) -> None:
    """Train, quantize, fine-tune, convert and measure a network as a recipe says; can be stopped and resumed.

    Example: `qffs train cifar10_resnet20 data=cifar10:cifar10.zip quantized.epochs=3 --output runs/short`
    """
    signal.signal(signal.SIGTERM, _not_begun)
    from qffs.recipes import read
    from qffs.runs.train import train as run_train

    folder = output or Path("runs") / Path(recipe).stem
    results = run_train(
        read(recipe, changes or ()), folder, resume=resume, save_every_s=save_every, tensorboard=tensorboard
    )
    if first():
        show(results, json)
        if not json:
            say(f"Wrote {folder}: results.json, accuracy.png, recipe.yaml, and the checkpoints float, qann and snn.")


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
    """Quantize a network's activations, calibrate and fine-tune them, and save the quantized network.

    Example: `qffs quantize digits_net --data digits --weights runs/demo/float/model.safetensors --epochs 5 -o qann`
    """
    from qffs.runs.convert import quantize

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
    results = quantize(recipe, output)
    right = f"{100 * results['training_accuracy']:.2f} %"
    print_json(results) if json else say(
        f"Wrote the quantized network to {output}; it classifies {right} of the training images rightly."
    )
