"""Networks of SpikingJelly's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qffs.export.modules.stepping import Again, saving, stepping
from qffs.export.target import Target
from qffs.spiking.network import SpikingNetwork

if TYPE_CHECKING:
    from spikingjelly.activation_based.base import MemoryModule


def spikingjelly(snn: SpikingNetwork) -> MemoryModule:
    """Return a spiking network as a `MemoryModule` of SpikingJelly 2, with the same spikes.

    snn: a network that `qffs.to_spiking` returned, in float32 or float64.

    Returns a `MemoryModule` in eval mode. In step mode "s", one call is one step: it takes the inputs ``[B, ...]`` and
    returns the increment of the read-out at this step, ``[B, ...]``. In step mode "m", it takes and returns
    ``[T, B, ...]``. In the first D steps the input is charged by the schedule of the network. The sum over time is the
    read-out of the `SpikingNetwork`. The layers of neurons keep their names; their potential ``v`` and their count of
    spikes ``sent`` are memories, which monitors can record. ``functional.reset_net`` returns to the state before the
    first step.

    Raises `NotConvertible` with the name of each operator that a module cannot compute step by step, and
    `InvalidArgument` if SpikingJelly is not installed, if ``snn`` is not a spiking network, or if it is in 16 bits.
    """
    SPIKINGJELLY.check(snn)
    from qffs.export.modules.spikingjelly_neurons import Stepping, holding

    module: MemoryModule = Stepping(stepping(snn, holding), Again(spikingjelly, snn)).eval()
    return module


SPIKINGJELLY = Target(
    "spikingjelly",
    "a module of SpikingJelly 2, with the same spikes: torch.load(FILE, weights_only=False)",
    ("snn",),
    saving(spikingjelly),
    extra="spikingjelly",
    modules=("spikingjelly",),
    marks=(b"PK", b"spikingjelly", b"qffs"),
)
