"""The subcommands on one network: ``networks``, ``plan``, ``quantize`` and ``convert``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from qffs.cli.options import (
    NETWORK,
    Changes,
    Charge,
    Data,
    Device,
    Json,
    Output,
    Seed,
    Weights,
    Where,
    advise,
    charge_steps_of,
    print_json,
    say,
    show,
    show_rows,
)

HEAD = ["name", "network", "accuracy", "SNN, T = 4", "MiB"]
NOTES = ["accuracy: of the network itself, on all test images.", "qffs networks NAME shows the card of one."]


def networks(
    name: Annotated[str | None, typer.Argument(help="Show the card of this network.", show_default="all")] = None,
    json: Json = False,
) -> None:
    """List the trained networks that come with qffs, or show the card of one: its accuracy, license and source.

    Each name can be given wherever a command takes a network.

    Example: `qffs networks digits-2bit`
    """
    from qffs.models import trained

    if name is None:
        cards = {each: trained.card(each) for each in trained.names()}
        if json:
            print_json([{"name": each} | card for each, card in cards.items()])
            return
        rows = [_row(each, card, trained.size(each)) for each, card in cards.items()]
        show_rows({"head": HEAD, "rows": rows, "notes": NOTES}, "networks")
        return
    card = trained.card(name)
    if json:
        print_json({"name": name} | card)
    else:
        _show(card)


def plan(
    model: Annotated[str, typer.Argument(help=NETWORK)],
    shapes: Annotated[
        list[str] | None, typer.Option("--input", metavar="CxHxW", help="Shape of an input; repeat it for each input.")
    ] = None,
    weights: Weights = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also refuse operators that send values instead of spikes.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what every operator of a network becomes in the spiking network, without changing anything.

    Example: `qffs plan torchvision:resnet18 --input 3x224x224`
    """
    from qffs.models.find import shape_of
    from qffs.report.results import plan_rows
    from qffs.runs.convert import plan as run_plan

    sizes = [shape_of(text) for text in shapes or ()]
    with redirect_stdout(sys.stderr):  # the network's code may print, and that is no part of the table
        planned, inputs = run_plan(model, sizes, str(weights) if weights else None)
    if json:
        print_json(plan_rows(planned))
    else:
        from rich.console import Console

        from qffs.report.tables import show_plan

        show_plan(planned, f"{model} on {inputs}, two at a time", Console())
    planned.check(strict)


def quantize(
    model: Annotated[str, typer.Argument(help=NETWORK)],
    data: Data,
    output: Output,
    changes: Changes = None,
    images: Annotated[int, typer.Option(min=1, help="How many training images are used, without their labels.")] = 1024,
    reconstruct: Annotated[
        bool | None,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Train the quantized network, without labels, so that its outputs come near those before.",
            show_default="--reconstruct, unless it is trained for epochs",
        ),
    ] = None,
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Quantize the activations of a trained network, save the result, and compare it with the network as it was.

    A few hundred images are enough, and labels are not needed: DATA may also be a folder or zip of images. Without
    bits=3 or another number, there are 2 bits. Every key of a recipe can be added (docs/recipes.md), such as
    quantized.epochs=N to train it for N epochs with labels.

    Example: `qffs quantize runs/demo/float --data digits --images 512 bits=3 -o runs/qann`
    """
    from qffs.recipes import of_quantization
    from qffs.runs.quantize import quantize as run_quantize

    given = str(weights) if weights else None
    recipe = of_quantization(model, data, given, changes or (), images=images, reconstruct=reconstruct)
    results = run_quantize(recipe, output)
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.tables import show_quantized

    show_quantized(results, Console())
    say(f"Wrote the quantized network to {output}; qffs convert makes a spiking network of it.")
    advise(results["advice"])


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a quantized network, or the name of a trained one.")],
    output: Output,
    charge_steps: Charge = "",
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Convert a quantized network to a spiking network and save it.

    Example: `qffs convert runs/demo/qann --charge-steps 3 -o snn`
    """
    from qffs.runs.convert import convert as run_convert

    results = run_convert(checkpoint, output, charge_steps_of(charge_steps), device=device.value, seed=seed)
    print_json(results) if json else say(
        f"Wrote the spiking network to {output}: {len(results['highest_level'])} layers of neurons, "
        f"charged over {len(results['charge_schedule'])} steps."
    )


def _row(name: str, card: dict[str, Any], size: int) -> list[str]:
    from qffs.report.tables import percent

    results = card["results"]
    accuracy = results["qann" if card["kind"] == "qann" else "full_precision"]["accuracy"]
    after = {row["steps"]: row["accuracy"] for row in results.get("snn", ())}
    return [name, card["title"], percent(accuracy), percent(after.get(4)), f"{size / 2**20:.2f}"]


def _show(card: dict[str, Any]) -> None:
    show({"snn": []} | card["results"], json=False)
    say(card["title"])
    for key in ("input", "classes", "license", "copyright", "source"):
        say(f"{key}: {', '.join(card[key]) if isinstance(card[key], list) else card[key]}")
    run = card["run"]
    say(f"made by: {run['command']}")
    say(f"commit {run['commit']}, {run['device']}, {run['seconds'] / 60:.1f} min, torch {run['versions']['torch']}")
