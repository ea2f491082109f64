"""FastestDet: a detector for COCO's 80 classes, with ReLUs only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.models.weights import load_weights, read_weights
from real.boxes import Reader, distinct
from real.photographs import detecting
from real.subject import SHARED, Choice, Subject

STAGES = {"stage2": (4, 48), "stage3": (8, 96), "stage4": (4, 192)}
"""The number of blocks and the channels of each stage."""
DEPTHS = (1, 2, 3)
"""The numbers of convolutions in the branches of the spatial pyramid pooling."""

SIDE = 352
"""The height and width of the images, in pixels."""
LEAST_SCORE, OVERLAP = 0.65, 0.45
"""The least score of an object, and the overlap of two boxes of the same object, as its author chose them."""
NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush
"""
CLASSES = tuple(name.strip() for name in NAMES.split(","))
"""COCO's classes, in their order."""


def convolution(inputs: int, outputs: int, side: int = 1, stride: int = 1, *, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias, padded to keep height and width at stride 1, and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def depthwise(channels: int, side: int, stride: int = 1) -> list[nn.Module]:
    """Return a depthwise convolution with its batch norm."""
    return convolution(channels, channels, side, stride, groups=channels)


class Unit(nn.Module):
    """A unit of ShuffleNet V2 (Ma et al., ECCV 2018): two branches whose channels are joined.

    With stride 1, the channels with even numbers pass, and those with odd numbers are the input of the main branch;
    with stride 2, both branches read all channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        read = inputs if stride == 2 else inputs // 2
        first, last = convolution(read, half), convolution(half, outputs - read)
        self.branch_main = nn.Sequential(*first, nn.ReLU(), *depthwise(half, 3, stride), *last, nn.ReLU())
        self.branch_proj: nn.Module | None = None
        if stride == 2:
            self.branch_proj = nn.Sequential(*depthwise(read, 3, 2), *convolution(read, read), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels of both branches, ``[B, outputs, H / stride, W / stride]``."""
        if self.branch_proj is None:
            return torch.cat([x[:, ::2], self.branch_main(x[:, 1::2])], 1)
        return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)


class Backbone(nn.Module):
    """The first convolution, max pooling, and three stages of units."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 24
        self.first_conv = nn.Sequential(*convolution(3, inputs, 3, 2), nn.ReLU())
        for stage, (count, outputs) in STAGES.items():
            rest = [Unit(outputs, outputs, 1) for _ in range(count - 1)]
            self.add_module(stage, nn.Sequential(Unit(inputs, outputs, 2), *rest))
            inputs = outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features after each stage, of 1/8, 1/16 and 1/32 of the height and width."""
        x, features = F.max_pool2d(self.first_conv(x), 3, 2, 1), []
        for stage in STAGES:
            x = self.get_submodule(stage)(x)
            features.append(x)
        return features


class Named(nn.Sequential):
    """A sequence inside a module of its own, for names such as ``conv1x1.conv1x1.0``."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))


class Pyramid(nn.Module):
    """Spatial pyramid pooling by one, two and three depthwise convolutions of 5 x 5, with a shortcut."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Named("conv1x1", *convolution(inputs, width), nn.ReLU())
        for depth in DEPTHS:
            layers = [layer for _ in range(depth) for layer in (*depthwise(width, 5), nn.ReLU())]
            self.add_module(f"S{depth}", nn.Sequential(*layers))
        self.output = nn.Sequential(*convolution(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, width, H, W]``."""
        x = self.Conv1x1(x)
        features = [self.get_submodule(f"S{depth}")(x) for depth in DEPTHS]
        return F.relu(x + self.output(torch.cat(features, 1)))


class Head(nn.Module):
    """The three outputs at every place: whether there is an object, its box, and its class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Named("conv1x1", *convolution(width, width), nn.ReLU())
        heads = (
            Named("conv5x5", *depthwise(width, 5), nn.ReLU(), *convolution(width, outputs))
            for outputs in (1, 4, classes)
        )
        self.obj_layers, self.reg_layers, self.cls_layers = heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``[B, 1, H, W]``, ``[B, 4, H, W]`` and ``[B, classes, H, W]``."""
        x = self.conv1x1(x)
        return self.obj_layers(x), self.reg_layers(x), self.cls_layers(x)


class FastestDet(nn.Module):
    """The detector, from images ``[B, 3, 352, 352]`` with channels in the order blue, green, red, divided by 255.

    Its names are those of dog-qiuqiu/FastestDet. There the outputs pass a sigmoid and a softmax at the end; here they
    are the numbers before these, which the decoding of the boxes can apply.
    """

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        width = 96
        self.backbone = Backbone()
        self.SPP = Pyramid(sum(channels for _, channels in STAGES.values()), width)
        self.detect_head = Head(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return objectness ``[B, 1, 22, 22]``, boxes ``[B, 4, 22, 22]`` and class scores ``[B, classes, 22, 22]``."""
        fine, middle, coarse = self.backbone(x)
        scaled = [F.avg_pool2d(fine, 3, 2, 1), middle, F.interpolate(coarse, scale_factor=2.0)]
        objects, boxes, classes = self.detect_head(self.SPP(torch.cat(scaled, 1)))
        return objects, boxes, classes


def read(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the boxes of each image, see `real.boxes`, one for each place before the distinct ones are chosen."""
    objects, boxes, classes = (each.float().flatten(2).transpose(1, 2) for each in outputs)
    height, width = outputs[0].shape[2:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1)
    center = (boxes[..., :2].tanh() + places) / torch.tensor([width, height])
    half = boxes[..., 2:].sigmoid() / 2
    best = classes.softmax(-1).max(-1, keepdim=True)
    scores = objects.sigmoid() ** 0.6 * best.values**0.4  # so weighted by its author
    all_boxes = torch.cat([center - half, center + half, scores, best.indices.float()], -1)
    return [distinct(each[each[:, 4] >= LEAST_SCORE], OVERLAP) for each in all_boxes]


READER = Reader(read, CLASSES)


def fastestdet(choice: Choice) -> Subject:
    """Return FastestDet with its published weights."""
    network, path = FastestDet(), SHARED / "fastestdet.safetensors"
    load_weights(network, read_weights(path), path.name)
    # Trained on images in OpenCV's order of channels.
    outputs = ("objects", "boxes", "classes")
    return detecting(network, choice, SIDE, lambda images: images.flip(1).float() / 255, outputs, READER)
