"""Tracing a model: read its graph on an example, bring every call into one form, check and classify it."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotConvertible, NotTraceable
from qffs.graph.classify import classify, refusal, write_sites
from qffs.graph.paths import has, refuse_names
from qffs.graph.trace.check import FEW, check, copies, refuse_inputs
from qffs.graph.trace.normalize import hide_constants, normalize
from qffs.graph.trace.tracer import DoesNotRun, Tracer, Unreadable
from qffs.nn.copies import copied
from qffs.nn.inspect import evaluating, refuse_types

Example = Tensor | tuple[Tensor, ...]


def trace(model: nn.Module, example: Example) -> fx.GraphModule:
    """Return the graph of ``model`` in eval mode, with copies of its modules and the same state-dict keys.

    example: a batch, or a tuple with one batch for each input, of the shape and type that the network takes, with the
    images in dimension 0. The record of each node (`qffs.graph.site.Site`) holds the shape of its value on the example
    and its kind. Every call of a ReLU, in any form, becomes a call of an `nn.ReLU` of its own. Functional dropout
    becomes a module, so that it still follows train and eval mode. ``model`` is not changed.

    Raises `NotTraceable` where the model's Python code depends on the data or the graph computes something else than
    the model, `InvalidArgument` where the model cannot run on the example, `NotConvertible` where it has hooks or
    spikes already. All other reasons against a conversion are in the records, so that the plan can list all of them.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    _refuse_wrapped(model)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise InvalidArgument("example must be a tensor, or a tuple of tensors, one for each input of the network")
    refuse_types(model, inputs)
    refuse_inputs(inputs)
    _refuse_hooks(model)
    _refuse_spiking(model)
    model = copied(model)
    training = {path: module.training for path, module in model.named_modules()}
    with evaluating(model), torch.no_grad():
        graph = _symbolic(model, inputs)
        refuse_names(model, graph)
        traced = fx.GraphModule(model, graph)
        _keep_unused(traced, model)
        normalize(traced, model)
        traced.graph.lint()
        traced.recompile()
        traced.eval()
        check(traced, model, inputs)
        write_sites(classify(traced))
        hide_constants(traced, model)
    for path, module in traced.named_modules():
        module.training = training.get(path, model.training)
    return traced


def _refuse_wrapped(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidArgument(f"the model must be a torch.nn.Module, not a {type(model).__name__}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InvalidArgument("the model is wrapped for parallel training: pass model.module")
    if hasattr(model, "_orig_mod"):
        raise InvalidArgument("the model is compiled: pass the network that was given to torch.compile")
    if type(model).__module__.startswith("torch.jit"):
        raise NotTraceable("a TorchScript module cannot be read: pass the network from which it was made")


def _refuse_hooks(model: nn.Module) -> None:
    hooked = [path or "the model" for path, module in model.named_modules() if _has_hooks(module)]
    if hooked:
        raise NotConvertible(
            f"this network cannot be converted: {', '.join(hooked)} ha{'s' if len(hooked) == 1 else 've'} forward "
            "hooks, which a graph cannot hold; remove them first (prune.remove, remove_weight_norm, hook.remove())"
            + _other_refusals(model)
        )


STATEFUL = {
    "norse": {"SNN", "SNNCell", "SNNRecurrent"},
    "sinabs": {"StatefulLayer"},
    "snntorch": {"SpikingNeuron"},
    "spikingjelly": {"BaseNode", "STBIFNode"},
}
"""The base classes of neurons, by library."""


def _refuse_spiking(model: nn.Module) -> None:
    for path, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in STATEFUL.get(kind.__module__.partition(".")[0], ()):
                raise NotConvertible(
                    f"this network spikes already: {path or 'the model'} is a {type(module).__name__} of "
                    f"{kind.__module__.partition('.')[0]}, with a state from step to step; put ReLUs there"
                )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _other_refusals(model: nn.Module) -> str:
    """Return all modules that are refused, as further lines of a message; for errors that come before any plan."""
    refusals = [
        f"\n- besides, {type(module).__name__} at {path}: {reason}"
        for path, module in model.named_modules()
        if (reason := refusal(module))
    ]
    return "".join(refusals)


def _symbolic(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.Graph:
    name, parameters = type(model).__name__, list(inspect.signature(model.forward).parameters.values())
    count = len(inputs)
    if any(p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD} for p in parameters[:count]):
        raise NotTraceable(f"the inputs of {name} must have names: its forward takes any number of them")
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.KEYWORD_ONLY and (p in parameters[:count] or p.default is p.empty) for p in parameters):
        raise InvalidArgument(f"{name} takes {by_name} by name only, where inputs are given by position")
    missing = [p.name for p in parameters[count:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing or len(parameters) < count:
        raise InvalidArgument(f"the example has {count} inputs, but {name} takes {[p.name for p in parameters]}")
    defaults = {p.name: p.default for p in parameters[count:] if p.default is not p.empty}
    try:
        graph = Tracer(copies(inputs, FEW)).trace(model, concrete_args=defaults or None)
    except DoesNotRun as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise InvalidArgument(f"the network does not run on an example of shape {shapes}: {error}") from error
    except Exception as error:
        where = [
            f" (in {f.name}, {Path(f.filename).name}, line {f.lineno}: {f.line})"
            for f in traceback.extract_tb(error.__traceback__)
            if "torch" not in Path(f.filename).parts and Path(__file__).parents[1] not in Path(f.filename).parents
        ][-1:]
        hint = "" if isinstance(error, Unreadable) else "; qffs.register keeps a module or function as one step"
        raise NotTraceable(
            f"{name} cannot be read as a static graph: {error}{''.join(where)}{hint}{_other_refusals(model)}"
        ) from error
    for node in graph.nodes:
        node.type = None  # an annotation that is a string, as under `annotations`, cannot be pickled
    for node in list(graph.find_nodes(op="placeholder"))[count:]:
        _erase(graph, node)  # an input with a default: the default is in the graph now
    alone = fx.Graph()  # a graph without its tracer: unpickling a graph would trace it again
    network = alone.placeholder("self")  # so that no node is called self, which is the network in the source
    alone.output(alone.graph_copy(graph, {}))
    alone.erase_node(network)
    return alone


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node and all nodes that read it: the assertions that an input has its default."""
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def _keep_unused(traced: fx.GraphModule, model: nn.Module) -> None:
    """Add the modules and tensors that the graph never reads, so that every key of the state dict stays."""
    saved = model.state_dict().keys()
    for path, module in model.named_modules(remove_duplicate=False):
        if path and not has(traced, path):
            traced.add_submodule(path, module)
    for path, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        parent, _, name = path.rpartition(".")
        home = traced.get_submodule(parent)
        if path in saved and not hasattr(home, name):
            home.register_parameter(name, tensor) if isinstance(tensor, nn.Parameter) else home.register_buffer(
                name, tensor
            )
