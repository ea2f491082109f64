"""Images cut into parts that are handled as if they were more images, and put together again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


class WindowAttention(nn.Module):
    """Attention with a learned bias by relative position; ``mask`` where a window holds parts far from each other."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.scale, self.length = heads, (width // heads) ** -0.5, size * size
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        apart = (places[:, :, None] - places[:, None, :]) + size - 1
        self.register_buffer("index", apart[0] * (2 * size - 1) + apart[1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(self.length, self.length, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            attn = attn.view(B_ // windows, windows, self.heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.heads, N, N)
        attn = torch.softmax(attn, dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(B_, N, C))


class Windowed(nn.Module):
    """Attention inside of windows of a channels-last map, every other time of the shifted map."""

    def __init__(self, width: int, heads: int, size: int, shift: int, resolution: int = 4) -> None:
        super().__init__()
        self.size, self.shift = size, shift
        self.register_buffer("mask", self._mask(resolution) if shift else None)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, size)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def _mask(self, resolution: int) -> Tensor:
        """-100 between places of a shifted window that are no neighbors."""
        parts = (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None))
        region = torch.zeros(resolution, resolution)
        for number, (rows, columns) in enumerate((r, c) for r in parts for c in parts):
            region[rows, columns] = number
        few = resolution // self.size
        region = region.view(few, self.size, few, self.size).permute(0, 2, 1, 3).reshape(few * few, -1)
        return (region[:, None, :] != region[:, :, None]) * -100

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        size, shortcut = self.size, x
        x = self.norm1(x)
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = x.view(B, H // size, size, W // size, size, C)
        windows = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, C)
        windows = self.attn(windows, mask=self.mask).view(B, H // size, W // size, size, size, C)
        x = windows.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, C)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """Windowed attention, then every other row and column merged into channels."""

    def __init__(self, width: int = 6, shift: int = 0) -> None:
        super().__init__()
        self.embed = conv_norm_relu(3, width, 4, 4)
        self.blocks = nn.ModuleList([Windowed(width, 2, 2, 0), Windowed(width, 2, 2, shift)])
        self.reduction = nn.Linear(4 * width, width, bias=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)[:, :, :4, :4].permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        corners = [x[:, row::2, column::2, :] for row in (0, 1) for column in (0, 1)]
        x = self.reduction(torch.cat(corners, -1))
        return self.head(x.mean(dim=(1, 2)))


class Frames(nn.Module):
    """Every frame of a film through the same convolutions; the mean of what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_norm_relu(3, 4, stride=2), nn.MaxPool2d(2), conv_norm_relu(4, 6))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.size()
        x = self.pool(self.backbone(x.view(b * t, c, h, w)))
        return self.fc(x.view(b, t, -1).mean(dim=1))


WINDOWS = {
    "windows": Subject(Swin, spiking=False),
    "shifted_windows": Subject(lambda: Swin(shift=1), spiking=False),
    "frames": Subject(Frames, ((4, 3, 8, 8),)),
}
