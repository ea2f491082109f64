"""Transformers whose activation is a ReLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject


class Attention(nn.Module):
    """Softmax attention, queries, keys and values of all heads by one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = self.attn_drop(attn.softmax(dim=-1))
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class Fused(Attention):
    """The same by one function, each of the three by its index."""

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.heads, -1).transpose(1, 3)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(x.transpose(1, 2).flatten(2))


class Einsum(nn.Module):
    """Attention in Einstein's notation, three linear layers without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t(x).reshape(b, n, self.heads, -1) for t in (self.to_q, self.to_k, self.to_v))
        similarity = torch.einsum("bihd,bjhd->bhij", q, k) / (q.shape[-1] ** 0.5)
        out = torch.einsum("bhij,bjhd->bihd", torch.softmax(similarity, dim=-1), v)
        return self.to_out(out.reshape(b, n, -1))


class Multihead(nn.Module):
    """PyTorch's own attention of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.self_attention(x, x, x, need_weights=False)
        return x


class Linear(nn.Module):
    """Attention without a softmax: ReLU features, keys times values first, no normalizer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.kernel = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = self.kernel(q), self.kernel(k)
        return self.proj(torch.matmul(q, torch.matmul(k.transpose(-1, -2), v)) / x.size(1))


class Block(nn.Module):
    """Layer norm before attention and before the two linear layers."""

    def __init__(self, attention: type[nn.Module], width: int, heads: int = 2) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, positions, blocks, and the class token classified."""

    def __init__(self, attention: type[nn.Module], width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.Sequential(*(Block(attention, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((tokens, x), dim=1)
        x = self.blocks(x + self.pos_embed)
        return self.head(self.norm(x)[:, 0])


ATTENTION = {
    "vit": Subject(lambda: ViT(Attention), spiking=False),
    "vit_fused": Subject(lambda: ViT(Fused), spiking=False),
    "vit_einsum": Subject(lambda: ViT(Einsum), spiking=False),
    "vit_multihead": Subject(lambda: ViT(Multihead), spiking=False),
    "vit_linear": Subject(lambda: ViT(Linear), spiking=False),
}
