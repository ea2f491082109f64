"""Blocks: computed one after the other, they are the whole network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from helpers.problems import calibrated, images, network
from qffs import models
from qffs.graph.blocks import LARGEST, Block, blocks, in_order, joined, part
from qffs.nn.inspect import quantizers
from qffs.nn.quantizer import Quantizer


class Dense(nn.Module):
    """Every layer reads the outputs of all layers before it."""

    def __init__(self, depth: int = 7) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 * (number + 1), 4) for number in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return torch.cat(features[1:], 1)


class Two(nn.Module):
    """Two inputs, two outputs by name, a constant that is computed, and the number of images as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.0, 3.0]))

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.first(a)) * self.scale.exp()
        y = torch.relu(self.second(b) + x.view(a.size(0), -1))
        return {"sum": x + y, "last": torch.relu(self.second(b))}


def quantized(model: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    qann = qffs.quantize(model.double(), bits=2, example=inputs if len(inputs) > 1 else inputs[0])
    qffs.calibrate(qann, [inputs], "lsq")
    return qann.eval()


def in_turn(qann: fx.GraphModule, *values: Tensor) -> tuple[Tensor, ...]:
    """The outputs of the network, computed block by block."""
    for block in blocks(qann):
        values = part(qann, block)(*values)
    return values


def count(qann: fx.GraphModule, block: Block) -> int:
    modules = [qann.get_submodule(str(node.target)) for node in block.nodes if node.op == "call_module"]
    return sum(isinstance(module, Quantizer) for module in modules)


@pytest.mark.parametrize("name", ["digits_net", "mlperf_resnet8", "cifar_resnet20"])
def test_blocks_in_turn_are_the_network(name: str) -> None:
    model = models.build(name).eval()
    x = torch.rand(3, *model.image_shape, dtype=torch.float64)
    qann = quantized(model, x)
    (output,) = in_turn(qann, x)
    assert torch.equal(output, qann(x))


def test_a_residual_unit_is_one_block() -> None:
    qann = quantized(models.build("cifar_resnet20").eval(), torch.rand(2, 3, 32, 32, dtype=torch.float64))
    whole = blocks(qann)
    assert [count(qann, block) for block in whole] == [1] + 9 * [2] + [0]  # the stem, nine units, the linear layer
    assert all(len(block.outputs) == 1 for block in whole)
    assert all(before.outputs == after.inputs for before, after in pairwise(whole))


def test_any_network_of_the_tests_is_cut_and_put_together() -> None:
    model, x = network(), images()
    qann = calibrated(model, x, bits=2).eval()
    assert torch.equal(in_turn(qann, x)[0], qann(x))
    assert torch.equal(part(qann, joined(blocks(qann)))(x)[0], qann(x))


def test_blocks_end_with_several_values_where_all_are_read_later() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    qann = quantized(Dense(), x)
    whole = blocks(qann)
    assert [count(qann, block) for block in whole] == [LARGEST, 3]
    assert len(whole[0].outputs) == LARGEST + 1  # of all its layers, and the input
    assert torch.equal(in_turn(qann, x)[0], qann(x))


def test_several_inputs_and_outputs_and_constants() -> None:
    a, b = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    qann = quantized(Two(), a, b)
    outputs = in_turn(qann, a, b)
    expected = qann(a, b)
    assert all(any(torch.equal(output, each) for output in outputs) for each in expected.values())


def test_a_part_has_the_weights_of_the_network_itself() -> None:
    qann = quantized(models.build("digits_net").eval(), torch.rand(2, 1, 8, 8, dtype=torch.float64))
    first = part(qann, blocks(qann)[0])
    own = {id(parameter) for parameter in qann.parameters()}
    assert 0 < len(list(first.parameters())) < len(own)
    assert all(id(parameter) in own for parameter in first.parameters())


def test_quantizers_are_in_the_order_of_computation_and_not_in_that_of_modules() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2)])
            self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.outer[1](self.inner(self.outer[0](x)))
            return y

    qann = qffs.quantize(Turned(), example=torch.randn(4, 6))
    assert list(in_order(qann)) == ["outer.0.1", "inner.1", "outer.1.1"] != list(quantizers(qann))
