"""Simulation by what has accumulated: the walk of `qffs.spiking.step_by_step` for a whole run at once, made to be fast.

An edge carries, instead of what neurons sent step by step, the sum of it up to each step, so that most operators see
what the quantized network's own see. An image whose neurons send nothing at a step has the same sums as before, which
are not computed again: `SparseSteps` hold each once. A layer of neurons is one pass over all steps
(`qffs.kernels.neuron`), which takes in what is before it as it is: the operands of a sum, and levels that go through
synapses, of which it looks at nothing but what changes.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from qffs.functional import max_pool as reference_pool
from qffs.functional.difference import held
from qffs.functional.neuron import NeuronState
from qffs.functional.sparse_steps import SparseSteps, align
from qffs.graph import batch_axis
from qffs.graph.call import choosing, name_of, option, signals
from qffs.graph.nested import Nested, nested, tensors
from qffs.graph.site import Kind, site, tensor_shape
from qffs.kernels import neuron as kernel
from qffs.kernels.cpu import max_pool
from qffs.kernels.cpu import neuron as native
from qffs.kernels.cpu.queue import Pending, Queue
from qffs.kernels.layer import DIMENSIONS, Neurons, Projection, Signal, computed
from qffs.nn.neuron import Neuron
from qffs.spiking.operands import CONSTANT, INCREMENTS, Operands, broadcasts_to, call, wide
from qffs.spiking.step_by_step import State
from qffs.spiking.walk import Edge, walk

MOVES = frozenset(
    (
        "chunk",
        "flatten",
        "getitem",
        "narrow",
        "pad",
        "permute",
        "reshape",
        "select",
        "squeeze",
        "transpose",
        "unflatten",
    )
)
"""Linear operators that move what they get; of `pad`, which has its value as a sum of its own, zeros come in."""

Arriving: TypeAlias = Any
"""What has accumulated: a `Signal`, a list of signals to be added up, or signals in the nesting of a value."""

Observer = Callable[[str, SparseSteps], None]
"""Called after each layer of neurons with its path and its levels."""


@torch.no_grad()
def accumulated(
    network: fx.GraphModule,
    state: State,
    charge: Sequence[float],
    observer: Observer | None = None,
    compiled: bool = True,
) -> Any:
    """What is read out up to each step of a run from its first state, ``[T, B, ...]``, in the network's own nesting.

    state: of neurons that have sent nothing yet; compiled: whether what a CPU has compiled functions for may be theirs.
    """
    return walk(network, state.inputs, Accumulated(network, state, charge, observer, compiled))


def covers(network: fx.GraphModule) -> bool:
    """Whether every signal has its images in dimension 0, one row each.

    Where a value holds several signals, as that of a split does, they must be taken out of it one by one.
    """
    signals_ = (node for node in network.graph.nodes if site(node).signal and node.op != "output")
    return all(
        set(batch_axis.places(node)) == {(0, 1)} and (not _several(node) or all(map(_takes_one, node.users)))
        for node in signals_
    )


def compiles(network: fx.GraphModule, steps: int) -> bool:
    """Whether every layer's levels fit into a byte and change by one at most, as the compiled function has them."""
    return steps <= native.LONGEST and not any(m.rule.multi_spike for m in network.modules() if isinstance(m, Neuron))


class Accumulated:
    """The policy of the fast simulation: what increments are elsewhere is here accumulated over time."""

    def __init__(
        self,
        network: fx.GraphModule,
        state: State,
        charge: Sequence[float],
        observer: Observer | None = None,
        compiled: bool = True,
    ) -> None:
        self.network, self.state, self.charge = network, state, tuple(charge)
        self.observer, self.compiled = observer, compiled
        self.steps, self.images = len(self.charge), len(state.inputs[0])
        self.charged = tuple(itertools.accumulate(self.charge))
        self.queue = Queue()
        self.values: dict[fx.Node, Edge[Arriving]] = {}

    def _operands(self, gathered: Mapping[fx.Node, Tensor], rows: int | None = None) -> Operands:
        """What nodes read, with these tensors as the increments of signals: a row of each where any differs."""

        def read(node: fx.Node) -> Edge[Nested]:
            constant, increments = self.values[node]
            return Edge(constant, gathered.get(node) if site(node).signal else increments)

        rows = len(next(iter(gathered.values()), ())) if rows is None else rows
        return Operands(self.network, read, self.images, self.steps, rows)

    def _constant(self, node: fx.Node, operands: Operands) -> Nested:
        """The constant part of a linear operator."""
        plain = name_of(node) == "add" and len(node.args) == 2 and not node.kwargs
        total = self._sum_of_constants(node, operands) if plain else None
        return operands.linear(node, CONSTANT) if total is None else total

    def _sum_of_constants(self, node: fx.Node, operands: Operands) -> Tensor | None:
        """The constant part of a sum of two, where it takes no memory of its own; None where it does.

        If one operand alone has any, it is that, a bias, say, for those who add it up. A bias is added in place to what
        a layer made of the input, if nobody else reads that.
        """
        one, other = node.args
        a, b = (self.values[n].constant if isinstance(n, fx.Node) else n for n in node.args)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            fits = a.dtype == b.dtype and broadcasts_to(b.shape, a.shape)
            return a.add_(b) if fits and self._is_spent(one) else None
        absent, there = (one, b) if a is None else (other, a)
        added_up = all(site(user).kind in {Kind.SPIKING, Kind.SUM} for user in node.users)
        zeros = operands.zeros_of(absent, CONSTANT) if added_up and isinstance(absent, fx.Node) else None
        if zeros is None or not isinstance(there, Tensor) or zeros.dtype != there.dtype:
            return None
        total: Tensor = torch.broadcast_tensors(there, zeros)[0]
        return total

    def _is_spent(self, node: Any) -> bool:
        """Whether a node's value is a tensor of its own that nobody reads but one."""
        if not isinstance(node, fx.Node) or node.op != "call_module" or not site(node).signal:
            return False
        module = self.network.get_submodule(str(node.target))
        return type(module) in DIMENSIONS and len(node.users) == 1 and not module._forward_hooks

    # --- the kinds of node ------------------------------------------------------------------------------------------

    def plain(self, node: fx.Node) -> Edge[Arriving]:
        """Return shapes, say, which are those of all steps: who reads them does it for all steps."""
        rows = self.steps * self.images
        received = {n: self.values[n].increments for n in node.all_input_nodes if site(n).signal}
        gathered = {
            n: signal.empty_like.new_zeros(1).expand(rows, *signal.empty_like.shape[1:])
            for n, signal in received.items()
            if signal is not None
        }
        return self._operands(gathered, rows).plain(node)

    def linear(self, node: fx.Node) -> Edge[Arriving]:
        """Return what a linear operator makes of sums, or what neurons may add up instead of it."""
        read = list(dict.fromkeys(signals(node)))
        if any(map(_several, read)):
            taken = operator.itemgetter(node.args[1])
            return Edge(*(None if part is None else taken(part) for part in self.values[read[0]]))
        present = {n: self.values[n].increments for n in read if self.values[n].increments is not None}
        parts = self._parts(node, present) if present and _for_neurons_alone(node) else None
        if parts is not None:
            shapes = {n: _listed(signal)[0].empty_like for n, signal in present.items()}
            return Edge(self._constant(node, self._operands(shapes)), parts)
        present = {n: computed(signal) for n, signal in present.items()}
        if self._only_moves(node, present):
            return self._moved(node, *present.values())
        gathered, index = self._gather(present, dense=_shaped(node) or bool(choosing(node)))
        operands = self._operands(gathered)
        constant, value = self._constant(node, operands), operands.linear(node, INCREMENTS)
        return Edge(constant, None if value is None else _held(value, index))

    def _only_moves(self, node: fx.Node, present: Mapping[fx.Node, SparseSteps]) -> bool:
        """Whether a node does nothing with levels but move them and put zeros between."""
        if name_of(node) not in MOVES or list(present) != node.all_input_nodes:
            return False
        if name_of(node) == "pad" and (option(node, 2, "mode", "constant") != "constant" or option(node, 3, "value")):
            return False
        return all(map(_of_levels, present.values()))

    def _moved(self, node: fx.Node, signal: SparseSteps) -> Edge[Arriving]:
        used = signal.used()
        operands = self._operands({node.all_input_nodes[0]: used.values})
        constant, moved = self._constant(node, operands), operands.linear(node, INCREMENTS)
        return Edge(constant, _held(moved, used.index, used.scale))

    def _parts(self, node: fx.Node, present: dict[fx.Node, Any]) -> list[Signal] | None:
        """What a layer of neurons may add up instead of this node: the operands of a sum, the source of synapses."""
        if site(node).kind is Kind.SUM:
            return [part for rows in present.values() for part in _listed(rows)]
        if len(present) > 1:
            return None
        (rows,) = present.values()
        module = self.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        found = Projection.of(rows, module) if module is not None and self.compiled and _of_levels(rows) else None
        return None if found is None else [found]

    def _gather(self, present: Mapping[fx.Node, SparseSteps], dense: bool) -> tuple[dict[fx.Node, Tensor], Tensor]:
        """The operands of a node at the rows where any of them differs, or at all rows, and the index of these."""
        parts = list(present.values())
        if dense:
            parts = [SparseSteps.of(rows.dense(), self.steps) for rows in parts]
        values, index = align(parts) if parts else ([], torch.empty(0))
        return dict(zip(present, values, strict=True)), index

    def spiking(self, node: fx.Node) -> Edge[Arriving]:
        """Return the levels of a layer of neurons after each step."""
        path = str(node.target)
        neuron = self.network.get_submodule(path)
        assert isinstance(neuron, Neuron)
        (read,) = signals(node)
        constant, received = self.values[read]
        inputs = [] if received is None else _listed(received)
        if constant is not None and not (inputs and len(constant) == 1):
            constant = batch_axis.whole(constant, read, self.images)
        if path in self.state.neurons:
            inputs = [
                *inputs,
                self._begun(neuron, self.state.neurons[path], inputs[0].empty_like if inputs else constant),
            ]
        layer = Neurons(inputs, constant, self.charge, neuron.threshold, neuron.highest, neuron.rule)
        sent = kernel.enqueue(self.queue, layer, self.compiled)
        if self.observer is not None:
            self.observer(path, computed(sent))
        return Edge(None, sent)

    def _begun(self, neuron: Neuron, state: NeuronState, like: Tensor) -> SparseSteps:
        """What a potential is above that at rest, as if it had arrived before the first step."""
        above = (state.potential - neuron.rest(state.potential).potential).to(neuron.threshold.dtype)
        above = above * neuron.rule.decay
        above = above.expand(self.images, *like.shape[1:])
        return SparseSteps(above, torch.arange(self.images, device=above.device).expand(self.steps, -1))

    def differenced(self, node: fx.Node) -> Edge[Arriving]:
        """Return ``g(X_t)``: what has accumulated is all that g needs to know."""
        read = list(dict.fromkeys(signals(node)))
        if all(self.values[n].increments is None for n in read):
            given = {n: batch_axis.whole(self.values[n].constant, n, self.images) for n in read}
            return Edge(call(self.network, node, lambda n: given[n] if n in given else self.values[n][0]), None)
        pooled = self._pooled(node, *read) if len(read) == 1 else None
        if pooled is not None:
            return Edge(None, pooled)
        arrived = [(n, rows) for n in read for rows in self._sums(n)]
        if _shaped(node):
            arrived = [(n, SparseSteps.of(rows.dense(), self.steps)) for n, rows in arrived]
        values, index = align([rows for _, rows in arrived])
        totals: dict[fx.Node, Tensor] = {}
        for (n, _), value in zip(arrived, values, strict=True):
            totals[n] = totals[n] + value if n in totals else value
        value = call(self.network, node, lambda n: totals[n] if n in totals else self.values[n][1])
        if all(bool(each.isfinite().all()) for each in tensors(value)):
            return Edge(None, _held(value, index))
        # A quotient is not finite before its divisor has arrived.
        dense = (SparseSteps(each, index).dense().unflatten(0, (self.steps, -1)) for each in tensors(value))
        last = (SparseSteps.of(held(torch.zeros_like(each[0]), each).flatten(0, 1), self.steps) for each in dense)
        return Edge(None, nested(value, last))

    def _pooled(self, node: fx.Node, read: fx.Node) -> SparseSteps | Pending | None:
        """The largest levels of each window, where a node pools levels and nothing else."""
        constant, rows = self.values[read]
        module = self.network.get_submodule(str(node.target)) if node.op == "call_module" else None
        window = reference_pool.window(module) if module is not None else None
        if (
            constant is not None
            or window is None
            or not _of_levels(rows)
            or rows.empty_like.dim() != 2 + len(window[0])
        ):
            return None
        if self.compiled and max_pool.available(rows):
            return max_pool.max_pool(self.queue, rows, *window)
        kept = computed(rows).used()
        return SparseSteps(reference_pool.max_pool(kept.values, *window), kept.index, kept.scale)

    def _sums(self, node: fx.Node) -> list[SparseSteps]:
        """What has arrived at a signal up to each step, as parts to be added up."""
        constant, received = self.values[node]
        parts = [] if received is None else [computed(received)]
        if constant is not None:
            parts.append(self._charged(batch_axis.whole(constant, node, self.images)))
        return parts

    def _charged(self, constant: Tensor) -> SparseSteps:
        """A constant as the schedule brings it; whole numbers, names of things, are there from the first step on."""
        known = not (constant.is_floating_point() or constant.is_complex())
        last = 1 if known else next(t for t, weight in enumerate(self.charged, 1) if not any(self.charge[t:]))
        # Where nothing has been charged it is 0, and not 0 times a mask's infinity.
        parts = [weight * constant if weight else torch.zeros_like(constant) for weight in self.charged[:last]]
        values = constant if known else torch.cat(parts)
        step = torch.arange(self.steps, device=constant.device).clamp_max(last - 1)
        image = torch.arange(self.images, device=constant.device)
        return SparseSteps(values, step[:, None] * self.images + image)

    def read_out(self, node: fx.Node) -> Tensor:
        """Return what has arrived at an output up to each step, ``[T, B, ...]``."""
        values, index = align(self._sums(node))
        total = wide(values[0])
        for value in values[1:]:
            total = total + value
        return total[index]


def _for_neurons_alone(node: fx.Node) -> bool:
    """Whether a node is read by a layer of neurons alone, at once or through sums that broadcast nothing."""
    if site(node).kind is Kind.SUM and not _adds_plainly(node):
        return False
    if len(node.users) != 1:
        return False
    (user,) = node.users
    return site(user).kind is Kind.SPIKING or (site(user).kind is Kind.SUM and _for_neurons_alone(user))


def _adds_plainly(node: fx.Node) -> bool:
    """Whether a sum is one of different signals, of its own shape, and perhaps a constant."""
    read = signals(node)
    alike = all(tensor_shape(n)[1:] == tensor_shape(node)[1:] for n in read)
    return name_of(node) == "add" and not node.kwargs and len(set(read)) == len(read) and alike


def _of_levels(value: Any) -> bool:
    """Whether a signal is levels of one threshold."""
    rows = value.unfilled if isinstance(value, Pending) else value
    return isinstance(rows, SparseSteps) and rows.scale is not None and rows.scale.dim() == 0


def _shaped(node: fx.Node) -> bool:
    """Whether a node reads what was computed for all steps, a shape, say."""
    return any(n.op != "get_attr" and not site(n).signal for n in node.all_input_nodes)


def _held(value: Nested, index: Tensor, scale: Tensor | None = None) -> Any:
    """A tensor, or those of any nesting, as `SparseSteps` of one place."""
    return nested(value, [SparseSteps(each, index, scale) for each in tensors(value)])


def _several(node: fx.Node) -> bool:
    """Whether the value of a signal holds several."""
    return batch_axis.places(node) != [site(node).batch]


def _takes_one(node: fx.Node) -> bool:
    """Whether a node takes one value out of several."""
    return node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[1], int)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
