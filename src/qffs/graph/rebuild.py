"""Building a graph from its description, so that loading a checkpoint runs no code of the file.

Only operators of the table in `qffs.graph.rules` are built, and every name is checked, because `torch.fx` writes names
into the source of the module that it builds.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qffs.errors import CheckpointError
from qffs.graph.paths import is_writable
from qffs.graph.rules import ADDRESSES, METHODS, MODULES
from qffs.graph.serialize import DTYPES, MEMORY_FORMATS, Description, check_attribute, module_name, option_names
from qffs.graph.site import Kind, note
from qffs.method import FiringRule
from qffs.nn.neuron import Neuron

ROWS = {"tuple": [0, 1]}
"""The batch axis that older files leave out: images in dimension 0, one row per image."""


def rebuild(description: Description, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return the network of a description, without values: its parameters and buffers are on the meta device.

    So it takes no memory, whatever the description says; `fill` gives it its tensors.
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


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network of `rebuild` its tensors, those that its state dict leaves out too."""
    saved = network.state_dict().keys()
    for path in [path for path, _ in network.named_buffers() if path not in saved]:
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent)._buffers[name] = tensors[path]
    network.load_state_dict({path: tensors[path] for path in saved}, assign=True)


def _rebuild(description: Description, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    root = fx.GraphModule(nn.Module(), fx.Graph())
    for path, options in description["modules"].items():
        if not root.add_submodule(_path(path), _module(options)):
            raise CheckpointError(f"the checkpoint holds an impossible name, {path!r}")
    graph, built = fx.Graph(), dict[str, fx.Node]()
    for entry in description["nodes"]:
        if entry["op"] == "get_attr":
            is_parameter = entry["target"] in description.get("parameters", ())
            _add_constant(root, _path(entry["target"]), tensors, is_parameter)
        elif entry["op"] == "call_module":
            _named(description["modules"], entry["target"], "module")
        node = graph.create_node(
            entry["op"],
            _target(entry),
            tuple(_decode(entry["args"], built)),
            {_identifier(key): _decode(value, built) for key, value in entry["kwargs"].items()},
            name=_identifier(entry["name"]),
        )
        check_attribute(node)
        shape, batch = (_decode(entry.get(key, usual), {}) for key, usual in (("shape", None), ("batch", ROWS)))
        note(node, shape=_shape(shape), batch=_batch(batch))
        built[entry["name"]] = node
    if [entry["op"] for entry in description["nodes"]].index("output") != len(built) - 1:
        raise CheckpointError("the checkpoint's network repeats a name or continues after its output")
    network = fx.GraphModule(root, graph)
    hidden = description.get("hidden", ())  # older files have none
    for path, buffer in list(network.named_buffers()):
        if path in hidden:
            parent, _, name = path.rpartition(".")
            network.get_submodule(parent).register_buffer(name, buffer, persistent=False)
    return network


def _module(options: Description) -> nn.Module:
    kinds = {module_name(kind): kind for kind, rule in MODULES.items() if rule.kind is not Kind.REFUSED}
    kind = _named(kinds, options["type"], "module")
    arguments = {name: _decode(value, {}) for name, value in options.items() if name != "type"}
    unknown = arguments.keys() - set(option_names(kind))
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
            return _path(entry["target"])
        case "placeholder" | "output":
            return _identifier(entry["target"])
        case other:
            raise CheckpointError(f"the checkpoint names an unknown kind of node, {other!r}")


def _named(table: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise CheckpointError(f"the checkpoint names a {kind} that has no rule here, {name!r}")
    return table[name]


def _path(text: str) -> str:
    if not isinstance(text, str) or not is_writable(text):
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
        home.register_parameter(name, nn.Parameter(value, value.is_floating_point()))
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


def _neuron(
    highest: int, to_zero: bool = False, several: bool = False, leak: float = 1.0, shape: Any = (), **rule: Any
) -> Neuron:
    """Return the neuron with the options of a file."""
    reset: Literal["subtract", "zero"] = "zero" if to_zero else "subtract"
    return Neuron(highest, FiringRule(**rule, reset=reset, multi_spike=several, decay=leak), shape)
