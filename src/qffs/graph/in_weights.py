"""Batch norm in eval mode in the weights of the layer before it, for training: fewer passes over the activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from qffs.graph.fold import batch_norm, layer_before, scale_and_shift, scaled
from qffs.graph.paths import free_path
from qffs.graph.site import Kind, site


class LayerAndNorm(nn.Module):
    """A layer and the batch norm after it as one layer, whose weight and bias are computed at every call.

    Its parameters are those of both modules, and so are their gradients, but for rounding. Nothing is done to each
    activation that the layer alone would not do. It always computes what batch norm does in eval mode.

    >>> layer, norm = nn.Linear(4, 2), nn.BatchNorm1d(2).eval()
    >>> x = torch.randn(3, 4)
    >>> torch.allclose(LayerAndNorm(layer, norm)(x), norm(layer(x)), atol=1e-6)
    True
    """

    def __init__(self, layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Any:
        """Return ``norm(layer(x))``, in the shape and type of ``layer(x)``."""
        scale, shift = scale_and_shift(self.norm, torch.promote_types(x.dtype, torch.float32))
        weight, bias = scaled(self.layer, scale, shift)
        return functional_call(self.layer, {"weight": weight, "bias": bias}, (x,))


def put_norms_into_weights(network: fx.GraphModule) -> None:
    """Let one module compute each layer and the batch norm that alone reads its result, in place.

    network: a graph that `qffs.quantize` returned, or a part of it. Its modules and parameters stay the same ones, and
    are trained as before. Layers whose weight is computed from others (weight norm) are function calls in such a
    graph, and are left as they are.
    """
    for node in list(network.graph.find_nodes(op="call_module")):
        norm = batch_norm(network, node) if site(node).kind is Kind.FOLDED else None
        layer = layer_before(network, node) if norm is not None else None
        if norm is None or layer is None:
            continue
        source = node.all_input_nodes[0]
        path = free_path(network, f"{source.name}_{node.name}")
        network.add_submodule(path, LayerAndNorm(layer, norm))
        source.target = path
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
    network.recompile()
