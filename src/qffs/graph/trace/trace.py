"""Tracing a model: read its graph on an example, bring every call into one form, check and classify it."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotConvertible, NotTraceable
from qffs.graph.classify import classify, write_sites
from qffs.graph.operators import DoesNotRun
from qffs.graph.paths import has, refuse_names
from qffs.graph.rules import is_leaf
from qffs.graph.site import site
from qffs.graph.trace.check import FEW, check, copies, refuse_inputs
from qffs.graph.trace.normalize import hide_constants, normalize
from qffs.graph.trace.tracer import Tracer
from qffs.nn.copies import copied
from qffs.nn.inspect import refuse_types, without_autocast

Example = Tensor | tuple[Tensor, ...]


def trace(model: nn.Module, example: Example) -> fx.GraphModule:
    """Return the graph of ``model`` in eval mode, with copies of its modules and the same state-dict keys.

    example: a batch, or a tuple with one batch for each input, of the shape and type that the network takes, with the
    images in dimension 0. The record of each node (`qffs.graph.site.Site`) holds the shape of its value on the example
    and its kind. Every call of a ReLU, in any form, becomes a call of an `nn.ReLU` of its own. Functional dropout
    becomes a module, so that it still follows train and eval mode. ``model`` and torch's random state do not change.

    Raises `NotTraceable` where the model's Python code depends on the data or the graph computes something else than
    the model or has other gradients, `InvalidArgument` where the model cannot run on the example, `NotConvertible`
    where an instance has code that its class has not (hooks, a ``forward`` of its own), or where the network has
    spikes already. All other reasons against a conversion are in the records, so that the plan can list all of them.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    _refuse_wrapped(model)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise InvalidArgument("example must be a tensor, or a tuple of tensors, one for each input of the network")
    refuse_types(model, inputs)
    refuse_inputs(inputs)
    refuse_additions(model)
    _refuse_spiking(model)
    devices = {x.device for x in (*inputs, *model.parameters()) if x.is_cuda}
    with torch.random.fork_rng(devices), torch.inference_mode(False), without_autocast():
        return _trace(model, inputs)


def _trace(original: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    def new() -> nn.Module:
        return copied(original).eval()

    with torch.no_grad():
        model = new()  # it lends the graph its modules; what its code keeps, no other copy sees
        try:
            graph = _symbolic(model, copies(inputs, FEW))
            traced, has_batch_guard = _checked(original, model, graph, inputs)
            if has_batch_guard:
                from qffs.graph.trace.batch_guards import without_batch_guards  # imported here because few need it

                read = without_batch_guards(new, _symbolic, inputs)
                traced = _checked(original, *read, inputs)[0] if read else traced
        except DoesNotRun as error:
            from qffs.graph.trace.failure import failure  # imported here because few networks need it

            raise failure(new, inputs, error) from error
    training = {path: module.training for path, module in original.named_modules()}
    for path, module in traced.named_modules():
        module.training = training.get(path, original.training)
    return traced


def _checked(
    original: nn.Module, model: nn.Module, graph: fx.Graph, inputs: tuple[Tensor, ...]
) -> tuple[fx.GraphModule, bool]:
    """Return the graph of a model in its normal form, checked and classified, and whether a guard is of the batch."""
    refuse_names(model, graph)
    refuse_additions(model)  # by its own code
    recorded = fx.GraphModule(model, _alone(graph))  # the calls as the code makes them
    traced = fx.GraphModule(model, _alone(graph))
    _keep_unused(traced, model)
    normalize(traced, model)
    traced.graph.lint()
    traced.recompile()
    traced.eval()
    in_place = any(site(node).in_place for node in graph.nodes)
    weights = dict(zip(map(id, original.parameters()), model.parameters(), strict=True))
    of_batch = check(traced, traced if in_place else recorded, lambda: copied(original, weights).eval(), inputs)
    write_sites(classify(traced))
    buffers = dict(traced.named_buffers())
    for name, buffer in original.named_buffers():
        if name in buffers:
            buffers[name].copy_(buffer)  # its code may have changed it
    hide_constants(traced, model)
    return traced, of_batch


def _refuse_wrapped(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidArgument(f"the model must be a torch.nn.Module, not a {type(model).__name__}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InvalidArgument("the model is wrapped for parallel training: pass model.module")
    if isinstance(model, torch.optim.swa_utils.AveragedModel):
        raise InvalidArgument("the model is wrapped to average its weights: pass model.module")
    if any(kind.__module__.startswith("torch.export") for kind in type(model).__mro__):
        raise NotTraceable("an exported module cannot be read: pass the network that was given to torch.export")
    for path, module in model.named_modules():
        place = f"the model has {path}, which" if path else "the model"
        if hasattr(module, "_orig_mod"):
            raise InvalidArgument(f"{place} is compiled: pass the network that was given to torch.compile")
        if type(module).__module__.startswith("torch.jit"):
            part = f", {path}," if path else ""
            raise NotTraceable(f"a TorchScript module{part} cannot be read: pass the network from which it was made")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise InvalidArgument(
            f"the model has lazy modules, whose weights have no shape yet ({lazy[0]}): run it once first"
        )


def refuse_additions(network: nn.Module, backward: bool = True) -> None:
    """Raise `NotConvertible` where code was added to a network from outside, which a graph cannot hold.

    This is code that instances have and their classes do not: hooks, and a ``forward`` that was replaced.
    backward: refuse also what changes gradients only.
    """
    modules = [(path or "the model", module) for path, module in network.named_modules()]
    weights = dict(network.named_parameters() if backward else ())
    everywhere = any(vars(nn.modules.module)[name] for name in GLOBAL_HOOKS if backward or "forward" in name)
    hooks = {
        "forward hooks": [path for path, module in modules if module._forward_hooks or module._forward_pre_hooks],
        "backward hooks": [
            path for path, module in modules if backward and (module._backward_hooks or module._backward_pre_hooks)
        ],
        "hooks on the gradient": [
            path for path, weight in weights.items() if weight._backward_hooks or weight._post_accumulate_grad_hooks
        ],
        "hooks for all modules (torch.nn.modules.module)": ["this process"] if everywhere else [],
    }
    replaced = dict[str, list[str]]()
    for path, module in modules:
        for name in _replaced(module):
            replaced.setdefault(name, []).append(path)
    added = {f"a {name} of its own, put on the instance": at for name, at in replaced.items()} | hooks
    have = [f"{', '.join(at)} ha{'s' if len(at) == 1 else 've'} {what}" for what, at in added.items() if at]
    if have:
        from qffs.graph.trace.failure import other_refusals

        advice = [f"delete that {' and that '.join(replaced)}, or write it into the class"] if replaced else []
        if any(hooks.values()):
            advice.append("remove the hooks (hook.remove(), prune.remove), or write what they do into the class")
        raise NotConvertible(
            f"this network cannot be converted: {'; '.join(have)}, which a graph cannot hold; {'; '.join(advice)}"
            + other_refusals(network)
        )


GLOBAL_HOOKS = tuple(f"_global_{each}_hooks" for each in ("forward", "forward_pre", "backward", "backward_pre"))
"""Where torch keeps the hooks that all modules have."""


def _replaced(module: nn.Module) -> list[str]:
    """Return the methods that a module has on the instance and that its call may use: ``forward``, any of an operator.

    A method of the module itself may take the place of ``forward``: it is read like any other code. What every module
    has (``train``, ``state_dict``) and what sets it up has no part in the call, and Python never looks for ``__call__``
    on an instance.
    """
    hidden = [name for name in vars(module) if inspect.isfunction(getattr(type(module), name, None))]
    if is_leaf(module):
        uses = [name for name in hidden if name in CALLING or not (hasattr(nn.Module, name) or name.startswith(SETUP))]
        return [
            name for name in uses if getattr(vars(module)[name], "__func__", None) is not getattr(type(module), name)
        ]
    own = getattr(vars(module).get("forward"), "__self__", None) is module
    return ["forward"] if "forward" in hidden and not own else []


CALLING = ("forward", "_call_impl", "_wrapped_call_impl", "_slow_forward")
"""What every module has and its call uses."""

SETUP = ("reset_", "_reset_", "__")
"""How the names of methods begin that the call of an operator does not use."""


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


def _symbolic(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.Graph:
    _check_inputs(model, len(inputs))
    try:
        graph = Tracer(inputs, _input_names(model, len(inputs))).trace(model)
    except DoesNotRun:
        raise
    except Exception as error:
        from qffs.graph.trace.failure import unreadable

        raise unreadable(model, error) from error
    for node in graph.nodes:
        node.type = None  # an annotation that is a string, as under `annotations`, cannot be pickled
    return graph


def _alone(graph: fx.Graph) -> fx.Graph:
    """Return a copy of a graph without its tracer: unpickling a graph would trace it again."""
    alone = fx.Graph()
    network = alone.placeholder("self")  # so that no node is called self, which is the network in the source
    alone.output(alone.graph_copy(graph, {}))
    alone.erase_node(network)
    return alone


def _check_inputs(model: nn.Module, count: int) -> None:
    """Raise `InvalidArgument` unless the network takes ``count`` inputs by position."""
    name, parameters = type(model).__name__, list(inspect.signature(model.forward).parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    by_name = [p.name for p in needed if p.kind is p.KEYWORD_ONLY]
    if by_name:
        raise InvalidArgument(f"{name} takes {by_name} by name only, where inputs are given by position")
    try:
        inspect.signature(model.forward).bind(*range(count))
    except TypeError as error:
        names = [p.name for p in parameters]
        raise InvalidArgument(f"the example has {count} inputs, but {name} takes {names}") from error


IN_SOURCE = {"self", "torch", "device", "inf", "nan", "NoneType", "pytree", "fx_pytree", "slice", "getattr", "Ellipsis"}
"""Names that the source of a graph reads, which no input may hide."""


def _input_names(model: nn.Module, count: int) -> list[str]:
    """Return the names of the first ``count`` inputs of a network; those of ``*args`` are numbered."""
    names: list[str] = []
    for name, parameter in list(inspect.signature(model.forward).parameters.items()):
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}_{position}" for position in range(count - len(names))]
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            names.append(name)
    own = names[:count]
    return [
        next(new for end in range(count + 1) if (new := f"{name}_{end}") not in own) if name in IN_SOURCE else name
        for name in own
    ]


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
