"""A spiking network as a plain module that takes one step a call: what networks of other simulators are made from.

What lies before the first neurons is computed of the input at every step, and charged where it goes on. Behind, an edge
carries at step t what neurons sent and ``charge[t]`` times what comes from the input and the biases, in one tensor. So
linear operators stay as they are, and three parts have a state: charges, neurons, and operators that are neither linear
nor neurons. Each is a `Part`, a pure step that a simulator's own module holds the state of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qffs.errors import InvalidArgument, NotConvertible
from qffs.export.target import Network, Written
from qffs.files import write
from qffs.functional import neuron as fire
from qffs.graph.call import arguments, choosing, label, option, signals
from qffs.graph.paths import free_path
from qffs.graph.rules import name_of
from qffs.graph.site import KEY, Kind, site
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork

State = tuple[Any, ...]


class Part(nn.Module):
    """A part of a network that carries something from step to step; ``names`` says what, in the order of its state."""

    names: tuple[str, ...] = ()

    def rest(self, *inputs: Any) -> State:
        """The state before the first step, for inputs like these."""
        raise NotImplementedError

    def step(self, state: State, *inputs: Any) -> tuple[Any, State]:
        """What is sent at a step, and the state after it."""
        raise NotImplementedError


class Charge(Part):
    """``charge[t] * x``: how much of the input, or of a bias, comes at step t.

    dtype: of what is added up, whatever type it has; otherwise what is no floating-point number comes whole.
    """

    names = ("t",)

    def __init__(self, weights: Sequence[float], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weights, self.dtype = tuple(weights), dtype

    def rest(self, *_: Any) -> State:
        """No step yet."""
        return (0,)

    def step(self, state: State, *inputs: Any) -> tuple[Tensor, State]:
        """The charge of a step."""
        (t,), (x,) = state, inputs
        weight = self.weights[t] if t < len(self.weights) else 0.0
        x = x if self.dtype is None else torch.as_tensor(x, dtype=self.dtype)
        if not x.is_floating_point():  # names of things, a mask: there in full from the first step on
            weight = 1.0 if t == 0 else 0.0
        # Where nothing is charged it is 0, and not 0 times a mask's infinity.
        charged = x if weight == 1.0 else weight * x if weight else torch.zeros_like(x)
        return charged, (t + 1,)


class Fire(Part):
    """The neurons of a layer: see `qffs.functional.neuron.step`. They send spikes times their threshold."""

    names = ("v", "sent")

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def rest(self, *inputs: Any) -> State:
        """The pre-charge."""
        return tuple(self.neuron.rest(torch.zeros_like(inputs[0])))

    def step(self, state: State, *inputs: Any) -> tuple[Tensor, State]:
        """The spikes of a step, in the units of the threshold."""
        if state[0].shape != inputs[0].shape:
            raise InvalidArgument(
                f"this network was called on inputs of another shape before ({list(state[0].shape)} here, now "
                f"{list(inputs[0].shape)}): reset it first"
            )
        threshold = self.neuron.threshold
        before = fire.NeuronState(*(each.to(threshold) for each in state))
        spikes, after = fire.step(before, inputs[0], threshold, self.neuron.highest, self.neuron.rule)
        return spikes * threshold, tuple(after)


class Difference(Part):
    """``g(X_t) - g(X_{t-1})`` of the accumulated inputs X: see `qffs.functional.difference`."""

    names = ("accumulated", "value")

    def __init__(self, operator: nn.Module, count: int) -> None:
        super().__init__()
        self.operator, self.count = operator, count

    def rest(self, *inputs: Any) -> State:
        """Nothing has arrived."""
        return tuple(torch.zeros_like(x) for x in inputs[: self.count]), None

    def step(self, state: State, *inputs: Any) -> tuple[Any, State]:
        """What is new of g."""
        accumulated, before = state
        total = tuple(sum_.to(x) + x for sum_, x in zip(accumulated, inputs[: self.count], strict=True))
        leaves, form = pytree.tree_flatten(self.operator(*total, *inputs[self.count :]))
        present = [leaf for leaf in leaves if leaf is not None]
        before = [torch.zeros_like(leaf) if last is None else last.to(leaf)
                  for leaf, last in zip(present, before or [None] * len(present), strict=True)]  # fmt: skip
        values = [torch.where(leaf.isfinite(), leaf, last) for leaf, last in zip(present, before, strict=True)]
        new = iter([value - last for value, last in zip(values, before, strict=True)])
        return pytree.tree_unflatten([leaf if leaf is None else next(new) for leaf in leaves], form), (total, values)


class Again:
    """Makes a network that is read from a file as it was made: a generated module would be traced anew, and lost."""

    def __init__(self, make: Callable[[SpikingNetwork], nn.Module], snn: SpikingNetwork) -> None:
        self.make, self.snn = make, snn

    def __call__(self, tensors: dict[str, Tensor]) -> nn.Module:
        """The network, with these weights, before its first step."""
        made = self.make(self.snn)
        made.load_state_dict({name: tensors[name] for name in made.state_dict()}, assign=True)  # what it calls
        return made


class Operator(nn.Module):
    """A function, a method or a module with all its arguments but those that are given at each call."""

    def __init__(self, call: Callable[..., Any] | str | nn.Module, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.call, self.args, self.kwargs = call, args, kwargs

    def forward(self, *given: Any) -> Any:
        """Apply it."""
        args, kwargs = fx.node.map_aggregate(
            (self.args, self.kwargs), lambda each: given[each.number] if isinstance(each, _Given) else each
        )
        if isinstance(self.call, str):
            return getattr(args[0], self.call)(*args[1:], **kwargs)
        return self.call(*args, **kwargs)


class _Given:
    """Stands for an argument that is given at each call."""

    def __init__(self, number: int) -> None:
        self.number = number


def saving(make: Callable[[SpikingNetwork], nn.Module]) -> Callable[[Network, Path], Written]:
    """What writes a module of a simulator to a file, by `torch.save`."""

    def save(network: Network, path: Path) -> Written:
        assert isinstance(network, SpikingNetwork)
        module = make(network)
        write(path, partial(_save, module))
        return Written(path, "snn")

    return save


def _save(module: nn.Module, path: Path) -> None:
    with path.open("wb") as stream:  # to a path that cannot be written PyTorch raises no OSError
        torch.save(module, stream)


def stepping(snn: SpikingNetwork, hold: Callable[[Part], nn.Module]) -> fx.GraphModule:
    """The network as a module that takes its inputs at every step and returns what is read out new at this step.

    hold: makes a module of a simulator of a part. Neurons keep their paths. Raises `NotConvertible` where an operator
    is none that can be taken step by step so, with the name of each, and `InvalidArgument` on a network in 16 bits,
    where sums would be rounded otherwise than in `SpikingNetwork`.
    """
    if snn.empty_like.dtype not in {torch.float32, torch.float64}:
        raise InvalidArgument(f"a network in {snn.empty_like.dtype} would send other spikes: give snn.float()")
    network = copy.deepcopy(snn.graph)
    refused = [
        f"{node.name} ({label(node, network)}): {why}" for node in network.graph.nodes if (why := _refusal(node))
    ]
    if refused:
        raise NotConvertible("these cannot be taken step by step by a module:\n" + "\n".join(refused))
    for node in list(network.graph.nodes):
        if site(node).analog and site(node).kind is not Kind.OUTPUT:
            continue
        for value in dict.fromkeys(_charged(node)):
            constant = snn.empty_like.dtype if not site(value).signal else None
            _charge(network, value, node, hold(Charge(snn.schedule.weights, constant)))
        if site(node).kind is Kind.SPIKING:
            path = str(node.target)
            neuron = network.get_submodule(path)
            assert isinstance(neuron, Neuron)
            network.set_submodule(path, hold(Fire(neuron)))
        elif site(node).kind is Kind.DIFFERENCED:
            _difference(network, node, hold)
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()
    return network.eval().requires_grad_(False)


def _refusal(node: fx.Node) -> str | None:
    """Why a node cannot be taken step by step; None where it can."""
    chooses = [each for each in choosing(node) if isinstance(each, fx.Node)]
    if not site(node).analog and any(arguments(node).count(each) > chooses.count(each) for each in chooses):
        return "it joins what decides where its operands go"
    return None


def _charged(node: fx.Node) -> list[fx.Node]:
    """What comes to a node behind the first neurons, or to the output, from before them or as a bias."""
    chooses = choosing(node)  # these are there at every step
    constant = _operands(node) if site(node).kind in {Kind.SUM, Kind.JOIN} else []
    return [read for read in node.all_input_nodes if read not in chooses and
            (site(read).analog if site(read).signal else read in constant)]  # fmt: skip


def _operands(node: fx.Node) -> list[Any]:
    """What a sum adds up, or a join joins, without its options: a dimension, a factor."""
    match name_of(node):
        case "where":
            return list(node.args[1:])
        case "write":
            return list(node.args[:2])
        case _ if site(node).kind is Kind.SUM:
            return [*node.args[:2], node.kwargs.get("input"), node.kwargs.get("other")]
    return list(option(node, 0, "tensors"))


def _charge(network: fx.GraphModule, value: fx.Node, reader: fx.Node, held: nn.Module) -> None:
    """Let what a node reads of another be charged."""
    path = free_path(network, f"{value.name}_charge")
    network.add_submodule(path, held)
    with network.graph.inserting_after(value):
        charged = network.graph.call_module(path, (value,))
    record = site(value)
    charged.meta[KEY] = replace(record, kind=record.kind if record.signal else Kind.LINEAR, analog=False)
    reader.replace_input_with(value, charged)


def _difference(network: fx.GraphModule, node: fx.Node, hold: Callable[[Part], nn.Module]) -> None:
    """Replace a call by one of a difference, its signals first, then what else changes from call to call."""
    read = list(dict.fromkeys(signals(node)))
    others = [each for each in node.all_input_nodes if each not in read]
    given: dict[fx.Node, Any] = {each: _Given(number) for number, each in enumerate((*read, *others))}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
    call = network.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    path = str(node.target) if node.op == "call_module" else free_path(network, node.name)
    if node.op == "call_module" and sum(n.target == node.target for n in network.graph.nodes) > 1:
        path = free_path(network, node.name)  # each call has a state of its own
    part = hold(Difference(Operator(call, args, kwargs), len(read)))
    if path == node.target:
        network.set_submodule(path, part)
    else:
        network.add_submodule(path, part)
    with network.graph.inserting_before(node):
        new = network.graph.call_module(path, tuple(given))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    network.graph.erase_node(node)
