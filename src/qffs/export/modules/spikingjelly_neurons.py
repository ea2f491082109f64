"""SpikingJelly's modules with the state of a network; this file is imported only if SpikingJelly is installed."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based.base import MemoryModule
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qffs.export.modules.stepping import Again, Fire, Part
from qffs.graph.nested import joined


class Holding(MemoryModule):
    """A part with its state as memories. One call is one step in both step modes, because `Stepping` has the loop."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        for name in part.names:
            self.register_memory(name, None)

    def forward(self, *inputs: Any) -> Any:
        """Return the values that the part sends at this step."""
        return self.single_step_forward(*inputs)

    def single_step_functional_forward(
        self, inputs: tuple[Any, ...], states: tuple[Any, ...], **_: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the values that the part sends at one step from an explicit state, and the state after it."""
        if all(state is None for state in states):
            states = self.part.rest(*inputs)
        sent, after = self.part.step(states, *inputs)
        return (sent,), after


class SignedIFNode(Holding):
    """Signed integrate-and-fire neurons, with potential ``v`` and count ``sent``."""


def holding(part: Part) -> Holding:
    """Return the module that holds a part and its state."""
    return SignedIFNode(part) if isinstance(part, Fire) else Holding(part)


class Stepping(MemoryModule):
    """A network in which one call is one step, or in step mode "m" the T steps of its inputs ``[T, B, ...]``."""

    def __init__(self, network: fx.GraphModule, again: Again) -> None:
        super().__init__()
        self.network, self._again = network, again

    def single_step_forward(self, *inputs: Tensor) -> Any:
        """Return the increment of the read-out at this step."""
        return self.network(*inputs)

    def multi_step_forward(self, *inputs: Tensor) -> Any:
        """Return the increments of the read-out at each step, ``[T, B, ...]``, nested like the network's output."""
        return joined(
            [pytree.tree_map(lambda y: y.unsqueeze(0), self.network(*x)) for x in zip(*inputs, strict=True)], 0
        )

    def __reduce__(self) -> Any:
        return self._again, (self.state_dict(),)
