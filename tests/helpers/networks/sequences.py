"""Networks of sequences: words, and signals over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject


class TextCNN(nn.Module):
    """Words, convolutions of several widths, the maximum over time."""

    def __init__(self, words: int = 20, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.convs = nn.ModuleList(nn.Conv2d(1, 4, (size, width)) for size in (2, 3))
        self.fc = nn.Linear(8, 5)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words).unsqueeze(1)
        maps = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        x = torch.cat([F.max_pool1d(i, i.size(2)).squeeze(2) for i in maps], 1)
        return self.fc(x)


class Chomp(nn.Module):
    """Cut what a padded causal convolution sees of the future."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class Causal(nn.Module):
    """A block of two dilated causal convolutions: one padded and cut, one padded on the left."""

    def __init__(self, before: int, after: int, dilation: int) -> None:
        super().__init__()
        self.left = 2 * dilation
        self.conv1 = nn.Conv1d(before, after, 3, padding=self.left, dilation=dilation)
        self.chomp1, self.relu1, self.dropout1 = Chomp(self.left), nn.ReLU(), nn.Dropout(0.2)
        self.conv2 = nn.Conv1d(after, after, 3, dilation=dilation)
        self.downsample = nn.Conv1d(before, after, 1) if before != after else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout1(self.relu1(self.chomp1(self.conv1(x))))
        out = self.relu(self.conv2(F.pad(out, (self.left, 0))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Temporal(nn.Module):
    """Causal blocks of growing dilation; the last step is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(*(Causal(a, b, 2**i) for i, (a, b) in enumerate([(2, 5), (5, 5), (5, 6)])))
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.network(x)[:, :, -1])


class Sequence(nn.Module):
    """Features of every step, PyTorch's encoder, and the mean over the steps."""

    def __init__(self, width: int = 8, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        layer = nn.TransformerEncoderLayer(
            width, 2, dim_feedforward=12, activation="relu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.embed(x)).mean(dim=1))


class TimeFirst(nn.Module):
    """Attention as PyTorch has it by default: the steps in dimension 0, the batch in dimension 1."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.attention = nn.MultiheadAttention(width, 2)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))
        self.decoder = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.permute(1, 0, 2))
        attended, _ = self.attention(x, x, x)
        x = self.norm1(x + attended)
        x = self.norm2(x + self.feed(x))
        return self.decoder(x.mean(0))


class CausalAttention(nn.Module):
    """What comes later has a weight of exp(-inf)."""

    def __init__(self, width: int, heads: int, longest: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        seen = torch.tril(torch.ones(longest, longest, dtype=torch.int64))
        self.register_buffer("seen", seen.view(1, 1, longest, longest))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.width, dim=2)
        q, k, v = (each.view(B, T, self.heads, C // self.heads).transpose(1, 2) for each in (q, k, v))
        return self.c_proj(self.attend(q, k, v, T).transpose(1, 2).contiguous().view(B, T, C))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, T: int) -> Tensor:
        att = (q @ k.transpose(-2, -1)) * (1.0 / k.size(-1) ** 0.5)
        att = att.masked_fill(self.seen[:, :, :T, :T] == 0, float("-inf"))
        return F.softmax(att, dim=-1) @ v


class FusedCausalAttention(CausalAttention):
    """The same by one function."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, T: int) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)


class Decoder(nn.Module):
    """The next word at every place; words and their logits share a weight."""

    def __init__(self, attention: type[CausalAttention], words: int = 20, width: int = 8, longest: int = 12) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Parameter(torch.zeros(1, longest, width))
        self.ln1 = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.ln2 = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attn = nn.ModuleList(attention(width, 2, longest) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, width), nn.Dropout(0.1)) for _ in range(2)
        )
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.wte(words) + self.wpe[:, : words.size(1)]
        for ln1, attn, ln2, mlp in zip(self.ln1, self.attn, self.ln2, self.mlp, strict=True):
            x = x + attn(ln1(x))
            x = x + mlp(ln2(x))
        return self.lm_head(self.ln_f(x))


SEQUENCES = {
    "textcnn": Subject(TextCNN, ((9,),), tokens=20),
    "temporal": Subject(Temporal, ((2, 16),)),
    "transformer_encoder": Subject(Sequence, ((6, 3),), spiking=False),
    "transformer_encoder_norm_first": Subject(lambda: Sequence(norm_first=True), ((6, 3),), spiking=False),
    "time_first": Subject(TimeFirst, ((6, 3),), spiking=False),
    "decoder": Subject(lambda: Decoder(CausalAttention), ((7,),), spiking=False, tokens=20),
    "decoder_fused": Subject(lambda: Decoder(FusedCausalAttention), ((7,),), spiking=False, tokens=20),
}
