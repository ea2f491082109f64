"""Quantisers into the graph: one at every ReLU, and at the outputs if asked."""

from __future__ import annotations

from torch import fx, nn

from qffs.graph.rules import Kind
from qffs.graph.trace import free_path
from qffs.levels import Levels
from qffs.nn.quantizer import Quantizer


def place_quantizers(traced: fx.GraphModule, hidden: Levels, output: Levels | None, offset: float) -> None:
    """Replace every ReLU of an annotated graph by a `Quantizer`, in place.

    With ``output`` levels, each output gets a quantiser of its own too; an output that is a ReLU's takes the output's
    levels instead of a second quantiser.
    """
    for node in traced.graph.nodes:
        if node.meta["kind"] is Kind.SPIKING:
            traced.set_submodule(node.target, Quantizer(hidden.highest, offset, _clip(traced, node)))
    if output is None:
        return
    (end,) = traced.graph.find_nodes(op="output")
    for node in end.all_input_nodes:
        if node.meta["kind"] is Kind.SPIKING:
            traced.set_submodule(str(node.target), Quantizer(output.highest, offset, _clip(traced, node)))
            continue
        path = free_path(traced, "output_quantizer")
        traced.add_submodule(path, Quantizer(output.highest, offset))
        with traced.graph.inserting_after(node):
            quantised = traced.graph.call_module(path, (node,))
        quantised.meta.update(shape=node.meta["shape"], batch=node.meta["batch"])
        end.replace_input_with(node, quantised)


def _clip(traced: nn.Module, node: fx.Node) -> float | None:
    """Where a ReLU, or the quantiser that has taken its place, is clipped from above."""
    module = traced.get_submodule(str(node.target))
    return module.clip if isinstance(module, Quantizer) else getattr(module, "max_val", None)


def output_quantizers(network: fx.GraphModule, kind: type[nn.Module] = Quantizer) -> set[str]:
    """The paths of the quantisers (or modules of another ``kind``) that the network returns directly."""
    (end,) = network.graph.find_nodes(op="output")
    return {
        str(node.target)
        for node in end.all_input_nodes
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), kind)
    }
