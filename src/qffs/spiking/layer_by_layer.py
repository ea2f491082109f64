"""The fast simulation: every layer of neurons is computed for all steps at once, on sums over time.

An edge carries, instead of the increments of every step, their sums up to each step, so that most operators see what
the same operators of the quantized network see. An image whose neurons send nothing at a step has the same sums as at
the step before; they are not computed again, since `SparseSteps` hold them once. A layer of neurons is one pass over
all steps (`qffs.kernels.neuron`). It adds up the operands of a sum and the weights of what spikes itself, and looks at
changes alone.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from qffs.functional import max_pool as reference_pool
from qffs.functional.difference import last_finite
from qffs.functional.neuron import NeuronState
from qffs.functional.sparse_steps import SparseSteps, align
from qffs.graph.nested import Nested, nested, tensors
from qffs.graph.site import Kind
from qffs.kernels import neuron as kernel
from qffs.kernels.cpu import max_pool
from qffs.kernels.cpu.queue import Pending, Queue
from qffs.kernels.layer import Neurons, Projection, Signal, computed
from qffs.nn.neuron import Neuron
from qffs.spiking.operands import INCREMENTS, Operands, call, whole, wide
from qffs.spiking.operations import Operations
from qffs.spiking.walk import Edge, walk

Arriving: TypeAlias = Any
"""Sums over time: a `Signal`, a list of signals to be added up, or signals in the nesting of a value."""

Observer = Callable[[str, SparseSteps], None]
"""Called after each layer of neurons with its path and its levels."""


@torch.no_grad()
def accumulated(
    operations: Operations,
    inputs: tuple[Tensor, ...],
    charge: Sequence[float],
    observer: Observer | None = None,
    compiled: bool = True,
    start: Mapping[str, NeuronState] | None = None,
) -> Nested:
    """Return what is read out up to each step of a whole run, ``[T, B, ...]``, in the network's own nesting.

    inputs: ``[B, ...]``; charge: the T weights of the schedule; compiled: whether the compiled functions of a CPU may
    be used; start: by the path of a layer, the state before the first step of neurons that have sent nothing yet, where
    they are not at rest.
    """
    return walk(operations, inputs, Accumulated(operations, inputs, charge, observer, compiled, start))


class Accumulated:
    """The policy of the fast simulation: edges carry sums over time in the place of increments."""

    def __init__(
        self,
        operations: Operations,
        inputs: tuple[Tensor, ...],
        charge: Sequence[float],
        observer: Observer | None = None,
        compiled: bool = True,
        start: Mapping[str, NeuronState] | None = None,
    ) -> None:
        self.operations, self.of, self.network = operations, operations.of, operations.network
        self.charge, self.start = tuple(charge), start or {}
        self.observer, self.compiled = observer, compiled
        self.steps, self.images = len(self.charge), len(inputs[0])
        self.charged = tuple(itertools.accumulate(self.charge))
        self.queue = Queue()
        self.values: dict[fx.Node, Edge[Arriving]] = {}

    def _operands(self, gathered: Mapping[fx.Node, Tensor], rows: int | None = None) -> Operands:
        """Return the operands of nodes, with these tensors as the increments: one row where any of them differs."""

        def read(node: fx.Node) -> Edge[Nested]:
            constant, increments = self.values[node]
            return Edge(constant, gathered.get(node) if self.of[node].signal else increments)

        rows = len(next(iter(gathered.values()), ())) if rows is None else rows
        return Operands(self.operations, read, self.images, self.steps, rows)

    # --- the kinds of node ------------------------------------------------------------------------------------------

    def plain(self, node: fx.Node) -> Edge[Arriving]:
        """Return the value of what is no signal; a shape is that of all steps together, and is used for all of them."""
        rows = self.steps * self.images
        arriving = {n: self.values[n].increments for n in self.of[node].sources}
        gathered = {
            n: signal.empty_like.new_zeros(1).expand(rows, *signal.empty_like.shape[1:])
            for n, signal in arriving.items()
            if signal is not None
        }
        return self._operands(gathered, rows).plain(node)

    def linear(self, node: fx.Node) -> Edge[Arriving]:
        """Return what a linear operator makes of sums, or the parts that neurons add up in its place."""
        operation = self.of[node]
        read = operation.sources
        if operation.takes_item:
            item = operator.itemgetter(node.args[1])
            return Edge(*(None if part is None else item(part) for part in self.values[read[0]]))
        present = {n: self.values[n].increments for n in read if self.values[n].increments is not None}
        parts = self._parts(node, present) if present and operation.for_neurons_alone else None
        if parts is not None:
            shapes = {n: _listed(signal)[0].empty_like for n, signal in present.items()}
            return Edge(self._operands(shapes).constant(node), parts)
        present = {n: computed(signal) for n, signal in present.items()}
        if operation.only_moves and present and all(map(_of_levels, present.values())):
            return self._moved(node, *present.values())
        gathered, index = self._gather(present, dense=operation.reads_shape or bool(operation.selects))
        operands = self._operands(gathered)
        constant, value = operands.constant(node), operands.linear(node, INCREMENTS)
        return Edge(constant, None if value is None else _held(value, index))

    def _moved(self, node: fx.Node, signal: SparseSteps) -> Edge[Arriving]:
        used = signal.used()
        operands = self._operands({node.all_input_nodes[0]: used.values})
        constant, moved = operands.constant(node), operands.linear(node, INCREMENTS)
        return Edge(constant, _held(moved, used.index, used.scale))

    def _parts(self, node: fx.Node, present: dict[fx.Node, Any]) -> list[Signal] | None:
        """Return the parts that neurons add up in the place of a node: operands of a sum, the source of synapses."""
        if self.of[node].kind is Kind.SUM:
            return [part for rows in present.values() for part in _listed(rows)]
        if len(present) > 1 or node.op != "call_module" or not self.compiled:
            return None
        (rows,) = present.values()
        module = self.network.get_submodule(str(node.target))
        projection = Projection.of(rows, module) if _of_levels(rows) else None
        return None if projection is None else [projection]

    def _gather(self, present: Mapping[fx.Node, SparseSteps], dense: bool) -> tuple[dict[fx.Node, Tensor], Tensor]:
        """Return the operands at the rows where any of them differs, or at all rows, and the index of these rows."""
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
        (read,) = self.of[node].reads
        constant, arriving = self.values[read]
        inputs = [] if arriving is None else _listed(arriving)
        if constant is not None and not (inputs and len(constant) == 1):
            constant = whole(constant, self.of[read], self.images)
        if path in self.start:
            like = inputs[0].empty_like if inputs else constant
            inputs = [*inputs, self._above_rest(neuron, self.start[path], like)]
        layer = Neurons(inputs, constant, self.charge, neuron.threshold, neuron.highest, neuron.rule)
        sent = kernel.enqueue(self.queue, layer, self.compiled)
        if self.observer is not None:
            self.observer(path, computed(sent))
        return Edge(None, sent)

    def _above_rest(self, neuron: Neuron, state: NeuronState, like: Tensor) -> SparseSteps:
        """Return by how much potentials lie above those at rest, as if that had arrived before the first step."""
        above = (state.potential - neuron.rest(state.potential).potential).to(neuron.threshold.dtype)
        above = above * neuron.rule.decay
        above = above.expand(self.images, *like.shape[1:])
        return SparseSteps(above, torch.arange(self.images, device=above.device).expand(self.steps, -1))

    def differenced(self, node: fx.Node) -> Edge[Arriving]:
        """Return ``g(X_t)``: the sums X_t are all that g needs."""
        read = self.of[node].sources
        if all(self.values[n].increments is None for n in read):
            constants = {n: whole(self.values[n].constant, self.of[n], self.images) for n in read}
            return Edge(call(self.network, node, lambda n: constants[n] if n in constants else self.values[n][0]), None)
        pooled = self._pooled(node, *read) if len(read) == 1 else None
        if pooled is not None:
            return Edge(None, pooled)
        arrived = [(n, rows) for n in read for rows in self._sums(n)]
        if self.of[node].reads_shape:
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
        last = (SparseSteps.of(last_finite(torch.zeros_like(x[0]), x).flatten(0, 1), self.steps) for x in dense)
        return Edge(None, nested(value, last))

    def _pooled(self, node: fx.Node, read: fx.Node) -> SparseSteps | Pending | None:
        """Return the largest level of each window; None where a node pools anything else than levels."""
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
        """Return what has arrived at a signal up to each step, as parts to be added up."""
        constant, arriving = self.values[node]
        parts = [] if arriving is None else [computed(arriving)]
        if constant is not None:
            parts.append(self._charged(whole(constant, self.of[node], self.images)))
        return parts

    def _charged(self, constant: Tensor) -> SparseSteps:
        """Return a constant as the schedule charges it; whole numbers (tokens, masks) are there from step 1 on."""
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


def _of_levels(value: Any) -> bool:
    """Return whether a signal holds levels of one threshold."""
    rows = value.unfilled if isinstance(value, Pending) else value
    return isinstance(rows, SparseSteps) and rows.scale is not None and rows.scale.dim() == 0


def _held(value: Nested, index: Tensor, scale: Tensor | None = None) -> Any:
    """Return a tensor, or each tensor of a nested value, as `SparseSteps` of one index."""
    if isinstance(value, Tensor):
        return SparseSteps(value, index, scale)
    return nested(value, [SparseSteps(each, index, scale) for each in tensors(value)])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
