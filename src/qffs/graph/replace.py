"""Replacing modules of a graph: quantizers in the place of ReLUs, and neurons in the place of quantizers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from qffs.errors import InvalidArgument
from qffs.graph import batch_axis
from qffs.graph.call import assembles, label, outputs, plain_form, replace_argument, signals
from qffs.graph.classify import classify, write_sites
from qffs.graph.paths import free_path, has
from qffs.graph.rules import MODULES, name_of
from qffs.graph.site import Kind, has_site, note, site, tensor_shape
from qffs.method import FiringRule, Levels
from qffs.nn.copies import copied
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import FullPrecision, Quantizer


def activations(traced: fx.GraphModule) -> list[str]:
    """Return the paths of the ReLUs of a classified graph, in the order of computation."""
    return [str(node.target) for node in traced.graph.nodes if site(node).kind is Kind.SPIKING]


def place_quantizers(
    traced: fx.GraphModule,
    hidden: Mapping[str, Levels | None],
    output: Levels | None,
    offset: float,
    per_channel: bool = False,
) -> None:
    """Replace every ReLU of a classified graph by a `Quantizer` with the levels of its path, in place.

    hidden: the levels by path; where they are None, the ReLU becomes a `FullPrecision`. output: the levels of every
    output, or None; each output gets a quantizer, but where the output is a ReLU, its only quantizer gets these levels.
    offset: of every quantizer. per_channel: one step size for each channel, dimension 1 of the activations; where that
    dimension holds the batch, or the tokens of linear layers, there is one step size for all.
    """
    ends = outputs(traced) if output else []
    of_path = {**hidden, **{str(node.target): output for node in ends if site(node).kind is Kind.SPIKING}}

    def quantizer(node: fx.Node, levels: Levels, clip: float | None = None) -> Quantizer:
        shape, batch = tensor_shape(node), batch_axis.dimension(node)
        by_channel = per_channel and len(shape) > 1 and batch != 1 and (len(shape) == 2 or not _of_tokens(node, traced))
        return Quantizer(levels.highest, offset, clip, shape[1] if by_channel else None)

    for node in traced.graph.nodes:
        if site(node).kind is Kind.SPIKING:
            path = str(node.target)
            levels, clip = of_path[path], getattr(traced.get_submodule(path), "max_val", None)
            traced.set_submodule(path, quantizer(node, levels, clip) if levels else FullPrecision(clip))
    for node in ends:
        if output and site(node).kind is not Kind.SPIKING:
            path = free_path(traced, "output_quantizer")
            traced.add_submodule(path, quantizer(node, output))
            with traced.graph.inserting_after(node):
                quantized = traced.graph.call_module(path, (node,))
            note(quantized, shape=site(node).shape, batch=site(node).batch)
            for user in list(node.users):
                if user.op == "output" or assembles(user):
                    user.replace_input_with(node, quantized)


def _of_tokens(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Return whether a value has tokens in dimension 1, because its features are in the last dimension.

    They are where a linear layer or a layer norm computed the value, and its shape has not changed since.
    """
    source, shape = node, site(node).shape
    while True:
        name = name_of(source) or label(source, traced)
        if name in {"Linear", "linear", "LayerNorm", "layer_norm", "matmul", "bmm", "einsum"}:
            return True
        before = [read for read in signals(source) if site(read).shape == shape]
        if not before or name.lower().startswith(("conv", "permute", "transpose", "movedim")):
            return False
        source = before[0]


def output_quantizers(network: fx.GraphModule, kind: type[nn.Module] = Quantizer) -> set[str]:
    """Return the paths of the quantizers (or modules of another ``kind``) whose results the network returns."""
    return {
        str(node.target)
        for node in outputs(network)
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), kind)
    }


def in_full_precision(qann: fx.GraphModule, model: nn.Module) -> fx.GraphModule:
    """Return a copy of a QANN with the weights of ``model``, and a ReLU in the place of every quantizer.

    So an output with a quantizer is ``max(x, 0)``. Raises `InvalidArgument` where ``model`` lacks a weight of the QANN,
    or has it in another shape.
    """
    network = copied(qann)
    for path, module in list(network.named_modules()):
        if isinstance(module, Quantizer):
            network.set_submodule(path, FullPrecision(module.clip))
    weights = model.state_dict()
    for name, tensor in network.named_parameters():
        if name not in weights or weights[name].shape != tensor.shape:
            raise InvalidArgument(
                f"the model is not the one that was quantized: it has no {name} of shape {list(tensor.shape)}"
            )
    network.load_state_dict(weights, strict=False)
    return network


def refuse_lost(network: fx.GraphModule) -> None:
    """Raise `InvalidArgument` where a graph reads a module or a tensor that is no longer there."""
    for node in network.graph.nodes:
        if node.op in {"call_module", "get_attr"} and not has(network, str(node.target)):
            raise InvalidArgument(f"this quantized network no longer has {node.target}, which its graph reads")


def refuse_without_sites(network: fx.GraphModule) -> None:
    """Raise `InvalidArgument` where the graph of a quantized network has lost its records."""
    if not all(map(has_site, network.graph.nodes)):
        raise InvalidArgument(
            "this quantized network has lost the shapes of its example, as pickled graphs do: keep it with qffs.save, "
            "or load its state dict into a new qffs.quantize(...)"
        )


def classify_again(network: fx.GraphModule) -> None:
    """Write the records of a QANN, in which modules may have been replaced since `quantize`.

    The record of a ReLU that was put there, and of a module that is no single operator, refuses it.
    """
    write_sites(classify(network))
    for node in network.graph.find_nodes(op="call_module"):
        module = network.get_submodule(str(node.target))
        is_relu = site(node).kind is Kind.SPIKING and not isinstance(module, Quantizer)
        if is_relu or type(module) not in MODULES:
            why = "it was put there after qffs.quantize, which makes quantizers of ReLUs: put it into the model, and "
            note(node, kind=Kind.REFUSED, why=why + "quantize that")


def plain_copy(network: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a network that returns plain tuples and dictionaries, as other tools take them."""
    network = copied(network)
    for node in list(network.graph.nodes):
        if assembles(node):
            for user in list(node.users):
                replace_argument(user, node, plain_form(node))
            network.graph.erase_node(node)
    network.recompile()
    return network


def swap_neurons(network: fx.GraphModule, rule: FiringRule) -> None:
    """Replace every `Quantizer` that the graph calls by its `Neuron`, at the same path, in place."""
    for node in network.graph.find_nodes(op="call_module"):
        module = network.get_submodule(str(node.target))
        if isinstance(module, Quantizer):
            network.set_submodule(str(node.target), Neuron.from_quantizer(module, rule, tensor_shape(node)))
