"""The description of a graph as plain data, as checkpoints hold it; `qffs.graph.rebuild` builds the graph again.

The data name only operators of the table in `qffs.graph.rules`.
"""

from __future__ import annotations

import builtins
import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import CheckpointError
from qffs.graph.call import assembles, plain_form
from qffs.graph.rules import ADDRESSES, METHODS, MODULES, SHAPES, TURNED, address
from qffs.graph.site import Kind, site
from qffs.nn.neuron import Neuron

DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
"""The types of numbers by the names that checkpoints have for them."""

MEMORY_FORMATS = {
    str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.memory_format)
}

Description = dict[str, Any]
"""Lists, dictionaries, numbers and strings that describe a graph."""

READ = SHAPES + TURNED
"""The attributes that a graph may read; every tensor has them."""


def describe(network: fx.GraphModule) -> Description:
    """Return the modules, constants and nodes of a graph as lists, dictionaries, numbers and strings.

    The weights are not part of it: they are in the state dict of the network. Raises `CheckpointError` where the graph
    holds an operator or a value that the table of rules does not name.
    """
    called = {str(node.target): network.get_submodule(node.target) for node in network.graph.nodes
              if node.op == "call_module"}  # fmt: skip
    constants = dict.fromkeys(str(node.target) for node in network.graph.nodes if node.op == "get_attr")
    parameters, saved = dict(network.named_parameters(remove_duplicate=False)), network.state_dict().keys()
    return {
        "modules": {path: {"type": _type_name(module), **_options(module)} for path, module in called.items()},
        "parameters": [path for path in constants if path in parameters],  # other constants are buffers
        "hidden": [path for path in constants if path not in saved],  # buffers that the state dict leaves out
        "nodes": [_node(node) for node in network.graph.nodes if not assembles(node)],
    }


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network, and the buffers that it leaves out."""
    return {**dict(network.named_buffers(remove_duplicate=False)), **network.state_dict()}


def _type_name(module: nn.Module) -> str:
    if type(module) not in MODULES or MODULES[type(module)].kind is Kind.REFUSED:
        raise CheckpointError(f"a {type(module).__name__} cannot be saved: there is no rule for it")
    return module_name(type(module))


def module_name(kind: type[nn.Module]) -> str:
    """Return the name of a class of modules in a description."""
    return kind.__name__ if kind.__module__.startswith(("torch.nn.", "qffs.nn.")) else address(kind)


def _options(module: nn.Module) -> Description:
    """Return the arguments that build a module like this one."""
    names = option_names(type(module))
    if isinstance(module, Neuron):
        values = _of_neuron(module)
    elif isinstance(module, nn.MultiheadAttention):
        values = {name: getattr(module, name) for name in names if hasattr(module, name)}
        values.update(bias=module.in_proj_bias, add_bias_kv=module.bias_k is not None)
    else:
        values = {name: _attribute(module, name) for name in names}
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.bias is not None) == module.affine:
        values.pop("bias", None)  # the default; only newer versions of PyTorch know this option
    elif "bias" in values:
        values["bias"] = values["bias"] is not None
    return {name: _encode(value) for name, value in values.items()}


def _attribute(module: nn.Module, name: str) -> Any:
    if not hasattr(module, name):
        raise CheckpointError(
            f"a {type(module).__name__} cannot be saved: it does not keep its option {name!r} as an attribute"
        )
    return getattr(module, name)


_WITHOUT_ATTRIBUTE = {"device", "dtype", "min_value", "max_value"}
"""The options that modules do not keep as attributes; the last two are older names of other options."""


NEURON = ("highest", "precharge", "negative_spikes", "cap", "shape", "to_zero", "several", "leak")
"""The options of a neuron by the names that files have for them since format 1."""


def _of_neuron(neuron: Neuron) -> Description:
    """Return the options of a neuron by their names in files."""
    rule = neuron.rule
    values = (neuron.highest, rule.precharge, rule.negative_spikes, rule.cap, neuron.shape)
    return dict(zip(NEURON, (*values, rule.reset == "zero", rule.multi_spike, rule.decay), strict=True))


def option_names(kind: type[nn.Module]) -> list[str]:
    """Return the names of the options that a description holds of a class of modules."""
    if kind is Neuron:
        return list(NEURON)
    parameters = inspect.signature(kind).parameters.values()
    any_number = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}  # Identity ignores them
    named = (p for p in parameters if p.kind not in any_number and not p.name.startswith("_"))
    return [p.name for p in named if p.name not in _WITHOUT_ATTRIBUTE]


def _node(node: fx.Node) -> Description:
    return {
        "name": node.name,
        "op": node.op,
        "target": _target_name(node),
        "args": _encode(list(node.args)),
        "kwargs": {key: _encode(value) for key, value in node.kwargs.items()},
        "shape": _encode(site(node).shape),
        "batch": _encode(site(node).batch),
    }


def _target_name(node: fx.Node) -> str:
    addresses = [name for name, function in ADDRESSES.items() if function is node.target]
    if node.op == "call_function" and addresses:
        check_attribute(node)
        return addresses[0]
    if node.op == "call_function" or (node.op == "call_method" and node.target not in METHODS):
        name = getattr(node.target, "__name__", node.target)
        raise CheckpointError(f"the operator {name} at {node.name} cannot be saved: there is no rule for it")
    return str(node.target)


def check_attribute(node: fx.Node) -> None:
    """Raise `CheckpointError` on a ``getattr`` of any attribute but those of `READ`.

    Through other attributes, a file could reach any object of Python.
    """
    if node.target is getattr and (len(node.args) != 2 or node.kwargs or node.args[1] not in READ):
        raise CheckpointError(f"{node.name} reads another attribute than {', '.join(READ)}, which no checkpoint may")


def _encode(value: Any) -> Any:
    match value:
        case fx.Node() if assembles(value):  # a file cannot name its class: it is read as a plain tuple or dictionary
            return _encode(plain_form(value))
        case fx.Node():
            return {"node": value.name}
        case tuple():
            return {"tuple": [_encode(each) for each in value]}
        case list():
            return [_encode(each) for each in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": {key: _encode(each) for key, each in value.items()}}
        case slice():
            return {"slice": [_encode(each) for each in (value.start, value.stop, value.step)]}
        case builtins.Ellipsis:
            return {"ellipsis": True}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise CheckpointError(f"an operator's argument {value!r} cannot be saved")
