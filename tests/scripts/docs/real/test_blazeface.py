"""BlazeFace has the published layers and stays exact as a spiking network."""

from __future__ import annotations

import math

import pytest
import torch
from real.blazeface import BlazeFace, Block, read
from torch import nn

import qffs


def test_boxes_and_scores_of_896_anchors() -> None:
    boxes, scores = BlazeFace()(torch.zeros(2, 3, 128, 128))
    assert boxes.shape == (2, 896, 16)
    assert scores.shape == (2, 896, 1)


def test_the_numbers_of_an_anchor_are_neighbors() -> None:
    network = BlazeFace()
    for each in (network.regressor_8, network.classifier_8, network.regressor_16, network.classifier_16):
        nn.init.zeros_(each.weight)
        each.bias.data = torch.arange(len(each.bias), dtype=torch.float32)
    boxes, scores = network(torch.zeros(1, 3, 128, 128))
    assert boxes[0, 0].tolist() == list(range(16))
    assert boxes[0, 1].tolist() == list(range(16, 32))
    assert boxes[0, 512 + 5].tolist() == list(range(80, 96))
    assert scores[0, :4, 0].tolist() == [0, 1, 0, 1]
    assert scores[0, 512:, 0].tolist() == 64 * [0, 1, 2, 3, 4, 5]


def test_a_block_of_stride_2_is_padded_at_the_right_and_below_and_adds_zeros() -> None:
    torch.manual_seed(0)
    block, x = Block(2, 3, 2).double(), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    depthwise, pointwise = block.convs
    assert isinstance(depthwise, nn.Conv2d)
    output = block(x)
    for row in range(2):
        for column in range(2):
            window = x[0, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]  # cut off where x ends
            kernel = depthwise.weight[:, 0, : window.shape[1], : window.shape[2]]
            branch = pointwise(((window * kernel).sum((1, 2)) + depthwise.bias).view(1, 2, 1, 1)).flatten()
            pooled = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].amax((1, 2))
            expected = torch.relu(branch + torch.cat([pooled, torch.zeros(1)]))
            torch.testing.assert_close(output[0, :, row, column], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_exact() -> None:
    torch.manual_seed(0)
    network, x = BlazeFace().double(), torch.rand(2, 3, 128, 128, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(network, example=x), [x], "lsq").eval()
    assert len(qffs.verify(qann, qffs.to_spiking(qann), x[:1], tie_tolerance=0).layers) == 17


def test_a_face_is_read_from_the_anchor_that_sees_it() -> None:
    boxes, scores = torch.zeros(1, 896, 16), torch.full((1, 896, 1), -9.0)
    scores[0, 2 * (16 * 3 + 5)] = 9.0  # of the fine grid, at row 3 and column 5
    boxes[0, 2 * (16 * 3 + 5), :4] = torch.tensor([8.0, -16.0, 32.0, 64.0])  # of 128 pixels: center, width, height
    scores[0, 512 + 6 * (8 * 7 + 0) + 5] = 2.0  # of the coarse grid
    boxes[0, 512 + 6 * (8 * 7 + 0) + 5, 2:4] = 16.0
    face, other = read((boxes, scores))[0].tolist()
    x, y = 5.5 / 16 + 8 / 128, 3.5 / 16 - 16 / 128
    sigmoid = [1 / (1 + math.exp(-score)) for score in (9.0, 2.0)]
    assert face == pytest.approx([x - 0.125, y - 0.25, x + 0.125, y + 0.25, sigmoid[0], 0])
    assert other == pytest.approx([0.0625 - 0.0625, 7.5 / 8 - 0.0625, 0.125, 1.0, sigmoid[1], 0], abs=1e-6)
