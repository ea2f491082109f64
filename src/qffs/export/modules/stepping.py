"""A spiking network as a plain module in which one call is one step, from which networks of other libraries are built.

The operators before the first neurons are computed from the input at every step, and their result is charged. After the
first neurons, each edge carries one tensor at step t: the spikes of neurons, plus ``charge[t]`` times the part that
comes from the input and the biases. So linear operators stay as they are. Three parts have a state: charges, neurons,
and operators that are neither linear nor neurons. Each is a `Part`, a pure function of one step; a module of the other
library holds its state.
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
from qffs.files import put, write
from qffs.functional import neuron as fire
from qffs.graph.call import arguments, choosing, label, option, signals
from qffs.graph.paths import free_path
from qffs.graph.rules import name_of
from qffs.graph.site import KEY, Kind, site
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork

State = tuple[Any, ...]


class Part(nn.Module):
    """A part of a network that has a state between steps; ``names`` are the names of the values of its state."""

    names: tuple[str, ...] = ()

    def rest(self, *inputs: Any) -> State:
        """Return the state before the first step, for inputs of these shapes and types."""
        raise NotImplementedError

    def step(self, state: State, *inputs: Any) -> tuple[Any, State]:
        """Return the values that the part sends at a step, and the state after the step."""
        raise NotImplementedError


class Charge(Part):
    """The charge ``charge[t] * x`` of an input or a bias x at step t.

    weights: the charge weights of the first D steps. dtype: the type to which x is converted before. With None, x keeps
    its type, and an x that is not floating-point is charged completely at the first step.
    """

    names = ("t",)

    def __init__(self, weights: Sequence[float], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weights, self.dtype = tuple(weights), dtype

    def rest(self, *_: Any) -> State:
        """Return the number of the first step, 0."""
        return (0,)

    def step(self, state: State, *inputs: Any) -> tuple[Tensor, State]:
        """Return the charge at a step, and the number of the next step."""
        (t,), (x,) = state, inputs
        weight = self.weights[t] if t < len(self.weights) else 0.0
        x = x if self.dtype is None else torch.as_tensor(x, dtype=self.dtype)
        if not x.is_floating_point():  # such as indices or a mask: complete from the first step on
            weight = 1.0 if t == 0 else 0.0
        # Zeros instead of a product with 0, because a mask may contain infinity.
        charged = x if weight == 1.0 else weight * x if weight else torch.zeros_like(x)
        return charged, (t + 1,)


class Fire(Part):
    """The neurons of a layer, see `qffs.functional.neuron.step`. They send spikes multiplied by their threshold."""

    names = ("v", "sent")

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def rest(self, *inputs: Any) -> State:
        """Return the pre-charge and a count of 0 for each neuron."""
        return tuple(self.neuron.rest(torch.zeros_like(inputs[0])))

    def step(self, state: State, *inputs: Any) -> tuple[Tensor, State]:
        """Return the spikes of a step, multiplied by the threshold, and the state after the step.

        Raises `InvalidArgument` if the shape of the inputs is not that of the state.
        """
        if state[0].shape != inputs[0].shape:
            raise InvalidArgument(
                f"this network received inputs of another shape before ({list(state[0].shape)} here, now "
                f"{list(inputs[0].shape)}): reset it first"
            )
        threshold = self.neuron.threshold
        before = fire.NeuronState(*(each.to(threshold) for each in state))
        spikes, after = fire.step(before, inputs[0], threshold, self.neuron.highest, self.neuron.rule)
        return spikes * threshold, tuple(after)


class Difference(Part):
    """The difference ``g(X_t) - g(X_{t-1})`` of the accumulated inputs X, see `qffs.functional.difference`.

    operator: g. count: the number of inputs that are accumulated; the other inputs are passed on as they are.
    """

    names = ("accumulated", "value")

    def __init__(self, operator: nn.Module, count: int) -> None:
        super().__init__()
        self.operator, self.count = operator, count

    def rest(self, *inputs: Any) -> State:
        """Return zeros for the accumulated inputs, and None for the value of g."""
        return tuple(torch.zeros_like(x) for x in inputs[: self.count]), None

    def step(self, state: State, *inputs: Any) -> tuple[Any, State]:
        """Return the difference of g at this step, and the state after the step."""
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
    """A function that builds the network again when it is read from a file.

    Without it, PyTorch would pickle the source of the graph module and trace it again, which fails here.
    """

    def __init__(self, make: Callable[[SpikingNetwork], nn.Module], snn: SpikingNetwork) -> None:
        self.make, self.snn = make, snn

    def __call__(self, tensors: dict[str, Tensor]) -> nn.Module:
        """Return the network with these weights, in the state before the first step."""
        module = self.make(self.snn)
        module.load_state_dict(
            {name: tensors[name] for name in module.state_dict()}, assign=True
        )  # only those that it uses
        return module


class Operator(nn.Module):
    """A function, method or module with its constant arguments; the other arguments are passed at each call."""

    def __init__(self, call: Callable[..., Any] | str | nn.Module, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.call, self.args, self.kwargs = call, args, kwargs

    def forward(self, *inputs: Any) -> Any:
        """Return the result for these arguments."""
        args, kwargs = fx.node.map_aggregate(
            (self.args, self.kwargs), lambda each: inputs[each.number] if isinstance(each, _Placeholder) else each
        )
        if isinstance(self.call, str):
            return getattr(args[0], self.call)(*args[1:], **kwargs)
        return self.call(*args, **kwargs)


class _Placeholder:
    """A placeholder for the argument with an index at each call."""

    def __init__(self, number: int) -> None:
        self.number = number


def saving(make: Callable[[SpikingNetwork], nn.Module]) -> Callable[[Network, Path], Written]:
    """Return a function that builds a module of another library and writes it to a file by `torch.save`."""

    def save(network: Network, path: Path) -> Written:
        assert isinstance(network, SpikingNetwork)
        module = make(network)
        write(path, partial(put, save=partial(torch.save, module)))
        return Written(path, "snn")

    return save


def stepping(snn: SpikingNetwork, hold: Callable[[Part], nn.Module]) -> fx.GraphModule:
    """Return the network as a module that takes its inputs at every step and returns the increment of the read-out.

    hold: returns a module of another library that holds a part and its state. Neurons keep their paths. Raises
    `NotConvertible` with the name of each operator that cannot be computed step by step in this way, and
    `InvalidArgument` on a network in 16 bits, because its sums would be rounded differently from `SpikingNetwork`.
    """
    if snn.empty_like.dtype not in {torch.float32, torch.float64}:
        raise InvalidArgument(f"a network in {snn.empty_like.dtype} would send other spikes: give snn.float()")
    network = copy.deepcopy(snn.graph)
    reasons = [
        f"{node.name} ({label(node, network)}): {why}" for node in network.graph.nodes if (why := _refusal(node))
    ]
    if reasons:
        raise NotConvertible("these cannot be taken step by step by a module:\n" + "\n".join(reasons))
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
    """Return why a node cannot be computed step by step; None if it can."""
    chooses = [each for each in choosing(node) if isinstance(each, fx.Node)]
    if not site(node).analog and any(arguments(node).count(each) > chooses.count(each) for each in chooses):
        return "it joins a signal that also selects its operands"
    return None


def _charged(node: fx.Node) -> list[fx.Node]:
    """Return the operands that must be charged for a node after the first neurons, or for the output.

    They are biases, and signals from before the first neurons.
    """
    chooses = choosing(node)  # these are complete at every step
    constant = _operands(node) if site(node).kind in {Kind.SUM, Kind.JOIN} else []
    return [read for read in node.all_input_nodes if read not in chooses and
            (site(read).analog if site(read).signal else read in constant)]  # fmt: skip


def _operands(node: fx.Node) -> list[Any]:
    """Return the operands of a sum or a join, without options such as a dimension or a factor."""
    match name_of(node):
        case "where":
            return list(node.args[1:])
        case "write":
            return list(node.args[:2])
        case _ if site(node).kind is Kind.SUM:
            return [*node.args[:2], node.kwargs.get("input"), node.kwargs.get("other")]
    return list(option(node, 0, "tensors"))


def _charge(network: fx.GraphModule, value: fx.Node, reader: fx.Node, charge: nn.Module) -> None:
    """Insert a charge between a node and the reader of its value."""
    path = free_path(network, f"{value.name}_charge")
    network.add_submodule(path, charge)
    with network.graph.inserting_after(value):
        charged = network.graph.call_module(path, (value,))
    record = site(value)
    charged.meta[KEY] = replace(record, kind=record.kind if record.signal else Kind.LINEAR, analog=False)
    reader.replace_input_with(value, charged)


def _difference(network: fx.GraphModule, node: fx.Node, hold: Callable[[Part], nn.Module]) -> None:
    """Replace a node by a `Difference`, whose arguments are its signals, then its other variable arguments."""
    read = list(dict.fromkeys(signals(node)))
    others = [each for each in node.all_input_nodes if each not in read]
    placeholders: dict[fx.Node, Any] = {each: _Placeholder(number) for number, each in enumerate((*read, *others))}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), placeholders.__getitem__)
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
        new = network.graph.call_module(path, tuple(placeholders))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    network.graph.erase_node(node)
