"""A program that PyTorch alone can load: `torch.export`'s archive."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, Mismatch, NotCalibrated, NotConvertible
from qffs.export.target import Network, Target, Written, apart, examples, steps_of
from qffs.files import write
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import State, accumulate, advance


def pt2(
    network: Network, path: str | Path, steps: int | None = None, example: Tensor | Sequence[Tensor] = ()
) -> Written:
    """Write a quantized network, or T steps of a spiking one, as an archive of `torch.export`.

    It needs no qffs where it is loaded: ``torch.export.load(path).module()(x)`` takes ``[B, ...]`` and returns what the
    network does, a spiking one the read-out after each step, ``[T, B, ...]``. steps: T, by default 8 and at least 2 D;
    example: one input, or several, where they are not floating-point numbers.

    Returned: what was written, after it was read again and run beside the network. Raises `NotConvertible` where
    PyTorch cannot export the network, `Mismatch` where what was read again computes something else, `InvalidArgument`
    where the path does not end in ".pt2".
    """
    kind = PT2.check(network)
    path, steps = Path(path), steps_of(network, steps)
    if path.suffix != ".pt2":
        raise InvalidArgument(f"PyTorch loads archives by their suffix: name a file that ends in .pt2, not {path.name}")
    module = plain(network, steps)
    exported, given = program(module, examples(network, 2, example)), examples(network, 3, example)

    def written(fresh: Path) -> None:
        with fresh.open("wb") as stream:  # to a path that cannot be written PyTorch raises no OSError
            torch.export.save(exported, stream)
        with torch.no_grad():
            deviation = apart(torch.export.load(fresh).module()(*given), module(*given))
        if deviation:
            raise Mismatch(f"what would be written to {path} differs from the network by {deviation:.3g}")

    write(path, written)
    return Written(path, kind, steps, 0.0)


PT2 = Target(
    "pt2", "an archive of torch.export, which PyTorch loads without qffs", ("snn", "qann"), pt2, frozenset({"steps"})
)


class Unrolled(nn.Module):
    """T steps of a spiking network: inputs ``[B, ...]`` to what is read out after each step, ``[T, B, ...]``."""

    def __init__(self, network: SpikingNetwork, steps: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network.graph)
        self.charge = network.schedule.over(steps)

    def forward(self, *inputs: Tensor) -> Any:
        """The accumulated read-out."""
        increments, _ = advance(self.network, State(inputs), self.charge)
        return accumulate(increments)


def plain(network: Network, steps: int | None) -> nn.Module:
    """A network as a module that takes inputs ``[B, ...]`` and keeps nothing, in eval mode.

    Raises `NotCalibrated` where a step size is not set.
    """
    if isinstance(network, SpikingNetwork):
        assert steps is not None
        return Unrolled(network, steps).eval()
    network = copy.deepcopy(network).eval().requires_grad_(False)
    if not all(module.ready for module in network.modules() if isinstance(module, Quantizer)):
        raise NotCalibrated("this network's step sizes are not set: calibrate or train it first")
    return network


@torch.no_grad()
def program(module: nn.Module, inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The module as an exported program that takes any batch.

    Raises `NotConvertible` where PyTorch cannot export it, with what it said.
    """
    batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    # A module that takes *inputs has one argument, the tuple of them.
    shapes = batch if isinstance(module, fx.GraphModule) else (batch,)
    try:
        return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many kinds, none of them documented
        said = str(error).strip().splitlines()
        raise NotConvertible(
            f"PyTorch cannot export this network: {said[0] if said else type(error).__name__}"
        ) from error
