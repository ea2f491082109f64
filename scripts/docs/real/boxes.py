"""Boxes of detectors: those of the same object left out, compared between two networks, and drawn.

The boxes of an image are a tensor [N, 6]: left, top, right and bottom from 0 to 1, the score, and the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

SAME = 0.5
"""The least overlap of two boxes of the same object: their intersection over their union."""
SIDE = 256
"""The width and height of an image in a picture, in pixels."""
COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#42d4f4")
"""Those of the boxes, by class."""
DARK = (0, 3)
"""The numbers of the colors on which text is white."""


@dataclass(frozen=True)
class Reader:
    """The way from the outputs of a detector to boxes.

    read: the function from the outputs of a batch to the boxes of each image. names: those of the classes.
    """

    read: Callable[[Sequence[Tensor]], list[Tensor]]
    names: tuple[str, ...]


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over the union of each box with each other one, [N, M]; 0 between two classes."""
    corners = torch.maximum(boxes[:, None, :2], others[None, :, :2]), torch.minimum(boxes[:, None, 2:4], others[:, 2:4])
    shared = (corners[1] - corners[0]).clamp(min=0).prod(-1)
    areas, other_areas = ((each[:, 2:4] - each[:, :2]).prod(-1) for each in (boxes, others))
    union = areas[:, None] + other_areas - shared
    return torch.where(boxes[:, None, 5] == others[:, 5], shared / union.clamp(min=1e-12), 0.0)


def distinct(boxes: Tensor, overlap: float) -> Tensor:
    """Return the boxes that overlap no box of the same class with a higher score by more than ``overlap``."""
    boxes = boxes[boxes[:, 4].argsort(descending=True, stable=True)]
    covers, kept = overlaps(boxes, boxes) > overlap, torch.ones(len(boxes), dtype=torch.bool)
    for number in range(len(boxes)):  # a box that is left out covers no other
        if kept[number]:
            kept[number + 1 :] &= ~covers[number, number + 1 :]
    return boxes[kept]


def shared(boxes: Tensor, others: Tensor) -> int:
    """Return how many boxes have one of the others on the same object, each for one box only."""
    overlap, count = overlaps(boxes, others), 0
    for row in range(len(boxes)):
        if others.numel() and overlap[row].max() >= SAME:
            overlap[:, overlap[row].argmax()] = 0
            count += 1
    return count


def drawn(images: Tensor, columns: Mapping[str, Sequence[Tensor]], names: Sequence[str]) -> Image.Image:
    """Return a picture with one row for each image, and one column for each network, under its name.

    images: uint8 [N, 3, H, W]. columns: the boxes of each image, by network. names: those of the classes.
    """
    head = 24
    picture = Image.new("RGB", (SIDE * len(columns), head + SIDE * len(images)), "white")
    for column, (title, boxes) in enumerate(columns.items()):
        ImageDraw.Draw(picture).text((column * SIDE + 6, 6), title, "black")
        for row, (pixels, each) in enumerate(zip(images, boxes, strict=True)):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((SIDE, SIDE))
            draw = ImageDraw.Draw(image)
            for *corners, score, number in each.tolist():
                color = COLORS[int(number) % len(COLORS)]
                left, top, right, bottom = (SIDE * min(max(corner, 0.0), 1.0) for corner in corners)
                draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=2)
                label, at = f"{names[int(number)]} {score:.2f}", (left + 4, top + 2)
                draw.rectangle(draw.textbbox(at, label), fill=color)
                draw.text(at, label, "white" if number % len(COLORS) in DARK else "black")
            picture.paste(image, (column * SIDE, head + row * SIDE))
    return picture
