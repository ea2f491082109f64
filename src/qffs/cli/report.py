"""The subcommand that writes a page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import Device, Where, say


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as train and demo write it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; report.html in the run's folder.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Count noises and cost on N test images; 256, or all if fewer.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the images are, if no longer where the run's recipe says.")
    ] = None,
    device: Where = Device.AUTO,
) -> None:
    """Write a run's results to one page that opens from disk: curves, spikes, noises, energy, the plan.

    Example: `qffs report runs/demo`
    """
    from qffs.runs.report import report as run_report

    say(f"Wrote {run_report(run, output, images=images, data=data, device=device.value)}.")
