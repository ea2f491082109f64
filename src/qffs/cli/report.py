"""The subcommand that writes the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import Device, Where, say


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run that train or demo wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File of the page, by default report.html in the run's folder."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Count noises and cost on N test images, by default 256, or all if there are fewer."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The data, if they are no longer where the run's recipe says.")
    ] = None,
    device: Where = Device.AUTO,
) -> None:
    """Write the results of a run to one HTML file: curves, spikes, noises, energy and the plan.

    Example: `qffs report runs/demo`
    """
    from qffs.runs.report import report as run_report

    say(f"Wrote {run_report(run, output, images=images, data=data, device=device.value)}.")
