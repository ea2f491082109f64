"""A network of SpikingJelly's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qffs.export.modules.stepping import Again, saving, stepping
from qffs.export.target import Target
from qffs.spiking.network import SpikingNetwork

if TYPE_CHECKING:
    from spikingjelly.activation_based.base import MemoryModule


def spikingjelly(snn: SpikingNetwork) -> MemoryModule:
    """The network as a `MemoryModule` of SpikingJelly 2: the same spikes, step by step or several steps at once.

    In step mode "s" it takes the inputs ``[B, ...]`` at every step and returns what is read out new at this step; in
    "m" it takes and returns ``[T, B, ...]``. The first D steps charge the input by the network's schedule; the sum over
    time is what `SpikingNetwork.forward` reads out. Its layers of neurons keep their names, and hold their potential
    ``v`` and their count ``sent`` as memories, so that monitors find them; ``functional.reset_net`` begins anew.

    Raises `NotConvertible`, naming each operator that cannot be taken step by step, and `InvalidArgument` where
    SpikingJelly is not installed or this is no spiking network.
    """
    SPIKINGJELLY.check(snn)
    from qffs.export.modules.spikingjelly_neurons import Stepping, holding

    made: MemoryModule = Stepping(stepping(snn, holding), Again(spikingjelly, snn)).eval()
    return made


SPIKINGJELLY = Target(
    "spikingjelly",
    "a module of SpikingJelly 2, with the same spikes: torch.load(FILE, weights_only=False)",
    ("snn",),
    saving(spikingjelly),
    extra="spikingjelly",
    modules=("spikingjelly",),
)
