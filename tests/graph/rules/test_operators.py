"""One row of the table, one case: every operator in the forms that people write it."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.operators import Form, check_every_form


def written(x: Tensor, index: Any, value: Any) -> Tensor:
    """``x`` after ``x[index] = value``."""
    x[index] = value
    return x


def raised(x: Tensor, index: Any, value: Any) -> Tensor:
    """``x`` after ``x[index] += value``."""
    x[index] += value
    return x


SUMS: dict[str, tuple[Form, ...]] = {
    "add": (
        lambda y, s, x: y + s.p,
        lambda y, s, x: 0.25 + y,
        lambda y, s, x: torch.add(y, s.q, alpha=-2),
        lambda y, s, x: torch.add(0.5, y),
        lambda y, s, x: y.add(1, alpha=3),
        lambda y, s, x: operator.add(s.c.view(-1, 1, 1), y),
        lambda y, s, x: y + y.shape[1],
        lambda y, s, x: y + s.mask,
        lambda y, s, x: torch.add(input=y, other=x[:, :1]),
        lambda y, s, x: s.p.add(y),
    ),
    "sub": (
        lambda y, s, x: 1 - y,
        lambda y, s, x: s.p - y,
        lambda y, s, x: torch.sub(y, other=0.5, alpha=2),
        lambda y, s, x: torch.sub(s.q, y, alpha=0.5),
        lambda y, s, x: y.sub(x.mean((1, 2, 3), keepdim=True)),
        lambda y, s, x: y.size(-1) - y,
    ),
    "subtract": (lambda y, s, x: torch.subtract(y, s.p, alpha=2), lambda y, s, x: y.subtract(0.25)),
    "rsub": (lambda y, s, x: torch.rsub(y, 1), lambda y, s, x: torch.rsub(y, s.p, alpha=2)),
}

JOINS: dict[str, tuple[Form, ...]] = {
    "cat": (
        lambda y, s, x: torch.cat([y, s.p.expand(x.shape[0], -1, -1, -1)], -3),
        lambda y, s, x: torch.cat((x, y, x), dim=1),
        lambda y, s, x: torch.cat(tensors=[y, y.new_ones(y.shape[0], 1, 6, 6)], dim=1),
        lambda y, s, x: torch.cat([y.transpose(0, 1), s.p.transpose(0, 1).expand(-1, y.shape[0], -1, -1)]).mean(0),
    ),
    "concat": (lambda y, s, x: torch.concat([y, 2 * y, x], 1),),
    "concatenate": (lambda y, s, x: torch.concatenate([y, y], axis=-1),),
    "stack": (
        lambda y, s, x: torch.stack([y, y + 1, s.p.expand_as(y)], dim=-1),
        lambda y, s, x: torch.stack([y, x.mean(1, keepdim=True).expand_as(y)]).sum(0),
    ),
    "hstack": (lambda y, s, x: torch.hstack([y, x]),),
    "vstack": (lambda y, s, x: torch.vstack([y.transpose(0, 1), x.transpose(0, 1)]).transpose(0, 1),),
    "dstack": (lambda y, s, x: torch.dstack([y, s.p.expand(y.shape[0], -1, -1, -1)]),),
    "where": (
        lambda y, s, x: torch.where(s.mask, y, 0.5),
        lambda y, s, x: torch.where(s.mask, s.p, y),
        lambda y, s, x: y.where(s.mask, 0.25),
        lambda y, s, x: s.p.where(s.mask, y),
        lambda y, s, x: torch.where(condition=s.mask, input=y, other=s.p),
        lambda y, s, x: y.masked_fill(s.mask, 0.75),
        lambda y, s, x: torch.masked_fill(y, mask=~s.mask, value=-1),
        lambda y, s, x: torch.where(s.mask, y, y.shape[1]),
        lambda y, s, x: torch.where(s.mask, y, x.shape[1] * s.p),
        lambda y, s, x: torch.where(s.mask, y, -math.inf).softmax(-1),
    ),
    "write": (
        lambda y, s, x: written(y.clone(), (slice(None), 0), 0.75),
        lambda y, s, x: written(torch.zeros_like(y), (slice(None), slice(None, None, 2)), y[:, 2:]),
        lambda y, s, x: written(written(y.new_ones(y.shape), (..., 0), y[..., 1]), (..., slice(2, 4)), s.p[..., :2]),
        lambda y, s, x: written(y + 0, (..., s.mask), -1),
        lambda y, s, x: written(y + 0, (slice(None), s.index[:2]), x * 0.5 + 1),
        lambda y, s, x: written(y + 0, (slice(None), slice(x.shape[1])), x.shape[1]),
        lambda y, s, x: written(s.p.expand_as(y).clone(), (slice(None), slice(1, 3)), x),
        lambda y, s, x: written(y.transpose(0, 1) + 0, 0, y[:, 1]).transpose(0, 1),
        lambda y, s, x: raised(y + 0, (slice(None), 1), s.p[:, 0]),
        lambda y, s, x: raised(raised(y + 0, (..., 0), 1), (slice(None), slice(2)), x) * y,
    ),
}

PRODUCTS: dict[str, tuple[Form, ...]] = {
    "mul": (
        lambda y, s, x: y * s.p,
        lambda y, s, x: 2 * y,
        lambda y, s, x: torch.mul(s.q, y),
        lambda y, s, x: y.mul(s.mask),
        lambda y, s, x: s.p.mul(other=y),
        lambda y, s, x: y * y.shape[1] ** -0.5,
    ),
    "multiply": (lambda y, s, x: torch.multiply(y, 0.3), lambda y, s, x: y.multiply(s.c.view(-1, 1, 1))),
    "matmul": (
        lambda y, s, x: y @ s.w,
        lambda y, s, x: s.w @ y,
        lambda y, s, x: torch.matmul(y, s.v),
        lambda y, s, x: y.matmul(s.w.t()),
        lambda y, s, x: torch.matmul(input=s.v, other=y),
        lambda y, s, x: s.p.transpose(-1, -2) @ y,
    ),
    "mm": (lambda y, s, x: torch.mm(y[:, 0, 0], s.w), lambda y, s, x: s.w.mm(y[:, 0, 0].t()).t()),
    "bmm": (
        lambda y, s, x: torch.bmm(y[:, 0], s.w.expand(y.shape[0], 6, 6)),
        lambda y, s, x: s.w.expand(y.shape[0], -1, -1).bmm(y[:, 1]),
    ),
    "mv": (lambda y, s, x: torch.mv(y[:, 0, 0], s.v), lambda y, s, x: y[:, 1, 2].mv(s.v)),
    "einsum": (
        lambda y, s, x: torch.einsum("bchw,wv->bhvc", y, s.w),
        lambda y, s, x: torch.einsum("wv,...v", s.w, y),
        lambda y, s, x: torch.einsum("bchw->bwh", y),
        lambda y, s, x: torch.einsum("c,bchw,w->bh", [s.c, y, s.v]),
    ),
    "tensordot": (
        lambda y, s, x: torch.tensordot(y, s.w, dims=1),
        lambda y, s, x: torch.tensordot(y, s.k[..., 0, 0], dims=([1], [0])),
        lambda y, s, x: torch.tensordot(s.w, y, dims=([1], [2])).movedim(1, 0),
    ),
    "inner": (lambda y, s, x: torch.inner(y, s.w), lambda y, s, x: y.inner(s.v)),
    "outer": (lambda y, s, x: torch.outer(y[:, 0, 0, 0], s.v), lambda y, s, x: s.v.outer(y[:, 1, 2, 3]).t()),
    "div": (
        lambda y, s, x: torch.div(y, 3),
        lambda y, s, x: y.div(s.q),
        lambda y, s, x: torch.div(y, other=s.q, rounding_mode=None),
    ),
    "divide": (lambda y, s, x: torch.divide(y, 0.3), lambda y, s, x: y.divide(s.q)),
    "true_divide": (lambda y, s, x: torch.true_divide(y, 7), lambda y, s, x: y.true_divide(s.q)),
    "truediv": (lambda y, s, x: y / s.q, lambda y, s, x: y / y.shape[1]),
    "neg": (lambda y, s, x: -y, lambda y, s, x: torch.neg(y), lambda y, s, x: y.neg()),
    "negative": (lambda y, s, x: torch.negative(y), lambda y, s, x: y.negative()),
}

REDUCTIONS: dict[str, tuple[Form, ...]] = {
    "mean": (
        lambda y, s, x: y.mean(-1, keepdim=True),
        lambda y, s, x: torch.mean(y, dim=(1, -1)),
        lambda y, s, x: torch.mean(input=y, axis=2),
        lambda y, s, x: y.mean(1, dtype=torch.float64),
    ),
    "sum": (lambda y, s, x: y.sum((1, -2)), lambda y, s, x: torch.sum(y, -1, keepdim=True)),
    "cumsum": (lambda y, s, x: y.cumsum(-1), lambda y, s, x: torch.cumsum(y, dim=1)),
    "diff": (lambda y, s, x: y.diff(), lambda y, s, x: torch.diff(y, n=2, dim=1)),
}

WEIGHTED: dict[str, tuple[Form, ...]] = {
    "linear": (
        lambda y, s, x: F.linear(y, s.w),
        lambda y, s, x: F.linear(y, s.w, s.v),
        lambda y, s, x: F.linear(input=y, weight=s.w, bias=s.v),
        lambda y, s, x: F.linear(y.transpose(0, 1), s.w, s.v).transpose(0, 1),
    ),
    "conv1d": (
        lambda y, s, x: F.conv1d(y[:, :, 0], s.k[..., 0], s.c, padding=1, groups=2),
        lambda y, s, x: torch.conv1d(y[:, :2, 0], s.k[..., 0], stride=2, dilation=2),
        lambda y, s, x: F.conv1d(input=y[:, 2:, 1], weight=s.k[..., 1], bias=s.c, padding="same"),
    ),
    "conv2d": (
        lambda y, s, x: F.conv2d(y, s.k, s.c, groups=2, padding=(1, 0)),
        lambda y, s, x: F.conv2d(y[:, :2], s.k, bias=s.c, stride=2, dilation=2, padding=2),
        lambda y, s, x: torch.conv2d(y[:, 1:3], s.k, padding="same"),
    ),
    "conv3d": (
        lambda y, s, x: F.conv3d(y.unsqueeze(2), s.k.unsqueeze(2), s.c, groups=2, padding=(0, 1, 1)),
        lambda y, s, x: torch.conv3d(y[:, None, :2], s.k[:, None], s.c),
    ),
    "conv_transpose1d": (
        lambda y, s, x: F.conv_transpose1d(y[:, :, 0], s.k[..., 0], s.c, stride=2, groups=2, output_padding=1),
    ),
    "conv_transpose2d": (
        lambda y, s, x: F.conv_transpose2d(y, s.k, s.c[:2], stride=2, padding=1, output_padding=1),
        lambda y, s, x: F.conv_transpose2d(y, weight=s.k, bias=s.c, groups=2, dilation=2),
    ),
    "conv_transpose3d": (
        lambda y, s, x: F.conv_transpose3d(y.unsqueeze(2), s.k.unsqueeze(2), s.c[:2], stride=(1, 2, 1)),
    ),
}

POOLS: dict[str, tuple[Form, ...]] = {
    "avg_pool1d": (lambda y, s, x: F.avg_pool1d(y.flatten(2), 3, 2, 1, ceil_mode=True, count_include_pad=False),),
    "avg_pool2d": (
        lambda y, s, x: F.avg_pool2d(y, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda y, s, x: F.avg_pool2d(y, (2, 3), divisor_override=5),
    ),
    "avg_pool3d": (lambda y, s, x: F.avg_pool3d(y.unsqueeze(1), 2, padding=1),),
    "adaptive_avg_pool1d": (lambda y, s, x: F.adaptive_avg_pool1d(y.flatten(2), 5),),
    "adaptive_avg_pool2d": (lambda y, s, x: F.adaptive_avg_pool2d(y, (4, None)),),
    "adaptive_avg_pool3d": (lambda y, s, x: F.adaptive_avg_pool3d(y.unsqueeze(1), (3, 4, 1)),),
    "max_pool1d": (
        lambda y, s, x: F.max_pool1d(y.flatten(2), 3, 2, 1, dilation=2, ceil_mode=True),
        lambda y, s, x: torch.max_pool1d(y.flatten(2), 4),
    ),
    "max_pool2d": (
        lambda y, s, x: F.max_pool2d(y, 3, stride=2, padding=1, ceil_mode=True),
        lambda y, s, x: torch.max_pool2d(y - 1, (2, 3), dilation=2),
        lambda y, s, x: F.max_pool2d(F.pad(y - 0.5, (1, 0, 2, 1), value=-math.inf), kernel_size=3),
        lambda y, s, x: F.max_pool2d(s.p - y, 2),
    ),
    "max_pool3d": (lambda y, s, x: F.max_pool3d(y.unsqueeze(1), 2, ceil_mode=True),),
    "adaptive_max_pool1d": (
        lambda y, s, x: F.adaptive_max_pool1d(y.flatten(2), 5),
        lambda y, s, x: torch.adaptive_max_pool1d(y.flatten(2), 5)[0],
    ),
    "adaptive_max_pool2d": (lambda y, s, x: F.adaptive_max_pool2d(y, (4, None)),),
    "adaptive_max_pool3d": (lambda y, s, x: F.adaptive_max_pool3d(y.unsqueeze(1), 2),),
    "amax": (lambda y, s, x: y.amax((-1, -2)), lambda y, s, x: torch.amax(y, 1, keepdim=True)),
    "amin": (lambda y, s, x: y.amin(1), lambda y, s, x: torch.amin(y, dim=-1, keepdim=True)),
}

CASES = SUMS | JOINS | PRODUCTS | REDUCTIONS | WEIGHTED | POOLS


@pytest.mark.parametrize("name", CASES)
def test_every_form_of_an_operator(name: str, tmp_path: Path) -> None:
    check_every_form(name, CASES[name], tmp_path)
