"""Plain stacks of convolutions, in one, two and three dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from helpers.networks.subject import Subject


class VGG(nn.Module):
    """Convolutions and max pools by a list, an adaptive average pool, three linear layers with dropout."""

    layers = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M")

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        features: list[nn.Module] = []
        before = 3
        for layer in self.layers:
            if layer == "M":
                features.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            features.append(nn.Conv2d(before, layer, kernel_size=3, padding=1))
            features += [nn.BatchNorm2d(layer)] if batch_norm else []
            features.append(nn.ReLU(inplace=True))
            before = layer
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        hidden = (nn.Linear(8 * 2 * 2, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Dropout())
        self.classifier = nn.Sequential(*hidden, nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def alexnet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, 2, 2), nn.ReLU(inplace=True), nn.LocalResponseNorm(3, alpha=0.1, k=2.0)),
        nn.MaxPool2d(3, 2),
        *(nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.LocalResponseNorm(3, alpha=0.1, k=2.0)),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *(nn.Dropout(0.5), nn.Linear(8, 12), nn.ReLU(inplace=True), nn.Linear(12, 5)),
    )


class LeNet(nn.Module):
    """The first network of many a tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 8, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.dropout = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(8 * 2 * 2, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = F.relu(F.max_pool2d(self.dropout(self.conv2(x)), 2))
        x = x.view(-1, 8 * 2 * 2)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class Functional(nn.Module):
    """Nothing but functions, of its own parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.zeros(4, 3, 3, 3)), nn.Parameter(torch.zeros(4))
        self.w2 = nn.Parameter(torch.zeros(6, 2, 3, 3))
        self.w3, self.b3 = nn.Parameter(torch.zeros(8, 6 * 4 * 4)), nn.Parameter(torch.zeros(8))
        self.w4 = nn.Parameter(torch.zeros(5, 8))
        self.gamma, self.beta = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.w1, self.b1, stride=2, padding=1))
        x = F.conv2d(x, self.w2, padding=1, groups=2)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.gamma, self.beta, training=self.training)
        x = F.max_pool2d(F.relu(x, inplace=True), kernel_size=2)
        x = F.relu(F.linear(torch.flatten(x, start_dim=1), self.w3, bias=self.b3))
        return F.linear(F.dropout(x, 0.2, self.training), self.w4)


def normed() -> nn.Module:
    """Norms that depend on the image."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, 1, 1), nn.InstanceNorm2d(6, affine=True), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, 1, 1), nn.InstanceNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )


def signal() -> nn.Module:
    """A net for waveforms: large kernels, strides, dilation."""
    return nn.Sequential(
        *(nn.Conv1d(1, 6, 9, stride=4, padding=4), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(6, 8, 3, padding=2, dilation=2), nn.BatchNorm1d(8), nn.ReLU(), nn.AvgPool1d(2)),
        *(nn.Conv1d(8, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten()),
        *(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 5)),
    )


def video() -> nn.Module:
    """A net for volumes, its second convolution taken apart into space and time."""
    return nn.Sequential(
        *(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d((1, 2, 2), (1, 2, 2))),
        *(nn.Conv3d(4, 5, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(5), nn.ReLU()),
        *(nn.Conv3d(5, 6, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(6), nn.ReLU()),
        *(nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 5)),
    )


class Convmixer(nn.Module):
    """Residual depthwise convolutions and pointwise ones, each followed by ReLU and batch norm."""

    class Residual(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + x

    def __init__(self, width: int = 6, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, width, 2, 2), nn.ReLU(), nn.BatchNorm2d(width))
        depthwise = [nn.Conv2d(width, width, 5, groups=width, padding="same") for _ in range(depth)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    self.Residual(nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(width))),
                    *(nn.Conv2d(width, width, 1), nn.ReLU(), nn.BatchNorm2d(width)),
                )
                for conv in depthwise
            )
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(width, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x)))


class Blurred(nn.Module):
    """Every other place of a map that was blurred before, reflected at its edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (row[:, None] * row[None, :] / 16).repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.kernel, stride=2, groups=x.shape[1])


def antialiased() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4), nn.ReLU(), Blurred(4)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, stride=1), Blurred(6)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )


def weight_normed() -> nn.Module:
    """Convolutions with a parametrised weight."""
    return nn.Sequential(
        *(weight_norm(nn.Conv1d(2, 6, 3)), nn.ReLU(), weight_norm(nn.Conv1d(6, 6, 3, stride=2)), nn.ReLU()),
        *(nn.Flatten(), weight_norm(nn.Linear(36, 5))),
    )


CONVOLUTIONAL = {
    "lenet": Subject(LeNet, ((1, 16, 16),), spiking=False),
    "vgg16": Subject(lambda: VGG(batch_norm=False), ((3, 32, 32),)),
    "vgg16_bn": Subject(lambda: VGG(batch_norm=True), ((3, 32, 32),)),
    "alexnet": Subject(alexnet, spiking=False),
    "functional": Subject(Functional),
    "group_norm": Subject(normed, spiking=False),
    "conv1d": Subject(signal, ((1, 128),)),
    "conv3d": Subject(video, ((2, 4, 8, 8),)),
    "convmixer": Subject(Convmixer),
    "antialiased": Subject(antialiased),
    "weight_norm": Subject(weight_normed, ((2, 16),)),
}
