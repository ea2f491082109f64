"""Networks and inputs that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from qffs.data import Dataset
from qffs.nn.quantizer import Quantizer
from qffs.runs import inputs, measure, same_data


class Residual(nn.Module):
    """Everything the method names in one small network.

    Batch norm before and after convolutions, biases, max and average pooling, a shortcut with parameters and one
    without, an `nn.ReLU` called twice.
    """

    def __init__(self, blocks: int = 2, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(blocks))
        self.early = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.stem(x)))
        x = torch.relu(self.early(x)) + 0.25
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = self.relu(norm(conv(x)) + (self.shortcut(x) if number % 2 else x))
        x = nn.functional.avg_pool2d(x, 2)
        return self.head(x.view(x.size(0), -1))


IMAGE = (2, 8, 8)


def randomize(model: nn.Module, seed: int) -> nn.Module:
    """Random batch norm statistics, as training would leave them, and biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            tensor.data.copy_(0.5 + values.abs())
        elif tensor.dim() == 1:
            tensor.data.copy_(0.3 * values + (1.0 if _is_norm_weight(model, name) else 0.0))
        elif tensor.dim() > 1:
            tensor.data.copy_(values * (2 / tensor[0].numel()) ** 0.5)
    return model.eval()


def _is_norm_weight(model: nn.Module, name: str) -> bool:
    path, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(model.get_submodule(path), nn.modules.batchnorm._BatchNorm)


def network(seed: int = 0, dtype: torch.dtype = torch.float64, **options: int) -> nn.Module:
    """A `Residual` network with random weights."""
    torch.manual_seed(seed)
    return randomize(Residual(**options), seed).to(dtype)


def images(seed: int = 0, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    """A batch for `network`."""
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(dtype)


def calibrated(model: nn.Module, x: Tensor, bits: Any = None, output: Any = "analog", **options: Any) -> fx.GraphModule:
    """The calibrated quantized network of ``model``."""
    qann = qffs.quantize(model, bits, output, example=x, **options)
    qffs.calibrate(qann, [x], "lsq")
    return qann.eval()


def dyadic(seed: int, blocks: int = 1, offset: float = 0.5) -> tuple[fx.GraphModule, Tensor]:
    """A calibrated network and a batch whose every sum is exact in float64: few-bit weights, inputs and step sizes.

    Sums often end exactly on a tie between two levels here, which random weights never do.
    """
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    for _ in range(blocks):
        model.extend([nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()])
    model.extend([nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 3)])
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randint(-4, 5, parameter.shape, generator=generator).double() / 8
    x = torch.randint(-8, 9, (3, *IMAGE), generator=generator).double() / 4
    qann = calibrated(model.double(), x, offset=offset)
    for module in qann.modules():
        if isinstance(module, Quantizer):
            module.set_step_size(2.0 ** torch.log2(module.step_size).round().item())
    return qann, x


def losses_of_training(qann: nn.Module, x: Tensor, labels: Tensor) -> list[float]:
    """The losses of 30 steps of an ordinary training loop."""
    optimizer = torch.optim.SGD(qann.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(qann(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def instead_of_data(monkeypatch: pytest.MonkeyPatch, read: Callable[..., Dataset]) -> None:
    """Let every job read these data, whatever it is told to read."""
    for module in (inputs, measure, same_data):
        monkeypatch.setattr(module, "load_data", read)
