"""snnTorch's modules with the state of a network; this file is imported only if snnTorch is installed."""

from __future__ import annotations

from typing import Any

from snntorch import SpikingNeuron
from torch import Tensor, fx, nn

from qffs.export.modules.stepping import Again, Fire, Part, State


class Holding(nn.Module):
    """A part with its state; `reset` returns to the state before the first step."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        self.state: State | None = None

    def reset(self) -> None:
        """Forget the state."""
        self.state = None

    def forward(self, *inputs: Any) -> Any:
        """Return the values that the part sends at this step."""
        sent, self.state = self.part.step(self.part.rest(*inputs) if self.state is None else self.state, *inputs)
        return sent


class SignedIF(SpikingNeuron):
    """Signed integrate-and-fire neurons, which fire at ``u >= threshold``, subtract it, and send negative spikes."""

    def __init__(self, part: Fire) -> None:
        super().__init__(threshold=part.neuron.threshold, surrogate_disable=True)
        self.part = part
        self.state: State | None = None

    @property
    def mem(self) -> Tensor | None:
        """The potential u; None before the first step."""
        return None if self.state is None else self.state[0]

    @property
    def sent(self) -> Tensor | None:
        """The count Z of spikes so far, with negative spikes subtracted; None before the first step."""
        return None if self.state is None else self.state[1]

    def reset(self) -> None:
        """Forget the state."""
        self.state = None

    def forward(self, current: Tensor) -> Tensor:
        """Return the spikes of this step, multiplied by the threshold."""
        sent, self.state = self.part.step(self.part.rest(current) if self.state is None else self.state, current)
        return sent


def holding(part: Part) -> nn.Module:
    """Return the module that holds a part and its state."""
    return SignedIF(part) if isinstance(part, Fire) else Holding(part)


class Stepping(nn.Module):
    """A network in which one call is one step."""

    def __init__(self, network: fx.GraphModule, again: Again) -> None:
        super().__init__()
        self.network, self._again = network, again

    def __reduce__(self) -> Any:
        return self._again, (self.state_dict(),)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the increment of the read-out at this step."""
        return self.network(*inputs)

    def reset(self) -> None:
        """Return to the state before the first step."""
        for module in self.network.modules():
            if isinstance(module, Holding | SignedIF):
                module.reset()
