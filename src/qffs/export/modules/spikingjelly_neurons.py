"""SpikingJelly's modules that hold what a network carries from step to step; imported only where it is installed."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based.base import MemoryModule
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qffs.export.modules.stepping import Again, Fire, Part
from qffs.graph.nested import joined


class Holding(MemoryModule):
    """A part, with its state as memories. Whatever its step mode, it takes one step a call: see `Stepping`."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        for name in part.names:
            self.register_memory(name, None)

    def forward(self, *inputs: Any) -> Any:
        """What is sent at this step."""
        return self.single_step_forward(*inputs)

    def single_step_functional_forward(
        self, inputs: tuple[Any, ...], states: tuple[Any, ...], **_: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """One step from an explicit state."""
        if all(state is None for state in states):
            states = self.part.rest(*inputs)
        sent, after = self.part.step(states, *inputs)
        return (sent,), after


class SignedIFNode(Holding):
    """Signed integrate-and-fire neurons, with potential ``v`` and count ``sent``."""


def holding(part: Part) -> Holding:
    """The module that holds a part."""
    return SignedIFNode(part) if isinstance(part, Fire) else Holding(part)


class Stepping(MemoryModule):
    """A network that takes one step a call, or in step mode "m" as many as its inputs ``[T, B, ...]`` have."""

    def __init__(self, network: fx.GraphModule, again: Again) -> None:
        super().__init__()
        self.network, self._again = network, again

    def single_step_forward(self, *inputs: Tensor) -> Any:
        """What is read out new at this step."""
        return self.network(*inputs)

    def multi_step_forward(self, *inputs: Tensor) -> Any:
        """What is read out new at each step, ``[T, B, ...]`` in the network's own nesting."""
        return joined(
            [pytree.tree_map(lambda y: y.unsqueeze(0), self.network(*x)) for x in zip(*inputs, strict=True)], 0
        )

    def __reduce__(self) -> Any:
        return self._again, (self.state_dict(),)
