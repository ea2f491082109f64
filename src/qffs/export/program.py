"""A network as one program of tensor operations, all time steps unrolled: what archives are written from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import NotCalibrated, NotConvertible
from qffs.export.target import Network
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.state import State
from qffs.spiking.step_by_step import advance, summed


class Unrolled(nn.Module):
    """T steps of a spiking network: inputs ``[B, ...]`` to what is read out after each step, ``[T, B, ...]``."""

    def __init__(self, network: SpikingNetwork, steps: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network.graph)
        self.charge = network.schedule.over(steps)

    def forward(self, *inputs: Tensor) -> Any:
        """The accumulated read-out."""
        increments, _ = advance(self.network, State(inputs), self.charge)
        return summed(increments)


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
