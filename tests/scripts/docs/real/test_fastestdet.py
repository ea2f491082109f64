"""FastestDet has the published layers and stays exact as a spiking network."""

from __future__ import annotations

import math

import pytest
import torch
from real.fastestdet import READER, FastestDet, Unit, read

import qffs


def test_objects_boxes_and_classes_at_every_place() -> None:
    outputs = FastestDet()(torch.zeros(2, 3, 64, 96))
    assert [tuple(each.shape) for each in outputs] == [(2, 1, 4, 6), (2, 4, 4, 6), (2, 80, 4, 6)]


def test_even_channels_pass_a_unit_and_odd_ones_are_read() -> None:
    torch.manual_seed(0)
    unit, x = Unit(8, 8, 1).eval(), torch.randn(3, 8, 5, 5)
    output = unit(x)
    # The same in the words of the authors' code, for one image: pairs of channels are taken apart.
    first, second = x[0].reshape(4, 2, 25).permute(1, 0, 2).reshape(2, 4, 5, 5)
    assert torch.equal(output[0, :4], first)
    torch.testing.assert_close(output[:1, 4:], unit.branch_main(second[None]))


@pytest.mark.slow
def test_exact() -> None:
    torch.manual_seed(0)
    network, x = FastestDet().double().eval(), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(network, example=x), [x], "lsq").eval()
    compared = qffs.verify(qann, qffs.to_spiking(qann), x[:1], tie_tolerance=0)
    assert len(compared.layers) == 48


def test_an_object_is_read_from_its_place() -> None:
    objects, boxes, classes = torch.full((1, 1, 4, 8), -9.0), torch.zeros(1, 4, 4, 8), torch.zeros(1, 80, 4, 8)
    objects[0, 0, 2, 5], classes[0, 16, 2, 5] = 3.0, 9.0
    boxes[0, :, 2, 5] = torch.tensor([0.5, -0.5, 0.0, -2.0])
    (thing,) = read((objects, boxes, classes))[0].tolist()
    x, y = (5 + math.tanh(0.5)) / 8, (2 - math.tanh(0.5)) / 4
    height = 1 / (1 + math.exp(2.0))
    score = (1 / (1 + math.exp(-3.0))) ** 0.6 * (math.exp(9) / (math.exp(9) + 79)) ** 0.4
    assert thing == pytest.approx([x - 0.25, y - height / 2, x + 0.25, y + height / 2, score, 16])
    assert READER.names[16] == "dog"
