"""An archive of `torch.export`, which PyTorch loads without this library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, Mismatch, NotCalibrated, NotConvertible
from qffs.export.target import Network, Target, Written, apart, examples, steps_of
from qffs.files import expanded, put, write
from qffs.graph.replace import plain_copy
from qffs.nn.copies import with_plain_weights
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.operations import operations
from qffs.spiking.step_by_step import State, accumulate, advance


def pt2(
    network: Network, path: str | Path, steps: int | None = None, example: Tensor | Sequence[Tensor] = ()
) -> Written:
    """Write a quantized network, or T steps of a spiking network, as an archive of `torch.export`, for any batch size.

    The archive is loaded without qffs: ``torch.export.load(path).module()(x)`` takes ``[B, ...]`` and returns the
    output ``[B, ...]`` of a quantized network, or the read-out after each step, ``[T, B, ...]``, of a spiking network.

    network: a network that `qffs.quantize` or `qffs.to_spiking` returned.
    path: the file to write; its name must end in ".pt2".
    steps: T, for a spiking network only; by default 8, or 2 D if that is larger.
    example: an example of each input, ``[B, ...]``; needed only if an input is not floating-point numbers.

    Returns a `Written`. Before, the archive is loaded and run beside the network with another batch size, and the
    outputs are equal (``deviation`` is 0).

    Raises `NotConvertible` if PyTorch cannot export the network; `Mismatch` if the loaded archive computes other
    outputs; `InvalidArgument` if the path does not end in ".pt2" or the steps or examples do not fit; `NotCalibrated`
    if a step size is not set; `QffsError` if the file cannot be written.
    """
    kind = PT2.check(network)
    path, steps = expanded(path), steps_of(network, steps)
    if path.suffix != ".pt2":
        raise InvalidArgument(f"PyTorch loads archives by their suffix: name a file that ends in .pt2, not {path.name}")
    module = plain(network, steps)
    exported, inputs = program(module, examples(network, 2, example)), examples(network, 3, example)

    def save(fresh: Path) -> None:
        put(fresh, partial(torch.export.save, exported))
        with torch.no_grad(), fresh.open("rb") as stream:  # PyTorch opens no name that is not UTF-8
            deviation = apart(torch.export.load(stream).module()(*inputs), module(*inputs))
        if deviation:
            raise Mismatch(f"the program for {path} differs from the network by {deviation:.3g}")

    write(path, save)
    return Written(path, kind, steps, 0.0)


PT2 = Target(
    "pt2",
    "an archive of torch.export, which PyTorch loads without qffs",
    ("snn", "qann"),
    pt2,
    frozenset({"steps"}),
    marks=(b"PK", b"archive_format", b"qffs"),
)


class Unrolled(nn.Module):
    """A module that runs T steps of a spiking network: from inputs ``[B, ...]`` to the read-out ``[T, B, ...]``."""

    def __init__(self, network: SpikingNetwork, steps: int) -> None:
        super().__init__()
        self.network = plain_copy(network.graph)
        self.operations = operations(self.network)
        self.charge = network.schedule.over(steps)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the accumulated read-out after each step, ``[T, B, ...]``."""
        increments, _ = advance(self.operations, State(inputs), self.charge)
        return accumulate(increments)


def plain(network: Network, steps: int | None) -> nn.Module:
    """Return a network as a module in eval mode that takes inputs ``[B, ...]`` and has no state between calls.

    Raises `NotCalibrated` if a step size is not set.
    """
    if isinstance(network, SpikingNetwork):
        assert steps is not None
        return Unrolled(network, steps).eval()
    network = plain_copy(with_plain_weights(network)).eval().requires_grad_(False)
    if not all(module.ready for module in network.modules() if isinstance(module, Quantizer)):
        raise NotCalibrated("this network's step sizes are not set: calibrate or train it first")
    return network


@torch.no_grad()
def program(module: nn.Module, inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Return the module as an exported program that takes any batch size.

    Raises `NotConvertible`, with PyTorch's message, if PyTorch cannot export the module.
    """
    batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    # A module that takes *inputs has one argument, the tuple of them.
    shapes = batch if isinstance(module, fx.GraphModule) else (batch,)
    try:
        return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # its type is not documented
        message = str(error).strip().splitlines()
        raise NotConvertible(
            f"PyTorch cannot export this network: {message[0] if message else type(error).__name__}"
        ) from error
