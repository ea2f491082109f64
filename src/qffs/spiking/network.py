"""The spiking network: a folded graph with neurons, and how it is run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qffs.errors import Diverged, InvalidArgument, QffsError
from qffs.functional.neuron import NeuronState
from qffs.graph import batch_axis
from qffs.graph.classify import classify, write_sites
from qffs.graph.nested import joined
from qffs.graph.serialize import Description, describe, rebuild
from qffs.graph.site import Kind, site, tensor_shape
from qffs.kernels.layer import Fingerprint
from qffs.method import Schedule
from qffs.nn.inspect import empty_like
from qffs.nn.neuron import Neuron
from qffs.spiking import backends
from qffs.spiking.backends import Counter
from qffs.spiking.step_by_step import Observer, State, advance, summed
from qffs.spiking.stream import Stream

T = TypeVar("T")

OWN, EXACT = PRECISIONS = ("own", "exact")
"""What sums are done in: the network's own type, or float64."""

LONGEST = 1024
"""The most steps of a run that goes on until the network has settled."""


class SpikingNetwork(nn.Module):
    """A network of signed integrate-and-fire neurons, converted from a quantized network by `qffs.to_spiking`.

    ``snn(x, steps=T)`` returns what is read out after each step, accumulated up to it, ``[T, B, ...]`` in the
    quantized network's units: the last entry is what the quantized network itself computes, once every neuron has
    settled. No state is kept between calls.
    """

    def __init__(self, graph: fx.GraphModule, schedule: Schedule) -> None:
        super().__init__()
        self.graph = graph
        self.schedule = schedule
        write_sites(classify(graph))
        cut = (n.name for n in graph.graph.nodes if any(rows != 1 for _, rows in batch_axis.places(n)))
        self._cuts = next(cut, None)
        self._exact: tuple[Any, SpikingNetwork] | None = None  # in float64, of the state that it was made of

    def __reduce__(self) -> Any:
        # A pickled graph would forget what its nodes are: it goes as its description, as in a checkpoint.
        return _restore, (describe(self.graph), self.graph.state_dict(), self.schedule)

    def forward(self, *inputs: Tensor, steps: int) -> Any:
        """The accumulated read-out ``[T, B, ...]`` (in the network's own nesting where it has several outputs)."""
        readout, _ = self.run(*inputs, steps=steps)
        return readout

    def readout(
        self,
        *inputs: Tensor,
        steps: int,
        precision: str = OWN,
        backend: str | None = None,
        counter: Counter | None = None,
    ) -> Any:
        """What `forward` returns, all steps at once and faster; many images go through the network some at a time.

        precision: ``"own"``, sums in the network's own type, or ``"exact"``, in float64, where rounding decides nothing
        unless a potential is within 1e-12 or so of the threshold; backend: one of `qffs.spiking.backends.BACKENDS`, by
        default the fastest that there is for this network on this machine; counter: `qffs.spiking.backends.Counter`.
        Raises as `run` does, and `InvalidArgument` where there is no such precision or the back end cannot run this.
        """
        charge = self.schedule.over(steps)
        self.begin(*inputs)
        network, given = self._in(precision, inputs)
        found = backends.chosen(backend, network.graph, steps, network.empty_like)
        return self.refusing(inputs, lambda: backends.run(found, network.graph, given, charge, counter))

    def stream(self) -> Stream:
        """The same network step by step, with a state that comes in and goes out: see `qffs.spiking.stream.Stream`."""
        return Stream(self)

    @property
    def empty_like(self) -> Tensor:
        """An empty tensor of the network's type, on its device."""
        return empty_like(self)

    def _in(self, precision: str, inputs: tuple[Tensor, ...]) -> tuple[SpikingNetwork, tuple[Tensor, ...]]:
        """The network and its inputs, in the type that sums are to be done in."""
        if precision not in PRECISIONS:
            raise InvalidArgument(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if precision == OWN or self.empty_like.dtype == torch.float64:
            return self, inputs
        tensors = [Fingerprint.of(tensor) for tensor in self.state_dict().values()]
        rules = [(neuron.highest, neuron.rule) for _, neuron in self.neurons()]
        if self._exact is None or self._exact[0] != (tensors, rules):
            self._exact = None
            self._exact = (tensors, rules), copy.deepcopy(self).double()
        return self._exact[1], tuple(x.double() if x.is_floating_point() else x for x in inputs)

    def run(
        self,
        *inputs: Tensor,
        steps: int | None,
        chunk: int | None = None,
        observer: Observer | None = None,
        longest: int = LONGEST,
    ) -> tuple[Any, State]:
        """The accumulated read-out ``[T, B, ...]`` and the final state.

        steps: T, at least the schedule's D; None goes on until no neuron fires any more, or for ``longest`` steps;
        chunk: how many steps every layer is advanced by before the next layer (T by default; 1 is step-wise
        simulation and needs the least memory); observer: see `Observer`.
        Raises `InvalidArgument` where T < D or the inputs do not fit, and `Diverged` where the input is not finite.
        """
        charge = self.schedule.over(longest if steps is None else steps)
        if chunk is None:
            chunk = self.schedule.steps if steps is None else len(charge)
        if not isinstance(chunk, int) or chunk < 1:
            raise InvalidArgument(f"chunk must be a whole number of steps, at least 1, not {chunk!r}")
        state = self.begin(*inputs)
        parts = []
        for start in range(0, len(charge), chunk):
            part = charge[start : start + chunk]
            increments, state = self.refusing(inputs, partial(advance, self.graph, state, part, observer))
            parts.append(increments)
            if steps is None and start + chunk >= self.schedule.steps and self.settled(state):
                break
        return summed(joined(parts, 0)), state

    def refusing(self, inputs: tuple[Tensor, ...], simulated: Callable[[], T]) -> T:
        """What a simulation returns; inputs that the network cannot take are refused in a sentence."""
        try:
            return simulated()
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, (QffsError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
                raise
            given = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
            raise InvalidArgument(f"the network does not run on inputs of {given}: {error}") from error

    def begin(self, *inputs: Tensor) -> State:
        """The state before the first step.

        Raises `InvalidArgument` unless there is one tensor an input, all with the same batch in dimension 0, and
        `Diverged` where one holds NaN or infinity.
        """
        expected = len(self.graph.graph.find_nodes(op="placeholder"))
        if len(inputs) != expected or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
            raise InvalidArgument(f"the network takes {expected} tensors with a batch in dimension 0, one an input")
        if len({len(x) for x in inputs}) != 1:
            raise InvalidArgument(f"all inputs must have the same batch, not {[len(x) for x in inputs]}")
        self._check_rows(inputs)
        if not all(map(_finite, inputs)):
            raise Diverged("the input holds NaN or infinity")
        return State(inputs)

    def _check_rows(self, inputs: tuple[Tensor, ...]) -> None:
        """Where an image is cut into rows, how many there are was counted on images of the example's size."""
        for x, node in zip(inputs, self.graph.graph.find_nodes(op="placeholder"), strict=True):
            size = tuple(tensor_shape(node)[1:])
            if self._cuts is not None and tuple(x.shape[1:]) != size:
                raise InvalidArgument(
                    f"this network cuts each image into rows of the batch (at {self._cuts}), as many as images of "
                    f"{size} have, not of {tuple(x.shape[1:])}: quantize it on an example of this size"
                )

    def neurons(self) -> Iterator[tuple[str, Neuron]]:
        """The layers of neurons with their paths, in the order of computation."""
        for node in self.graph.graph.nodes:
            if site(node).kind is Kind.SPIKING:
                neuron = self.graph.get_submodule(node.target)
                assert isinstance(neuron, Neuron)
                yield node.target, neuron

    def settled(self, state: State) -> bool:
        """Whether no neuron would fire any more if no charge came."""
        return all(_settled(neuron, state.neurons[path]) for path, neuron in self.neurons())


def _restore(description: Description, tensors: dict[str, Tensor], schedule: Schedule) -> SpikingNetwork:
    graph = rebuild(description, tensors)
    graph.load_state_dict({name: tensors[name] for name in graph.state_dict()}, assign=True)  # what it calls
    return SpikingNetwork(graph.eval().requires_grad_(False), schedule)


def _finite(x: Tensor) -> bool:
    """Whether a tensor holds neither NaN, which its largest value would be, nor infinity."""
    if not x.numel() or not x.is_floating_point():
        return bool(torch.isfinite(x).all())
    return all(bool(torch.isfinite(each)) for each in x.aminmax())


def _settled(neuron: Neuron, state: NeuronState) -> bool:
    spikes, _ = neuron(state, None, None, charge=(0.0,))
    return not bool(spikes.any())
