"""Networks whose maps are joined along their channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1, batch norm, ReLU, 3x3 of all maps before it."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(before), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, 2 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(2 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        bottleneck = self.conv1(self.relu1(self.norm1(torch.cat(inputs, 1))))
        out = self.conv2(self.relu2(self.norm2(bottleneck)))
        return F.dropout(out, p=0.1, training=self.training)


class DenseBlock(nn.ModuleDict):
    """Every layer reads all before it."""

    def __init__(self, layers: int, before: int, growth: int) -> None:
        super().__init__()
        for number in range(layers):
            self.add_module(f"denselayer{number + 1}", DenseLayer(before + number * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Dense blocks with a transition between them."""

    def __init__(self) -> None:
        super().__init__()
        transition = (nn.BatchNorm2d(10), nn.ReLU(inplace=True), nn.Conv2d(10, 5, 1, bias=False), nn.AvgPool2d(2, 2))
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(DenseBlock(3, 4, 2), nn.Sequential(*transition), DenseBlock(3, 5, 2), nn.BatchNorm2d(11)),
        )
        self.classifier = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class BasicConv(nn.Module):
    """A convolution, batch norm and a functional ReLU."""

    def __init__(self, before: int, after: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, bias=False, **options)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches: 1x1, 3x3, twice 3x3, a pool."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.branch1 = BasicConv(before, width, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv(before, width, kernel_size=1), BasicConv(width, width, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv(before, width, kernel_size=1), BasicConv(width, width, kernel_size=5, padding=2)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True), BasicConv(before, width, kernel_size=1)
        )

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1)


class Reduction(nn.Module):
    """Half the resolution by a strided convolution beside a max pool."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.branch = BasicConv(before, width, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, kernel_size=3, stride=2)
        averaged = F.avg_pool2d(x, kernel_size=3, stride=2)
        return torch.cat([self.branch(x), pooled, averaged], dim=1)


class GoogLeNet(nn.Module):
    """Inception blocks after a pooled stem; two heads, as in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = BasicConv(3, 4, kernel_size=3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception1, self.inception2 = Inception(4, 2), Inception(8, 2)
        self.reduction = Reduction(8, 4)
        self.dropout, self.fc = nn.Dropout(0.4), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clone(x)
        x = self.pool(self.stem(x))
        x = self.reduction(self.inception2(self.inception1(x)))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.fc(self.dropout(torch.flatten(x, 1)))


class CrossStage(nn.Module):
    """Half the channels pass by the blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.half = width // 2
        self.conv = conv_norm_relu(width, width, 1)
        self.blocks = nn.ModuleList(conv_norm_relu(self.half, self.half) for _ in range(2))
        self.transition = conv_norm_relu(width + self.half, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        aside, out = torch.split(self.conv(x), [self.half, self.half], dim=1)
        parts = [aside, out]
        for block in self.blocks:
            out = out + block(out)
        parts.append(out)
        return self.transition(torch.cat(parts, 1))


class FastPyramid(nn.Module):
    """The same max pool one, two and three times, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = conv_norm_relu(width, width // 2, 1), conv_norm_relu(width * 2, width, 1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y1 = self.pool(x)
        y2 = self.pool(y1)
        return self.after(torch.cat((x, y1, y2, self.pool(y2)), 1))


def csp() -> nn.Module:
    body = (CrossStage(6), FastPyramid(6))
    return nn.Sequential(conv_norm_relu(3, 6, stride=2), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


class SpatialPyramid(nn.Module):
    """Maps pooled to several sizes and joined: as many features whatever the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_norm_relu(3, 4, stride=2), conv_norm_relu(4, 4))
        self.fc = nn.Linear(4 * (1 + 4 + 16), 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        levels = [F.adaptive_max_pool2d(x, size).view(x.shape[0], -1) for size in (1, 2, 4)]
        return self.fc(torch.cat(levels, dim=-1))


JOINED = {
    "densenet": Subject(DenseNet),
    "googlenet": Subject(GoogLeNet, ((3, 32, 32),), seed=1),
    "csp": Subject(csp),
    "spatial_pyramid_pooling": Subject(SpatialPyramid),
}
