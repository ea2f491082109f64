"""snnTorch's modules that hold what a network carries from step to step; imported only where it is installed."""

from __future__ import annotations

from typing import Any

from snntorch import SpikingNeuron
from torch import Tensor, fx, nn

from qffs.export.modules.stepping import Again, Fire, Part, State


class Holding(nn.Module):
    """A part and its state; `reset` begins anew."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        self.state: State | None = None

    def reset(self) -> None:
        """Forget the state."""
        self.state = None

    def forward(self, *inputs: Any) -> Any:
        """What is sent at this step."""
        sent, self.state = self.part.step(self.part.rest(*inputs) if self.state is None else self.state, *inputs)
        return sent


class SignedIF(SpikingNeuron):
    """Signed integrate-and-fire neurons: they fire at ``u >= threshold``, subtract at once, and take spikes back."""

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
        """The spikes sent so far, on balance; None before the first step."""
        return None if self.state is None else self.state[1]

    def reset(self) -> None:
        """Forget the state."""
        self.state = None

    def forward(self, current: Tensor) -> Tensor:
        """The spikes of this step, times the threshold."""
        sent, self.state = self.part.step(self.part.rest(current) if self.state is None else self.state, current)
        return sent


def holding(part: Part) -> nn.Module:
    """The module that holds a part."""
    return SignedIF(part) if isinstance(part, Fire) else Holding(part)


class Stepping(nn.Module):
    """A network that takes one step a call."""

    def __init__(self, network: fx.GraphModule, again: Again) -> None:
        super().__init__()
        self.network, self._again = network, again

    def __reduce__(self) -> Any:
        return self._again, (self.state_dict(),)

    def forward(self, *inputs: Tensor) -> Any:
        """What is read out new at this step."""
        return self.network(*inputs)

    def reset(self) -> None:
        """Begin anew."""
        for module in self.network.modules():
            if isinstance(module, Holding | SignedIF):
                module.reset()
