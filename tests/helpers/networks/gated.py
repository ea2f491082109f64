"""Maps that are weighted by what other maps say, and the blocks that came after: more than spikes is sent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.residual import Basic, ResNet
from helpers.networks.subject import Subject, conv_norm_relu


class Excited(Basic):
    """A basic block whose channels are weighted by what the whole map says."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__(before, width, stride)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(width, width // 2, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(width // 2, width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        b, c, _, _ = out.size()
        weight = self.fc(self.pool(out).view(b, c)).view(b, c, 1, 1)
        out = out * weight.expand_as(out)
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class MobileNetV3(nn.Module):
    """Hard swish, and a squeeze-and-excitation with a hard sigmoid written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.Hardswish())
        self.depthwise = conv_norm_relu(4, 4, 5, groups=4)
        self.fc1, self.fc2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.project = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.depthwise(x)
        scale = F.adaptive_avg_pool2d(out, output_size=1)
        scale = self.fc2(F.relu(self.fc1(scale), inplace=True))
        scale = F.relu6(scale + 3.0) / 6.0
        x = x + self.project(scale * out)
        return self.head(F.hardswish(x).flatten(2).mean(-1))


class TwoGates(nn.Module):
    """A gate for the channels by mean and maximum, then one for the places by the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1))
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        channels = self.shared(F.adaptive_avg_pool2d(x, 1)) + self.shared(F.adaptive_max_pool2d(x, 1))
        x = self.sigmoid(channels) * x
        mean = torch.mean(x, dim=1, keepdim=True)
        highest, _ = torch.max(x, dim=1, keepdim=True)
        return x * self.sigmoid(self.conv(torch.cat([mean, highest], dim=1)))


def cbam() -> nn.Module:
    body = (conv_norm_relu(3, 6, stride=2), TwoGates(6), conv_norm_relu(6, 6))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


class DropPath(nn.Module):
    """Leave out a branch for some images while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if self.probability == 0.0 or not self.training:
            return x
        kept = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.probability)
        return x * kept / (1 - self.probability)


class ChannelsFirst(nn.LayerNorm):
    """Layer norm over dimension 1."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Next(nn.Module):
    """A large depthwise kernel, layer norm and two linear layers channels last, scaled by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        self.gamma, self.drop_path = nn.Parameter(torch.ones(width)), DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        x = self.gamma * self.pwconv2(self.act(self.pwconv1(x)))
        return shortcut + self.drop_path(x.permute(0, 3, 1, 2))


class ConvNext(nn.Module):
    """Patches, blocks, fewer patches, blocks, the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 2, 2), ChannelsFirst(4))
        self.stages = nn.Sequential(Next(4), ChannelsFirst(4), nn.Conv2d(4, 6, 2, 2), Next(6), Next(6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean([-2, -1])))


GATED = {
    "se_resnet": Subject(lambda: ResNet(Excited, (1, 1), (4, 8)), ((3, 32, 32),), spiking=False),
    "mobilenet_v3": Subject(MobileNetV3, spiking=False),
    "cbam": Subject(cbam, spiking=False),
    "convnext": Subject(ConvNext, spiking=False),
}
