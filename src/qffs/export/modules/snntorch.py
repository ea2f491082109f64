"""Networks with snnTorch's neurons."""

from __future__ import annotations

from torch import nn

from qffs.export.modules.stepping import Again, saving, stepping
from qffs.export.target import Target
from qffs.spiking.network import SpikingNetwork


def snntorch(snn: SpikingNetwork) -> nn.Module:
    """Return a spiking network as a module whose neurons are snnTorch's `SpikingNeuron`, with the same spikes.

    snn: a network that `qffs.to_spiking` returned, in float32 or float64.

    Returns an `nn.Module` in eval mode. One call is one step: it takes the inputs ``[B, ...]`` and returns the
    increment of the read-out at this step, ``[B, ...]``. So snnTorch's usual loop runs it: ``net.reset()``, then
    ``sum(net(x) for _ in range(num_steps))``. In the first D steps the input is charged by the schedule of the network.
    The layers of neurons keep their names; ``mem`` is their potential and ``sent`` their count of spikes.
    ``net.reset()`` returns to the state before the first step; `snntorch.utils.reset` does not, because it knows only
    snnTorch's own neurons.

    Raises `NotConvertible` with the name of each operator that a module cannot compute step by step, and
    `InvalidArgument` if snnTorch is not installed, if ``snn`` is not a spiking network, or if it is in 16 bits.
    """
    SNNTORCH.check(snn)
    from qffs.export.modules.snntorch_neurons import Stepping, holding

    return Stepping(stepping(snn, holding), Again(snntorch, snn)).eval()


SNNTORCH = Target(
    "snntorch",
    "a module with snnTorch's SpikingNeuron, with the same spikes: torch.load(FILE, weights_only=False)",
    ("snn",),
    saving(snntorch),
    extra="snntorch",
    modules=("snntorch",),
    marks=(b"PK", b"snntorch", b"qffs"),
)
