"""The subcommands that measure a spiking network: ``simulate``, ``noise`` and ``energy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import Data, Device, Json, Seed, Size, Steps, Where, print_json, show

Spiking = Annotated[Path, typer.Argument(help="Folder of a spiking network, or the name of a trained one.")]
Images = Annotated[
    int | None, typer.Option(metavar="N", help="Use only N of the test images, evenly spread; all by default.")
]


def simulate(
    checkpoint: Spiking,
    data: Data = "digits",
    size: Size = None,
    steps: Steps = None,
    images: Images = None,
    qann: Annotated[Path | None, typer.Option(help="Folder of its quantized network, to compare them.")] = None,
    stop_when: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MARGIN",
            help="Also stop each image once its largest output is this far above the next; can be repeated.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Simulate a spiking network on the test images and show its accuracy after each time step.

    Example: `qffs simulate runs/demo/snn --qann runs/demo/qann --data digits --steps 8`
    """
    from qffs.runs.measure import Trial
    from qffs.runs.measure import simulate as run_simulate

    trial = Trial(
        checkpoint, data=data, size=size, steps=steps, images=images, qann=qann, device=device.value, seed=seed
    )
    show(run_simulate(trial, stop_when or ()), json)


def noise(
    checkpoint: Spiking,
    data: Data = "digits",
    size: Size = None,
    steps: Steps = None,
    images: Images = None,
    qann: Annotated[
        Path | None, typer.Option(help="Folder of its quantized network; by default qann next to CHECKPOINT.")
    ] = None,
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Count the neurons with each kind of noise per layer and step, and measure accuracy without each remedy.

    Example: `qffs noise runs/demo/snn --steps 8`
    """
    from qffs.runs.measure import Trial
    from qffs.runs.measure import noise as run_noise

    results = run_noise(
        Trial(checkpoint, data=data, size=size, steps=steps, images=images, qann=qann, device=device.value, seed=seed)
    )
    if json:
        print_json(results)
    else:
        from rich.console import Console

        from qffs.report.tables import show_noise

        show_noise(results, Console())


def energy(
    checkpoint: Spiking,
    data: Data = "digits",
    size: Size = None,
    steps: Steps = None,
    images: Images = None,
    multiply_add_pj: Annotated[float, typer.Option(help="Energy of a multiply-add, in pJ.")] = 4.6,
    add_pj: Annotated[float, typer.Option(help="Energy of an addition, in pJ.")] = 0.9,
    seed: Seed = 0,
    device: Where = Device.AUTO,
    json: Json = False,
) -> None:
    """Count the synaptic operations per image, and estimate the energy, also of networks that do not spike.

    Example: `qffs energy runs/demo/snn --steps 8`
    """
    from qffs.runs.measure import Trial
    from qffs.runs.measure import energy as run_energy

    trial = Trial(checkpoint, data=data, size=size, steps=steps, images=images, device=device.value, seed=seed)
    results = run_energy(trial, multiply_add_pj=multiply_add_pj, add_pj=add_pj)
    if json:
        print_json(results)
    else:
        from rich.console import Console

        from qffs.report.tables import show_energy

        show_energy(results, Console())
