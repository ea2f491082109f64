"""Networks made to be small: depthwise convolutions, shuffled channels, squeezed maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


def conv_norm_relu6(before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(inplace=True),
    )


class Inverted(nn.Module):
    """Expand, depthwise, project without an activation; a shortcut where the shapes agree."""

    def __init__(self, before: int, after: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = before * expand
        self.use_shortcut = stride == 1 and before == after
        self.conv = nn.Sequential(
            *([] if expand == 1 else [conv_norm_relu6(before, hidden, 1)]),
            conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.use_shortcut:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals between two plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        settings = [(4, 4, 1, 1), (4, 6, 2, 3), (6, 6, 1, 3), (6, 8, 2, 3), (8, 8, 1, 3)]
        self.features = nn.Sequential(
            conv_norm_relu6(3, 4, stride=2), *(Inverted(*each) for each in settings), conv_norm_relu6(8, 12, 1)
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


def shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.size()
    x = x.view(b, groups, c // groups, h, w)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(b, -1, h, w)


class Shuffled(nn.Module):
    """Half the channels through the branch, or both halves with a stride; then shuffled."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        half = after // 2
        self.stride = stride
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
                nn.BatchNorm2d(before),
                conv_norm_relu(before, half, 1),
            )
        self.branch2 = nn.Sequential(
            conv_norm_relu(before if stride > 1 else half, half, 1),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            conv_norm_relu(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return shuffle(out, 2)


def shufflenet() -> nn.Module:
    units = [Shuffled(4, 8, 2), Shuffled(8, 8, 1), Shuffled(8, 12, 2), Shuffled(12, 12, 1)]
    head = (conv_norm_relu(12, 12, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    return nn.Sequential(conv_norm_relu(3, 4, stride=2), *units, *head)


class Ghost(nn.Module):
    """Some channels by a convolution, the rest by a cheap one of these, and no more than asked for."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.after = after
        few = (after + 1) // 2
        self.primary = conv_norm_relu(before, few, 1)
        self.cheap = conv_norm_relu(few, few, 3, groups=few)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary(x)
        x2 = self.cheap(x1)
        return torch.cat([x1, x2], dim=1)[:, : self.after, :, :]


def ghostnet() -> nn.Module:
    body = (Ghost(4, 9), Ghost(9, 11), nn.AvgPool2d(2, 2), Ghost(11, 8))
    return nn.Sequential(conv_norm_relu(3, 4, stride=2), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class Fire(nn.Module):
    """A squeezed map, then two sizes of kernel side by side."""

    def __init__(self, before: int, squeezed: int, after: int) -> None:
        super().__init__()
        self.squeeze, self.squeeze_activation = nn.Conv2d(before, squeezed, 1), nn.ReLU(inplace=True)
        self.expand1x1, self.expand1x1_activation = nn.Conv2d(squeezed, after, 1), nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, after, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


def squeezenet() -> nn.Module:
    """Classes by a convolution with a ReLU of its own, so the last mean is of spikes."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(6, 2, 4), Fire(8, 2, 4), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 3, 4), nn.Dropout(0.5)),
        *(nn.Conv2d(8, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
    )


MOBILE = {
    "mobilenet_v2": Subject(MobileNetV2, ((3, 32, 32),)),
    "shufflenet": Subject(shufflenet),
    "ghostnet": Subject(ghostnet),
    "squeezenet": Subject(squeezenet, ((3, 32, 32),)),
}
