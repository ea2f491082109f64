"""A network with snnTorch's neurons."""

from __future__ import annotations

from torch import nn

from qffs.export.modules.stepping import Again, saving, stepping
from qffs.export.target import Target
from qffs.spiking.network import SpikingNetwork


def snntorch(snn: SpikingNetwork) -> nn.Module:
    """The network as a module whose neurons are snnTorch `SpikingNeuron`, with the same spikes.

    It takes the inputs ``[B, ...]`` at every step and returns what is read out new at this step, so that snnTorch's
    usual loop runs it: ``net.reset()``, then ``sum(net(x) for _ in range(num_steps))``. The first D steps charge the
    input by the network's schedule. Its layers of neurons keep their names, and hold their potential ``mem`` and their
    count ``sent``. ``net.reset()`` begins anew; `snntorch.utils.reset` knows only snnTorch's own neurons and does not.

    Raises `NotConvertible`, naming each operator that cannot be taken step by step, and `InvalidArgument` where
    snnTorch is not installed or this is no spiking network.
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
)
