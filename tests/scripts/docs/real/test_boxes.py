"""Boxes: how much two overlap, which are of the same object, and where they are drawn."""

from __future__ import annotations

import pytest
import torch
from real.boxes import SIDE, distinct, drawn, overlaps, shared
from torch import Tensor


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).reshape(-1, 6)


ONE = [0.0, 0.0, 0.4, 0.4, 0.9, 0.0]
NEAR = [0.0, 0.0, 0.4, 0.3, 0.8, 0.0]
OTHER_CLASS = [0.0, 0.0, 0.4, 0.4, 0.95, 1.0]
FAR = [0.5, 0.5, 0.9, 0.9, 0.7, 0.0]


def test_an_overlap_is_the_intersection_over_the_union_within_a_class() -> None:
    overlap = overlaps(boxes(ONE), boxes(ONE, NEAR, OTHER_CLASS, FAR, [0.2, 0.2, 0.6, 0.6, 1.0, 0.0]))
    assert overlap[0].tolist() == pytest.approx([1.0, 0.75, 0.0, 0.0, 0.04 / 0.28])


def test_of_boxes_of_one_object_the_one_with_the_highest_score_is_kept() -> None:
    assert distinct(boxes(NEAR, FAR, ONE, OTHER_CLASS), 0.5).tolist() == boxes(OTHER_CLASS, ONE, FAR).tolist()
    assert len(distinct(boxes(NEAR, FAR, ONE, OTHER_CLASS), 0.8)) == 4
    # The third overlaps only the second, which is left out.
    chain = [[x, 0.0, x + 1.0, 1.0, 0.9 - x, 0.0] for x in (0.0, 0.4, 0.8)]
    assert distinct(boxes(*chain), 0.3).tolist() == boxes(chain[0], chain[2]).tolist()
    assert distinct(boxes(), 0.5).shape == (0, 6)


def test_each_box_of_another_network_is_counted_once() -> None:
    assert shared(boxes(ONE, NEAR, FAR), boxes(NEAR, FAR)) == 2
    assert shared(boxes(ONE, FAR), boxes(OTHER_CLASS)) == 0
    assert shared(boxes(ONE), boxes()) == shared(boxes(), boxes(ONE)) == 0


def test_boxes_are_drawn_on_each_image_for_each_network() -> None:
    images = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    picture = drawn(images, {"one": [boxes(FAR), boxes()], "other": [boxes(), boxes()]}, ["thing"])
    head = picture.height - 2 * SIDE
    assert picture.width == 2 * SIDE
    corner = (round(0.9 * SIDE), head + round(0.9 * SIDE))
    assert picture.getpixel(corner) == (0xE6, 0x19, 0x4B)
    assert picture.getpixel((corner[0] + SIDE, corner[1])) == (255, 255, 255)
    assert picture.getpixel((corner[0], corner[1] + SIDE)) == (255, 255, 255)
