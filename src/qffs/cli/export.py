"""The subcommands that write a network for other tools: ``export``, ``push`` and ``pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import Json, Size, print_json, say

TARGETS = "spikingjelly, snntorch, brian2, pynn, nir, nir-exact, pt2, onnx or hub"
PROFILES = "nir, spikingjelly, snntorch, norse or sinabs"


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Folder of a network that train, quantize or convert wrote, or the name of a trained one."),
    ],
    to: Annotated[str, typer.Option("--to", help=f"{TARGETS}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; for brian2, pynn and hub a folder.")],
    steps: Annotated[
        int | None,
        typer.Option(help="Time steps T of a spiking network; by default 8, or 2 D if that is more, and 32 for nir."),
    ] = None,
    profile: Annotated[str | None, typer.Option(help=f"For nir, the tool that will read it: {PROFILES}.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Test images for brian2, pynn, nir and nir-exact, named as for simulate; by default random images."
        ),
    ] = None,
    size: Size = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Use only N of the test images, evenly spread; by default 100.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a network in the form of another tool.

    Example: `qffs export runs/demo/snn --to onnx -o demo.onnx --steps 8`
    """
    from qffs.runs.export import export as run_export

    written = run_export(checkpoint, to, output, steps=steps, profile=profile, data=data, size=size, images=images)
    if json:
        print_json(written)
        return
    duration = f", {written['steps']} steps" if written["steps"] is not None else ""
    deviation = written["deviation"]
    checked = "" if deviation is None else f"; read again and run, its outputs differ by {deviation:.1g} at most"
    say(f"Wrote the {written['kind']}{duration} to {output}{checked}.")
    if written["note"]:
        say(written["note"])


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that qffs export --to hub wrote.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Upload a network to the Hugging Face Hub, with the token that `hf auth login` stored.

    Example: `qffs push runs/demo/hub me/digits-snn`
    """
    from qffs.runs.export import push as run_push

    say(f"Uploaded {folder} to {run_push(folder, repository, private=private)}.")


def pull(
    repository: Annotated[str, typer.Argument(metavar="USER/NAME")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.")] = None,
) -> None:
    """Download a network from the Hugging Face Hub; no downloaded code is run.

    Example: `qffs pull me/digits-snn -o runs/digits`
    """
    from qffs.runs.export import pull as run_pull

    say(f"Wrote the {run_pull(repository, output, revision)} to {output}.")
