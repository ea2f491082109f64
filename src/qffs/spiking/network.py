"""The spiking network: a folded graph with neurons, and how it is run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from qffs.errors import CheckpointError, InvalidArgument
from qffs.functional.neuron import NeuronState
from qffs.graph.classify import classify, write_sites
from qffs.graph.nested import Nested, joined, mapped
from qffs.graph.rebuild import fill, rebuild
from qffs.graph.serialize import Description, describe, tensors_of
from qffs.graph.site import Kind
from qffs.kernels.layer import Fingerprint
from qffs.method import Schedule
from qffs.nn.inspect import empty_like, without_autocast
from qffs.nn.neuron import Neuron
from qffs.spiking import backends
from qffs.spiking.backends import Counter
from qffs.spiking.inputs import check_inputs, explain_failure, refuse_gradients
from qffs.spiking.operations import operations
from qffs.spiking.step_by_step import Observer, State, accumulate, advance
from qffs.spiking.stream import Stream

OWN, EXACT = PRECISIONS = ("own", "exact")
"""What sums are done in: the network's own type, or float64."""

LONGEST = 1024
"""The most steps of a run that goes on until the network has settled."""


class Start(Protocol):
    """How the neurons of a network begin, where that is not at rest."""

    def states(
        self, network: SpikingNetwork, inputs: tuple[Tensor, ...], observer: Observer | None
    ) -> dict[str, NeuronState]:
        """Return, by layer, the state before the first step; the observer sees what is simulated to find it."""


class SpikingNetwork(nn.Module):
    """A network of signed integrate-and-fire neurons, converted from a quantized network by `qffs.to_spiking`.

    ``snn(x, steps=T)`` returns what is read out after each step, accumulated up to it, ``[T, B, ...]`` in the
    quantized network's units: the last entry is what the quantized network itself computes, once every neuron has
    settled. ``snn(x)`` runs until that is so. No state is kept between calls.

    graph: folded, with neurons; schedule: how the input and the biases are charged; start: how neurons begin, by
    default at rest.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(16, 4)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x]).eval()
    >>> snn = qffs.to_spiking(qann)
    >>> snn(x, steps=8).shape
    torch.Size([8, 16, 2])
    >>> torch.allclose(snn(x)[-1], qann(x), atol=1e-5)
    True
    """

    def __init__(self, graph: fx.GraphModule, schedule: Schedule, start: Start | None = None) -> None:
        super().__init__()
        self.graph, self.schedule, self.start = graph, schedule, start
        write_sites(classify(graph))
        self.operations = operations(graph)
        self._exact: tuple[Any, SpikingNetwork] | None = None  # in float64, of the state that it was made of

    def __deepcopy__(self, memo: dict[int, Any]) -> SpikingNetwork:
        """Return a copy, which returns its outputs in the same classes; a file cannot hold classes."""
        self._refuse_start()
        memo[id(self)] = result = SpikingNetwork(copy.deepcopy(self.graph, memo), self.schedule)
        return result

    def _refuse_start(self) -> None:
        if self.start is not None:
            raise CheckpointError(f"a network that starts by {type(self.start).__name__} cannot be saved or copied")

    def __reduce__(self) -> Any:
        self._refuse_start()
        # A pickled graph would forget what its nodes are: it goes as its description, as in a checkpoint.
        return _restore, (describe(self.graph), tensors_of(self.graph), self.schedule)

    @without_autocast()
    def forward(
        self,
        *inputs: Tensor,
        steps: int | None = None,
        precision: str = OWN,
        backend: str | None = None,
        counter: Counter | None = None,
    ) -> Nested:
        """Return the accumulated read-out ``[T, B, ...]``, in the network's own nesting where it has several outputs.

        inputs: one tensor ``[B, ...]`` for each input; many images go through the network some at a time. steps: T, at
        least the schedule's D; None runs until the network has settled, for at most `LONGEST` steps, and T is the last
        step at which a neuron fired. precision: ``"own"``, sums in the network's own type, or ``"exact"``, in float64,
        where rounding decides nothing unless a potential is within 1e-12 or so of the threshold. backend: one of
        `qffs.spiking.backends.BACKENDS`, by default the fastest for this network on this machine; all give the same
        spikes but for rounding. counter: see `qffs.spiking.backends.Counter`.

        Raises `InvalidArgument` where T < D, the inputs do not fit, gradients are asked for, there is no such precision
        or the back end cannot run this network; `Diverged` where the input is not finite.
        """
        if steps is None:
            return self._until_settled(*inputs, precision=precision, backend=backend, counter=counter)
        charge = self.schedule.over(steps)
        check_inputs(self.operations, inputs)
        refuse_gradients(self, inputs)
        network, cast = self._in_precision(precision, inputs)
        chosen = backends.choose(backend, network.operations, steps, network.empty_like)

        def begin(some: tuple[Tensor, ...]) -> State:
            return network._started(State(some), backends.in_first_step(counter, steps))

        return explain_failure(
            self.operations, inputs, lambda: backends.run(chosen, network.operations, cast, charge, counter, begin)
        )

    def stream(self) -> Stream:
        """Return a `qffs.spiking.stream.Stream`: the network step by step, with a state that comes in and goes out."""
        return Stream(self.operations, self.schedule, self.initial_state)

    @property
    def empty_like(self) -> Tensor:
        """An empty tensor of the network's type, on its device."""
        threshold = next((neuron.threshold for _, neuron in self.neurons()), None)
        return empty_like(self) if threshold is None else threshold.new_empty(0)

    @without_autocast()
    def run(
        self,
        *inputs: Tensor,
        steps: int | None,
        chunk: int | None = None,
        observer: Observer | None = None,
        longest: int = LONGEST,
    ) -> tuple[Nested, State]:
        """Run the reference simulation: return the accumulated read-out ``[T, B, ...]`` and the final state.

        steps: T, at least the schedule's D; None goes on until no neuron fires any more, or for ``longest`` steps;
        chunk: how many steps every layer is advanced by before the next layer (T by default; 1 is step-wise
        simulation and needs the least memory); observer: called after each layer with its path, its spikes
        ``[T, B, ...]`` and its state (`qffs.spiking.step_by_step.Observer`). The state that is returned is a
        `qffs.spiking.step_by_step.State`: ``state.neurons[path].potential`` and ``.sent`` are ``[B, ...]``.
        Raises `InvalidArgument` where T < D or the inputs do not fit, and `Diverged` where the input is not finite.
        """
        charge = self.schedule.over(longest if steps is None else steps)
        if chunk is None:
            chunk = self.schedule.steps if steps is None else len(charge)
        if not isinstance(chunk, int) or chunk < 1:
            raise InvalidArgument(f"chunk must be a whole number of steps, at least 1, not {chunk!r}")
        state = self.initial_state(*inputs)
        parts = []
        for start in range(0, len(charge), chunk):
            part = charge[start : start + chunk]
            increments, state = explain_failure(
                self.operations, inputs, partial(advance, self.operations, state, part, observer)
            )
            parts.append(increments)
            if steps is None and start + chunk >= self.schedule.steps and self.settled(state):
                break
        return accumulate(joined(parts, 0)), state

    def initial_state(self, *inputs: Tensor) -> State:
        """Return the state before the first step; raises as `run` does where the inputs do not fit."""
        check_inputs(self.operations, inputs)
        return self._started(State(inputs), None)

    def neurons(self) -> Iterator[tuple[str, Neuron]]:
        """Yield the layers of neurons with their paths, in the order of computation."""
        for node, operation in self.operations.of.items():
            if operation.kind is Kind.SPIKING:
                path = str(node.target)
                neuron = self.graph.get_submodule(path)
                assert isinstance(neuron, Neuron)
                yield path, neuron

    def settled(self, state: State) -> bool:
        """Return whether no neuron would fire any more if no charge came."""
        return all(_settled(neuron, state.neurons[path]) for path, neuron in self.neurons())

    def _started(self, state: State, observer: Observer | None) -> State:
        if self.start is not None:
            state.neurons.update(self.start.states(self, state.inputs, observer))
        return state

    def _until_settled(self, *inputs: Tensor, counter: Counter | None, **options: Any) -> Nested:
        """Run for more and more steps, until a step after D is silent: nothing arrives at a later one, then."""
        steps = self.schedule.usual_steps
        while True:
            activity = backends.Activity(steps)
            readout = self(*inputs, steps=steps, counter=activity.count, **options)
            last = max(activity.last, self.schedule.steps)
            if last < steps or steps >= LONGEST:
                break
            steps = min(2 * steps, max(LONGEST, self.schedule.steps))
        if counter is not None:
            return self(*inputs, steps=last, counter=counter, **options)
        return mapped(readout, lambda leaf: leaf[:last])

    def _in_precision(self, precision: str, inputs: tuple[Tensor, ...]) -> tuple[SpikingNetwork, tuple[Tensor, ...]]:
        """The network and its inputs, in the type that sums are to be done in."""
        if precision not in PRECISIONS:
            raise InvalidArgument(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if precision == OWN or self.empty_like.dtype == torch.float64:
            return self, inputs
        if self.start is not None:
            name = type(self.start).__name__
            raise InvalidArgument(f"a network that starts by {name} is run in its own precision, not {precision!r}")
        tensors = [Fingerprint.of(tensor) for tensor in self.state_dict().values()]
        rules = [(neuron.highest, neuron.rule) for _, neuron in self.neurons()]
        if self._exact is None or self._exact[0] != (tensors, rules):
            self._exact = None
            self._exact = (tensors, rules), copy.deepcopy(self).double()
        return self._exact[1], tuple(x.double() if x.is_floating_point() else x for x in inputs)


def _restore(description: Description, tensors: dict[str, Tensor], schedule: Schedule) -> SpikingNetwork:
    graph = rebuild(description, tensors)
    fill(graph, tensors)
    return SpikingNetwork(graph.eval().requires_grad_(False), schedule)


def _settled(neuron: Neuron, state: NeuronState) -> bool:
    spikes, _ = neuron(state, None, None, charge=(0.0,))
    return not bool(spikes.any())
