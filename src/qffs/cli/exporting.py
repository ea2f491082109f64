"""The subcommands that carry a network to other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import Json
from qffs.cli.printing import print_json, say

TARGETS = "spikingjelly, snntorch, pt2, onnx or hub"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a network, as train, quantize and convert write it.")],
    to: Annotated[str, typer.Option("--to", help=f"{TARGETS}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, or for hub a folder.")],
    steps: Annotated[int | None, typer.Option(help="Time steps T of a spiking network; 8, at least 2 D.")] = None,
    json: Json = False,
) -> None:
    """Write a network in the form of another tool.

    Example: `qffs export runs/demo/snn --to onnx -o demo.onnx --steps 8`
    """
    from qffs import jobs

    written = jobs.export(checkpoint, to, output, steps)
    if json:
        print_json(written)
        return
    lasting = f", {written['steps']} steps" if written["steps"] is not None else ""
    apart = written["deviation"]
    checked = "" if apart is None else f"; read again and run, its outputs differ by {apart:.1g} at most"
    say(f"Wrote the {written['kind']}{lasting} to {output}{checked}.")


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that qffs export --to hub wrote.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Made where it is not there yet.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
) -> None:
    """Upload a network to the Hugging Face Hub, with the token that `hf auth login` keeps.

    Example: `qffs push runs/demo/hub me/digits-snn`
    """
    from qffs import export

    say(f"Uploaded {folder} to {export.push(folder, repository, private=private)}.")


def pull(
    repository: Annotated[str, typer.Argument(metavar="USER/NAME")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.")] = None,
) -> None:
    """Download a network from the Hugging Face Hub; nothing of what is downloaded is run.

    Example: `qffs pull me/digits-snn -o runs/digits`
    """
    from qffs import export

    loaded = export.pull(repository, output, revision)
    say(f"Wrote the {loaded.kind} to {output}.")
