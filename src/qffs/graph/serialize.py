"""A graph as plain data and back. Checkpoints hold such data, so that loading runs no code of the file.

The data can name only operators of the table in `qffs.graph.rules`. Every name is checked, because `torch.fx` writes
names into the source code of the module that it builds.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qffs.errors import CheckpointError
from qffs.graph.rules import ADDRESSES, METHODS, MODULES, SHAPES, TURNED, address
from qffs.graph.site import Kind, note, site
from qffs.method import FiringRule
from qffs.nn.neuron import Neuron

_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")

DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
"""The types of numbers by the names that checkpoints have for them."""

MEMORY_FORMATS = {
    str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.memory_format)
}

Description = dict[str, Any]

ROWS = {"tuple": [0, 1]}
"""The batch axis that older files leave out: images in dimension 0, one row per image."""

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
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {
        "modules": {path: {"type": _type_name(module), **_options(module)} for path, module in called.items()},
        "parameters": [path for path in constants if path in parameters],  # other constants are buffers
        "nodes": [_node(node) for node in network.graph.nodes],
    }


def _type_name(module: nn.Module) -> str:
    if type(module) not in MODULES or MODULES[type(module)].kind is Kind.REFUSED:
        raise CheckpointError(f"a {type(module).__name__} cannot be saved: there is no rule for it")
    return _module_name(type(module))


def _module_name(kind: type[nn.Module]) -> str:
    return kind.__name__ if kind.__module__.startswith(("torch.nn.", "qffs.nn.")) else address(kind)


def _options(module: nn.Module) -> Description:
    """Return the arguments that build a module like this one."""
    names = _option_names(type(module))
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


def _neuron(
    highest: int, to_zero: bool = False, several: bool = False, leak: float = 1.0, shape: Any = (), **rule: Any
) -> Neuron:
    """Return the neuron with the options of a file."""
    reset: Literal["subtract", "zero"] = "zero" if to_zero else "subtract"
    return Neuron(highest, FiringRule(**rule, reset=reset, multi_spike=several, decay=leak), shape)


def _option_names(kind: type[nn.Module]) -> list[str]:
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
        _check_attribute(node)
        return addresses[0]
    if node.op == "call_function" or (node.op == "call_method" and node.target not in METHODS):
        name = getattr(node.target, "__name__", node.target)
        raise CheckpointError(f"the operator {name} at {node.name} cannot be saved: there is no rule for it")
    return str(node.target)


def _check_attribute(node: fx.Node) -> None:
    """Raise `CheckpointError` on a ``getattr`` of any attribute but those of `READ`.

    Through other attributes, a file could reach any object of Python.
    """
    if node.target is getattr and (len(node.args) != 2 or node.kwargs or node.args[1] not in READ):
        raise CheckpointError(f"{node.name} reads another attribute than {', '.join(READ)}, which no checkpoint may")


def _encode(value: Any) -> Any:
    match value:
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


def rebuild(description: Description, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return the network of a description, without values: its parameters and buffers are on the meta device.

    So it takes no memory, whatever the description says; ``load_state_dict(tensors, assign=True)`` fills it.
    tensors: the state dict, for the shapes of the constants. Raises `CheckpointError` where the description is
    malformed or names anything that is not in the table of rules.
    """
    try:
        with torch.device("meta"):
            return _rebuild(description, tensors)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged description can fail in nearly any way
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"the checkpoint's description of the network is damaged: {type(error).__name__}: {reason}"
        ) from error


def _rebuild(description: Description, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    root = fx.GraphModule(nn.Module(), fx.Graph())
    for path, options in description["modules"].items():
        if not root.add_submodule(_checked(path, _PATH), _module(options)):
            raise CheckpointError(f"the checkpoint holds an impossible name, {path!r}")
    graph, built = fx.Graph(), dict[str, fx.Node]()
    for entry in description["nodes"]:
        if entry["op"] == "get_attr":
            is_parameter = entry["target"] in description.get("parameters", ())
            _add_constant(root, _checked(entry["target"], _PATH), tensors, is_parameter)
        elif entry["op"] == "call_module":
            _named(description["modules"], entry["target"], "module")
        node = graph.create_node(
            entry["op"],
            _target(entry),
            tuple(_decode(entry["args"], built)),
            {_identifier(key): _decode(value, built) for key, value in entry["kwargs"].items()},
            name=_identifier(entry["name"]),
        )
        _check_attribute(node)
        shape, batch = (_decode(entry.get(key, usual), {}) for key, usual in (("shape", None), ("batch", ROWS)))
        note(node, shape=_shape(shape), batch=_batch(batch))
        built[entry["name"]] = node
    if [entry["op"] for entry in description["nodes"]].index("output") != len(built) - 1:
        raise CheckpointError("the checkpoint's network repeats a name or continues after its output")
    return fx.GraphModule(root, graph)


def _module(options: Description) -> nn.Module:
    kinds = {_module_name(kind): kind for kind, rule in MODULES.items() if rule.kind is not Kind.REFUSED}
    kind = _named(kinds, options["type"], "module")
    arguments = {name: _decode(value, {}) for name, value in options.items() if name != "type"}
    unknown = arguments.keys() - set(_option_names(kind))
    if unknown:
        raise CheckpointError(f"the checkpoint gives a {options['type']} the unknown option {min(unknown)!r}")
    module: nn.Module = _neuron(**arguments) if kind is Neuron else kind(**arguments)
    return module


def _shape(value: Any) -> tuple[int, ...] | None:
    if value is None or (isinstance(value, tuple) and all(type(size) is int and size >= 0 for size in value)):
        return value
    raise CheckpointError(f"the checkpoint holds an impossible shape, {value!r}")


def _batch(value: Any) -> Any:
    """Return a batch axis (see `qffs.graph.site.Site`); raise `CheckpointError` where it is impossible."""
    valid = [leaf is None or (type(leaf) is int and leaf >= 0) for leaf in pytree.tree_leaves(value)]
    if all(valid) and isinstance(value, (tuple, list, dict, NoneType)):
        return value
    raise CheckpointError(f"the checkpoint holds an impossible batch dimension, {value!r}")


def _target(entry: Description) -> Any:
    match entry["op"]:
        case "call_function":
            return _named(ADDRESSES, entry["target"], "function")
        case "call_method":
            return _named({name: name for name in METHODS}, entry["target"], "method")
        case "call_module" | "get_attr":
            return _checked(entry["target"], _PATH)
        case "placeholder" | "output":
            return _identifier(entry["target"])
        case other:
            raise CheckpointError(f"the checkpoint names an unknown kind of node, {other!r}")


def _named(table: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise CheckpointError(f"the checkpoint names a {kind} that has no rule here, {name!r}")
    return table[name]


def _checked(text: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise CheckpointError(f"the checkpoint holds an impossible name, {text!r}")
    return text


def _identifier(text: str) -> str:
    if not isinstance(text, str) or not text.isidentifier() or keyword.iskeyword(text):
        raise CheckpointError(f"the checkpoint holds an impossible name, {text!r}")
    return text


def _add_constant(root: nn.Module, path: str, tensors: Mapping[str, Tensor], is_parameter: bool) -> None:
    """Add an empty tensor at ``path``, unless a module has a tensor there; raise an error on anything else there."""
    parent, _, name = path.rpartition(".")
    if path not in tensors:
        raise CheckpointError(f"the checkpoint's weights lack {path}")
    home = root
    for part in filter(None, parent.split(".")):
        if part not in home._modules:
            home.add_module(part, nn.Module())  # raises where anything else has this name
        home = home.get_submodule(part)
    if name in home._parameters or name in home._buffers:
        return
    value = torch.empty_like(tensors[path], device="meta")
    if is_parameter:
        home.register_parameter(name, nn.Parameter(value))
    else:
        home.register_buffer(name, value)


def _decode(value: Any, built: Mapping[str, fx.Node]) -> Any:
    match value:
        case {"node": name}:
            return built[name]
        case {"tuple": items}:
            return tuple(_decode(each, built) for each in items)
        case {"dict": items}:
            return {key: _decode(each, built) for key, each in items.items()}
        case {"slice": items}:
            return slice(*(_decode(each, built) for each in items))
        case {"ellipsis": True}:
            return ...
        case {"dtype": name}:
            return _named(DTYPES, name, "type")
        case {"memory_format": name}:
            return _named(MEMORY_FORMATS, name, "memory format")
        case list():
            return [_decode(each, built) for each in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise CheckpointError(f"the checkpoint holds an unknown value, {value!r}")
