"""The blocks of a quantized network: parts of its graph that are computed, and trained, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from qffs.graph.call import assembles, outputs
from qffs.graph.site import site
from qffs.nn.quantizer import FullPrecision, Quantizer

LARGEST = 4
"""The number of quantizers after which a block ends wherever it can, even if several values cross its end."""


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive nodes of a graph.

    ``inputs``: the nodes before it whose values this block or a later one reads; ``nodes``: its own, in order, without
    constants; ``outputs``: the nodes among both whose values are read after it, or which the network returns. The
    outputs of a block are the inputs of the next.
    """

    inputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def blocks(network: fx.GraphModule) -> list[Block]:
    """Return the blocks of the graph that `qffs.quantize` returned, in the order of computation.

    A block has one quantizer or more, but for the last. It ends where a single value is read by all that follows, and
    no quantizer reads it at once: after a layer and its quantizer, and after the sum of a residual unit and its
    quantizer. In networks in which several values are always read later, such as dense ones, a block with `LARGEST`
    quantizers ends with several outputs. Every value that crosses an end holds the images in dimension 0, one row per
    image, so that it can be cut into batches.
    """
    returned = outputs(network)
    signals = _signals(network)
    inputs = tuple(node for node in signals if node.op == "placeholder")
    nodes = [node for node in signals if node.op != "placeholder" and not assembles(node)]
    index = {node: number for number, node in enumerate(nodes)}
    last = {node: max((index[user] for user in node.users if user in index), default=-1) for node in signals}
    last |= {node: len(nodes) for node in returned if node in last}
    result: list[Block] = []
    start = quantized = 0
    live = inputs
    for number, node in enumerate(nodes):
        live = tuple(each for each in (*live, node) if last[each] > number)
        quantized += _calls(node, network, Quantizer)
        if number + 1 == len(nodes) or (quantized and _may_end(live, network, nodes[number + 1], quantized)):
            result.append(Block(inputs, tuple(nodes[start : number + 1]), live))
            start, quantized, inputs = number + 1, 0, live
    return result


def by_image(network: fx.GraphModule) -> bool:
    """Return whether every input and output holds the images in dimension 0, one row per image."""
    ends = (*network.graph.find_nodes(op="placeholder"), *outputs(network))
    return all(site(node).batch == (0, 1) for node in ends)


def in_order(network: fx.GraphModule) -> dict[str, Quantizer]:
    """Return the quantizers of a graph by their paths, in the order of computation."""
    paths = dict.fromkeys(str(node.target) for node in network.graph.find_nodes(op="call_module"))
    modules = {path: network.get_submodule(path) for path in paths}
    return {path: module for path, module in modules.items() if isinstance(module, Quantizer)}


def joined(parts: Sequence[Block]) -> Block:
    """Return consecutive blocks as one."""
    return Block(parts[0].inputs, tuple(node for each in parts for node in each.nodes), parts[-1].outputs)


def part(network: fx.GraphModule, block: Block) -> fx.GraphModule:
    """Return a network of the nodes of a block: from the values of its inputs to the tuple of those of its outputs.

    It has the modules and weights of ``network`` themselves, and no copies: who trains it trains ``network``. The block
    may be that of another network with the same graph and other modules.
    """
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in block.inputs}
    for node in (*_constants(block), *block.nodes):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in block.outputs))
    return fx.GraphModule(network, graph)


def _signals(network: fx.GraphModule) -> list[fx.Node]:
    """Return the inputs of a network and the nodes whose values depend on them, without its output."""
    signals: dict[fx.Node, None] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder" or (node.op != "output" and any(read in signals for read in node.all_input_nodes)):
            signals[node] = None
    return list(signals)


def _constants(block: Block) -> list[fx.Node]:
    """Return the nodes that a block reads and that depend on no input, in order."""
    needed, inside = set(), {*block.inputs, *block.nodes}
    waiting = list(block.nodes)
    while waiting:
        for read in waiting.pop().all_input_nodes:
            if read not in inside and read not in needed:
                needed.add(read)
                waiting.append(read)
    return sorted(needed)


def _calls(node: fx.Node, network: fx.GraphModule, kind: type[nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), kind)


def _may_end(live: tuple[fx.Node, ...], network: fx.GraphModule, following: fx.Node, quantized: int) -> bool:
    """Return whether a block with so many quantizers may end before a node, where these values are read later."""
    activates = _calls(following, network, Quantizer) or _calls(following, network, FullPrecision)
    images_first = all(site(node).batch == (0, 1) for node in live)
    return not activates and images_first and (len(live) == 1 or quantized >= LARGEST)
