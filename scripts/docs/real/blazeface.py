"""BlazeFace: Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs", 2019."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.models.weights import load_weights, read_weights
from real.boxes import Reader, distinct
from real.photographs import detecting, normalizer
from real.subject import SHARED, Choice, Subject

WIDTHS = (24, 24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88)
"""The channels after the first convolution and after each block of the first part."""
HALVING = (2, 5)
"""The blocks of the first part that halve height and width, by number."""

SIDE = 128
"""The height and width of the images, in pixels."""
LEAST_SCORE, OVERLAP = 0.75, 0.3
"""The least score of a face, and the overlap of two boxes of the same face, as its authors chose them."""


class Block(nn.Module):
    """A depthwise and a pointwise convolution beside a shortcut, whose new channels are zeros.

    With stride 2 the shortcut is max pooling, and the input is padded at the right and below only.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, 0 if stride == 2 else 1, groups=inputs)
        self.convs = nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1))
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return ``relu(convs(x) + shortcut(x))``, ``[B, outputs, H / stride, W / stride]``."""
        branch = self.convs(F.pad(x, (0, 2, 0, 2)) if self.stride == 2 else x)
        shortcut = F.max_pool2d(x, 2) if self.stride == 2 else x
        return F.relu(branch + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels)))


class BlazeFace(nn.Module):
    """The detector of faces for front cameras, from images ``[B, 3, 128, 128]`` with values from -1 to 1.

    Its names are those of hollance/BlazeFace-PyTorch. Batch norm is folded into the published weights.
    """

    def __init__(self) -> None:
        super().__init__()
        pairs = pairwise(WIDTHS)
        blocks = [Block(*pair, 2 if number in HALVING else 1) for number, pair in enumerate(pairs)]
        self.backbone1 = nn.Sequential(nn.Conv2d(3, 24, 5, 2), nn.ReLU(), *blocks)
        self.backbone2 = nn.Sequential(Block(88, 96, 2), *(Block(96, 96) for _ in range(4)))
        self.classifier_8, self.classifier_16 = nn.Conv2d(88, 2, 1), nn.Conv2d(96, 6, 1)
        self.regressor_8, self.regressor_16 = nn.Conv2d(88, 32, 1), nn.Conv2d(96, 96, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for 896 anchors, boxes with key points ``[B, 896, 16]`` and scores before the sigmoid [B, 896, 1]."""
        fine = self.backbone1(F.pad(x, (1, 2, 1, 2)))
        coarse = self.backbone2(fine)
        boxes = _by_anchor(self.regressor_8(fine), 16), _by_anchor(self.regressor_16(coarse), 16)
        scores = _by_anchor(self.classifier_8(fine), 1), _by_anchor(self.classifier_16(coarse), 1)
        return torch.cat(boxes, 1), torch.cat(scores, 1)


def _by_anchor(x: Tensor, numbers: int) -> Tensor:
    """Return ``[B, anchors, numbers]`` of a map ``[B, anchors per place * numbers, H, W]``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, numbers)


def read(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the boxes of each image, see `real.boxes`. The 896 anchors are at 2 x 256 and 6 x 64 places."""
    grids = [torch.cartesian_prod(at, at).flip(1) for side in (16, 8) for at in [(torch.arange(side) + 0.5) / side]]
    anchors = torch.cat([grid.repeat_interleave(count, 0) for grid, count in zip(grids, (2, 6), strict=True)])
    boxes, scores = outputs[0].float() / SIDE, outputs[1].float().sigmoid()
    center, half = anchors + boxes[..., :2], boxes[..., 2:4] / 2
    all_boxes = torch.cat([center - half, center + half, scores, torch.zeros_like(scores)], -1)
    return [distinct(each[each[:, 4] >= LEAST_SCORE], OVERLAP) for each in all_boxes]


READER = Reader(read, ("face",))


def blazeface(choice: Choice) -> Subject:
    """Return BlazeFace with its published weights."""
    network, path = BlazeFace(), SHARED / "blazeface.safetensors"
    load_weights(network, read_weights(path), path.name)
    return detecting(network, choice, SIDE, normalizer(3 * (0.5,), 3 * (0.5,)), ("boxes", "scores"), READER)
