"""Networks of residual blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


def projection(before: int, after: int, stride: int) -> nn.Module | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class Basic(nn.Module):
    """Two convolutions and one in-place ReLU that is called twice."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1."""

    expansion = 2
    groups = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=self.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Grouped(Bottleneck):
    """A bottleneck of grouped convolutions."""

    groups = 2


class Early(nn.Module):
    """Batch norm and ReLU before each convolution."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if before != width or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if self.shortcut is not None else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += shortcut
        return out


class ResNet(nn.Module):
    """Stem, stages of blocks, the mean of the map, a linear layer."""

    def __init__(self, block: Callable[..., nn.Module], counts: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.before = widths[0]
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = [
            self._stage(block, *each, 1 if i == 0 else 2) for i, each in enumerate(zip(widths, counts, strict=True))
        ]
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.before, 5)

    def _stage(self, block: Callable[..., nn.Module], width: int, count: int, stride: int) -> nn.Sequential:
        blocks = []
        for number in range(count):
            blocks.append(block(self.before, width, stride if number == 0 else 1))
            self.before = width * block.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layers(x))
        return self.fc(torch.flatten(x, 1))


class PreActivation(ResNet):
    """No batch norm after the stem, one after the last sum."""

    def __init__(self) -> None:
        super().__init__(Early, (2, 2), (4, 8))
        self.bn1 = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.layers(self.conv1(x))))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(x.view(x.size(0), -1))


class ThreeBranches(nn.Module):
    """A 3x3, a 1x1 and the identity, each with its batch norm, summed."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))
        self.pointwise = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.identity = nn.BatchNorm2d(before) if before == after and stride == 1 else None
        self.nonlinearity = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        identity = 0 if self.identity is None else self.identity(x)
        return self.nonlinearity(self.dense(x) + self.pointwise(x) + identity)


def repvgg() -> nn.Module:
    blocks = [ThreeBranches(3, 4, 2), ThreeBranches(4, 4), ThreeBranches(4, 8, 2), ThreeBranches(8, 8)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class Standardized(nn.Conv2d):
    """A convolution whose weight is standardized, and its bias scaled, whenever it is called."""

    def __init__(self, before: int, after: int, size: int, **options: int) -> None:
        super().__init__(before, after, size, **options)
        self.gain = nn.Parameter(torch.ones(after, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        weight = self.gain * (self.weight - mean) / torch.sqrt(variance + 1e-10)
        bias = self.bias * self.gain.flatten()
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class NormalizerFree(nn.Module):
    """Scaled residual branches of standardized convolutions, without any norm."""

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        self.stem = Standardized(3, 4, 3, stride=2, padding=1)
        self.first = nn.ModuleList(Standardized(4, 4, 3, padding=1, groups=2) for _ in range(2))
        self.second = nn.ModuleList(Standardized(4, 4, 1) for _ in range(2))
        self.alpha, self.betas = alpha, (1.0, 1.1)
        self.skip_gain = nn.Parameter(torch.tensor(-0.4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second, beta in zip(self.first, self.second, self.betas, strict=True):
            out = F.relu(x) / beta
            out = second(F.relu(first(out)))
            x = x + out.mul_(self.skip_gain + 1.0) * self.alpha
        return self.head(F.relu(x).mean((2, 3)))


class Highway(nn.Module):
    """A stack of the same block, its weights shared, with the input added at every depth."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 4, stride=2)
        self.block = conv_norm_relu(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = start = self.stem(x)
        for _ in range(3):
            state = self.block(state + start)
        return self.head(state.mean(dim=[-2, -1]))


RESIDUAL = {
    "resnet18": Subject(lambda: ResNet(Basic, (2, 2, 2, 2), (4, 4, 8, 8)), ((3, 32, 32),)),
    "resnet50": Subject(lambda: ResNet(Bottleneck, (2, 2, 2), (2, 4, 4)), ((3, 32, 32),)),
    "resnext": Subject(lambda: ResNet(Grouped, (1, 1), (4, 8)), ((3, 32, 32),)),
    "preactivation_resnet": Subject(PreActivation),
    "repvgg": Subject(repvgg),
    "weight_standardized": Subject(NormalizerFree),
    "shared_block": Subject(Highway),
}
