"""Networks whose code reads shapes, types and devices: to check, to choose, to count, to make tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


class Checked(nn.Module):
    """Assertions on the input, and a map padded where its size is odd."""

    def __init__(self, size: int = 15) -> None:
        super().__init__()
        self.size = (size, size)
        self.stem, self.body = conv_norm_relu(3, 4), conv_norm_relu(4, 6, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        assert self.size == (H, W), f"images must be {self.size}, not {(H, W)}"
        if C != 3:
            raise ValueError("images must have three channels")
        x = self.stem(x)
        if x.shape[-1] % 2 == 1 or H % 2 == 1:
            x = F.pad(x, (0, W % 2, 0, H % 2))
        x = self.body(x)
        x = F.avg_pool2d(x, kernel_size=(x.shape[2], x.shape[3]))
        return self.head(x.view(B, -1))


class Unrolled(nn.Module):
    """A recurrent network by hand: a state of zeros, and as many steps as the input has."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.i2h, self.h2h, self.h2o = nn.Linear(3, width), nn.Linear(width, width, bias=False), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros(x.size(0), self.width, dtype=x.dtype, device=x.device)
        outputs = []
        for t in range(x.size(1)):
            hidden = torch.relu(self.i2h(x[:, t]) + self.h2h(hidden))
            outputs.append(self.h2o(hidden))
        return torch.stack(outputs, dim=1), hidden


class Numbered(nn.Module):
    """Words and their places, both looked up, through convolutions over time."""

    def __init__(self, words: int = 20, width: int = 6) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(16, width)
        self.conv, self.fc = nn.Conv1d(width, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1], device=words.device).unsqueeze(0).expand_as(words)
        x = self.words(words) + self.places(places)
        x = F.relu(self.conv(x.transpose(1, 2)))
        return self.fc(x.amax(dim=-1))


class Normalizing(nn.Module):
    """Bytes to numbers of mean 0, in the type of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.2, 0.3, 0.2]).view(1, 3, 1, 1))
        self.features = nn.Sequential(conv_norm_relu(3, 4, stride=2), conv_norm_relu(4, 6, stride=2))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.fc.weight.dtype).div(255)
        x = (x - self.shift) / self.scale.abs()
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return self.fc(x.mean(3).mean(2))


class Cosine(nn.Module):
    """The rows and columns as two more maps; features of length one against classes of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_norm_relu(5, 4, stride=2), nn.Flatten(), nn.Linear(144, 8))
        self.weight = nn.Parameter(torch.zeros(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        columns = torch.linspace(-1, 1, w).to(x).view(1, 1, 1, w).expand(b, -1, h, -1)
        features = self.features(torch.cat([x, rows, columns], dim=1))
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight)) * 16.0


SHAPES = {
    "checked": Subject(Checked, ((3, 15, 15),)),
    "unrolled": Subject(Unrolled, ((5, 3),)),
    "numbered": Subject(Numbered, ((9,),), tokens=20),
    "normalizing": Subject(Normalizing, tokens=256),
    "cosine": Subject(Cosine, ((3, 12, 12),), spiking=False),
}
