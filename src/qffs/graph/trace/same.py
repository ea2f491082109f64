"""Whether a graph does the same as its model: writes in place, outputs, gradients, and a second call.

Tensors that share memory change together, which a graph does not show.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from qffs.errors import NotTraceable
from qffs.graph.nested import close, same, tensors
from qffs.graph.operators import write_
from qffs.graph.rules import module_at
from qffs.graph.site import line_at, note, site

LARGE_WEIGHT = 2**14
"""The number of elements over which the gradient of a weight is expensive."""

LARGE = 2.0**20
"""The factor of the incoming gradient with which the backward pass must be linear."""

HOOKING = ("register_hook", "register_post_accumulate_grad_hook")
"""The methods that attach code to the gradient of a tensor. retain_grad, which changes no gradient, is none of them."""


class HookWatch(TorchFunctionMode):
    """Watches, in this thread, which code attaches hooks to tensors: ``calls`` holds the methods and the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note its line where it attaches a hook."""
        name, frame = getattr(func, "__name__", ""), sys._getframe(1)
        if name in HOOKING and module_at(frame)[1] is False:
            self.calls.append((name, line_at(frame)))
        return func(*args, **(kwargs or {}))


def compare(
    computed: Any, graph: fx.GraphModule, new: Callable[[], nn.Module], inputs: tuple[Tensor, ...], coarse: float
) -> None:
    """Raise `NotTraceable` where graph and model differ in their outputs or gradients, or the model has a memory.

    computed: the outputs of the graph; new: returns a copy of the model that has not run, with the weights of the
    graph; inputs: the example. The model runs twice, because what its first call keeps in an attribute may decide about
    the second one. Where the model has no gradients, or cannot be differentiated, there is nothing to compare.
    """
    model = new()
    if not same(computed, model(*map(torch.clone, inputs)), coarse):
        _refuse(new, inputs)
    weights, watch = _weights(model, graph, inputs), HookWatch()
    try:
        with watch:
            expected = _Run.of(model, weights, inputs)
    except Exception:  # it does not run with gradients, whatever its code raises; its outputs still count
        expected = _Run(model(*map(torch.clone, inputs)), [], [])
    if not same(computed, expected.outputs, coarse):
        _refuse(new, inputs)
    if watch.calls:
        name, line = watch.calls[0]
        raise NotTraceable(
            f"{type(model).__name__} cannot be read as a static graph: its code calls {name} on a tensor ({line}), "
            "which a graph cannot hold"
        )
    if _trains_more(graph, new, expected, inputs):
        raise NotTraceable(
            f"{type(model).__name__} cannot be read as a static graph: outside of training, its code turns off the "
            "gradients of weights that have some in training (torch.set_grad_enabled); do so in both modes, or in none"
        )
    if any(isinstance(node, BackwardCFunction) for node in _backward_nodes(expected.outputs)):
        from qffs.graph.trace.cause import cause_in_functions  # imported here because few networks need it

        def alike(plain: Network, function: Network, read: tuple[Tensor, ...]) -> bool:
            return _same_gradients(plain, _Run.of(function, [], read), [], read, coarse)

        if cause := cause_in_functions(new(), inputs, alike):
            raise NotTraceable(f"{type(model).__name__} {cause}")
    constants = [value for value in _read(graph) if isinstance(value, Tensor) and not value.is_leaf]
    if constants or not _same_gradients(graph, expected, weights, inputs, coarse):
        from qffs.graph.trace.cause import cause_of_gradients  # imported here because few networks need it

        raise NotTraceable(f"{type(model).__name__} {cause_of_gradients(new(), inputs)}")


def _refuse(new: Callable[[], nn.Module], inputs: tuple[Tensor, ...]) -> NoReturn:
    from qffs.graph.trace.cause import cause_of_outputs  # imported here because few networks need it

    raise NotTraceable(
        f"{type(new()).__name__} cannot be read as a static graph: the graph computes something else than the model: "
        f"{cause_of_outputs(new, inputs)}"
    )


def _weights(model: nn.Module, graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the weights whose gradients are compared: all that the code itself reads, and one of each operator called.

    All weights of one operator read the same gradient, so the smallest one tells as much as all of them; and where an
    input has a gradient, it tells as much as a large weight.
    """
    largest = LARGE_WEIGHT if any(map(_is_smooth, inputs)) else math.inf
    chosen, others = set[Tensor](), set[Tensor]()
    for node in graph.graph.find_nodes(op="call_module"):
        for part in graph.get_submodule(str(node.target)).modules():
            trained = sorted((p for p in part.parameters(recurse=False) if p.requires_grad), key=torch.numel)
            chosen.update(p for p in trained[:1] if p.numel() <= largest)
            others.update(trained)
    chosen.update(_read(graph))
    return [p for p in model.parameters() if p.requires_grad and (p in chosen or p not in others)]


def _read(graph: fx.GraphModule) -> list[Any]:
    """Return the weights and constants that a graph reads itself."""
    return [operator.attrgetter(str(node.target))(graph) for node in graph.graph.find_nodes(op="get_attr")]


Network = Callable[..., Any]
"""A network, or any other function of tensors."""


class _Run(NamedTuple):
    """The outputs of a network with gradients, those of them that have gradients, and what the gradients are for."""

    outputs: Any
    ends: list[Tensor]
    sources: list[Tensor]

    @classmethod
    def of(cls, network: Network, weights: list[Tensor], inputs: tuple[Tensor, ...]) -> _Run:
        """_Run a network on inputs."""
        with torch.enable_grad():
            leaves = [x.clone().requires_grad_(_is_smooth(x)) for x in inputs]
            outputs = network(*map(torch.clone, leaves))
        ends = [y for y in tensors(outputs) if y.requires_grad]
        return cls(outputs, ends, [x for x in leaves if x.requires_grad] + weights)

    def reached(self, weights: list[Tensor]) -> list[bool]:
        """Return for each weight whether it has a gradient."""
        if not self.ends:
            return [False] * len(weights)
        incoming = [torch.zeros_like(y) for y in self.ends]
        return [gradient is not None for gradient in _gradients(self.ends, weights, incoming)]

    def gradients(self, scale: float = 1.0) -> list[Tensor]:
        """Return the gradients of a random sum of the outputs, times ``scale``; zeros where there is none."""
        if not self.ends:
            return [torch.zeros_like(source) for source in self.sources]
        random = torch.Generator().manual_seed(0)
        incoming = [scale * torch.randn(y.shape, generator=random, dtype=torch.float64).to(y) for y in self.ends]
        pairs = zip(self.sources, _gradients(self.ends, self.sources, incoming), strict=True)
        return [torch.zeros_like(source) if gradient is None else gradient for source, gradient in pairs]


def _gradients(ends: list[Tensor], sources: list[Tensor], incoming: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of sources for the gradients that arrive at the ends; None where there is none."""
    # As gradients of sums: given the gradients that arrive, `grad` imports sympy, which takes half a second.
    with torch.enable_grad():
        sums = [(_real(y) * _real(gradient)).sum() for y, gradient in zip(ends, incoming, strict=True)]
    return torch.autograd.grad(sums, sources, retain_graph=True, allow_unused=True)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _trains_more(
    graph: fx.GraphModule, new: Callable[[], nn.Module], evaluated: _Run, inputs: tuple[Tensor, ...]
) -> bool:
    """Return whether weights of a graph that stops gradients have some in training, and none outside of it."""
    if not evaluated.ends or not graph.graph.find_nodes(op="call_method", target="detach"):
        return False
    called = (graph.get_submodule(str(node.target)) for node in graph.graph.find_nodes(op="call_module"))
    weights: list[Tensor] = [weight for module in called for weight in module.parameters() if weight.requires_grad]
    if not weights:
        return False
    try:
        trained = _Run.of(new().train(), weights, inputs)
    except Exception:  # batch norm needs several values, for one
        return False
    pairs = zip(trained.reached(weights), evaluated.reached(weights), strict=True)
    return any(in_training and not outside for in_training, outside in pairs)


def _same_gradients(
    graph: Network, of_model: _Run, weights: list[Tensor], inputs: tuple[Tensor, ...], coarse: float
) -> bool:
    """Return whether graph and model have the same gradients, where the model has some."""
    try:
        expected, large = of_model.gradients(), of_model.gradients(LARGE)
    except Exception:  # the model cannot be differentiated, whatever its backward raises
        return True
    if not of_model.ends or not expected:
        return True
    try:
        computed = _Run.of(graph, weights, inputs).gradients()
    except Exception:  # the model runs, so it differs
        return False
    largest = max((float(x.nan_to_num(0, 0, 0).abs().max()) for x in expected if x.numel()), default=0.0)
    rounding = 10 * largest * max(torch.finfo(x.dtype).eps for x in expected)
    return len(computed) == len(expected) and all(
        close(mine, gradient, coarse, rounding)
        and (not much.isfinite().all() or close(much / LARGE, gradient, coarse, rounding))
        for mine, much, gradient in zip(computed, large, expected, strict=True)
    )


def _is_smooth(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _backward_nodes(outputs: Any) -> Iterator[Any]:
    """Yield the nodes of autograd from which the outputs of a network were computed."""
    seen, waiting = set(), [y.grad_fn for y in tensors(outputs)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(before for before, _ in node.next_functions)


Write = tuple[fx.Node, list[Tensor]]
"""A call, and the tensors that it changed in place."""


def find_aliases(
    graph: fx.Graph, values: Mapping[fx.Node, Any], writes: Sequence[Write], inputs: Sequence[Tensor]
) -> None:
    """Write the ``problem`` of a call that changes an input, or a tensor that is read later under another name.

    values: the value of every node on the example; writes: the calls in place; inputs: the inputs of the network.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for writer, changed in writes:
        # Views of a tensor share its version, so all of them look changed: only the memory of the first argument is.
        changed = [x for x in changed if _overlap([x], values[writer.all_input_nodes[0]])]
        later = [node for node in graph.nodes if order[node] > order[writer]]
        read = {each for node in later for each in node.all_input_nodes if order[each] < order[writer]}
        current = set(names(writer))  # their readers read the tensor after the write
        whole, back = _put_back(writer)
        if back and not any(whole in node.all_input_nodes for node in later if order[node] < order[back]):
            current.add(whole)
        value = writer.args[1] if writer.target is write_ else None
        if isinstance(value, fx.Node) and _put_back(value)[1] is writer:
            current |= {value, *names(value)}
        others = [values[each] for each in read - current]
        if _overlap(changed, inputs):
            note(writer, problem="it writes into an input of the network, in place")
        elif _overlap(changed, others):
            note(writer, problem="it changes a tensor in place that is read later under another name")


def _put_back(writer: fx.Node) -> tuple[Any, fx.Node | None]:
    """Return x, and the node that writes the changed part back into x, for a call that changes ``x[index]``.

    Return None twice for any other call. From that node on, all readers of x read the result of that node.
    """
    part = names(writer)[-1]
    for user in writer.users:
        if part.target is operator.getitem and user.target is write_:
            whole, value, index = user.args
            if (whole, value, index) == (part.args[0], writer, part.args[1]):
                return whole, user
    return None, None


def names(writer: fx.Node) -> list[fx.Node]:
    """Return the nodes whose value a call in place has changed: all earlier names of the tensor, the first one last."""
    nodes = [writer]
    while site(nodes[-1]).in_place and nodes[-1].all_input_nodes:
        nodes.append(nodes[-1].all_input_nodes[0])
    return nodes[1:] or nodes


def _overlap(changed: list[Tensor], value: Any) -> bool:
    """Return whether a tensor of ``value`` shares memory with a changed tensor."""
    pairs = ((x, y) for x in changed for y in tensors(value))
    return any(bool(_shared(x, y).any()) for x, y in pairs)


def _shared(x: Tensor, y: Tensor) -> Tensor:
    """Return for every element of y whether it is an element of x too."""
    if x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr():
        return torch.zeros(1)
    if x.element_size() != y.element_size():
        return torch.ones(1)
    marked = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.bool)
    marked.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
    return marked.as_strided(y.shape, y.stride(), y.storage_offset())
