"""What to do to which network with which data, as the command line or a notebook says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qffs.errors import InvalidArgument
from qffs.levels import Choice, Levels, Schedule, by_pattern
from qffs.train import Training


@dataclass(frozen=True)
class Task:
    """What to do to which network with which data, before anything is read; see the command line's help."""

    data: str = "digits"
    model: str = "digits_net"
    weights: str | None = None
    bits: Choice = 2
    output: int | str = "analog"
    per_channel: bool = False
    float_epochs: int = 15
    epochs: int = 15
    learning_rate: float = 0.03
    batch_size: int = 64
    autocast: bool = False
    steps: int | None = None
    charge_steps: int | Sequence[float] | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = True
    size: int | None = None

    def check(self) -> None:
        """Raise `InvalidArgument` on anything that can be seen to be impossible without reading a file."""
        by_pattern(self.bits)
        if not isinstance(self.output, str):
            Levels.from_bits(self.output)
        self.schedule.over(self.horizon)
        for epochs in (self.float_epochs, self.epochs):
            self.training(epochs)
        device_of(self.device)

    @property
    def schedule(self) -> Schedule:
        """The schedule asked for, or the default of the finest hidden bits, or of the output's where there are none."""
        if self.charge_steps is not None:
            return Schedule.of(self.charge_steps)
        hidden = [levels for levels in by_pattern(self.bits).values() if levels]
        output = Levels(1) if isinstance(self.output, str) else Levels.from_bits(self.output)
        return Schedule.of(max(levels.highest for levels in hidden or [output]))

    @property
    def horizon(self) -> int:
        """The steps to simulate; by default 8 for digits, else 16, and at least twice the charge steps."""
        if self.steps is not None:
            return self.steps
        return max(8 if self.data == "digits" else 16, 2 * self.schedule.steps)

    def training(self, epochs: int, photographs: bool = False) -> Training:
        """How to train for ``epochs``; photographs, unlike digits, are mirrored."""
        return Training(
            epochs,
            self.learning_rate,
            batch_size=self.batch_size,
            augment=True,
            mirror=photographs,
            autocast=self.autocast,
            seed=self.seed,
        )


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. Raises `InvalidArgument` where it is not there."""
    if name not in {"auto", "cpu", "cuda"}:
        raise InvalidArgument(f"the device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("there is no CUDA device here: use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
