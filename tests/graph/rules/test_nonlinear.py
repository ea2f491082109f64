"""One row of the table, one case: what is differenced, every class of modules, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers.operators import Form, check_every_form

NAMED = "silu gelu mish logsigmoid softplus softsign hardsigmoid hardswish tanhshrink celu selu elu leaky_relu rrelu"

ACTIVATIONS: dict[str, tuple[Form, ...]] = {
    **{name: (lambda y, s, x, name=name: getattr(F, name)(s.p - y),) for name in NAMED.split()},
    "prelu": (lambda y, s, x: F.prelu(s.p - y, s.c), lambda y, s, x: (s.p - y).prelu(s.c[:1])),
    "glu": (lambda y, s, x: F.glu(s.p - y, 1), lambda y, s, x: F.glu(y, dim=-2)),
    "hardtanh": (lambda y, s, x: F.hardtanh(s.p - y, -0.5, 0.7), lambda y, s, x: F.hardtanh(input=s.p - y)),
    "clamp": (
        lambda y, s, x: torch.clamp(y, max=0.7),
        lambda y, s, x: y.clamp(0.1, 0.7),
        lambda y, s, x: y.clamp(min=s.p),
    ),
    "clip": (lambda y, s, x: y.clip(-1, 0.5), lambda y, s, x: torch.clip(s.p - y, min=-0.5)),
    "clamp_min": (lambda y, s, x: y.clamp_min(0.3), lambda y, s, x: torch.clamp_min(s.p - y, -0.1)),
    "clamp_max": (lambda y, s, x: y.clamp_max(0.3), lambda y, s, x: torch.clamp_max(y, s.p)),
    "threshold": (lambda y, s, x: F.threshold(s.p - y, 0.1, 0.1),),
    "sigmoid": (lambda y, s, x: torch.sigmoid(y), lambda y, s, x: F.sigmoid(y - 1), lambda y, s, x: y.sigmoid()),
    "tanh": (lambda y, s, x: torch.tanh(y), lambda y, s, x: y.tanh(), lambda y, s, x: F.tanh(y)),
    "softshrink": (lambda y, s, x: F.softshrink(s.p - y, 0.3),),
    "softmax": (
        lambda y, s, x: F.softmax(y, -1),
        lambda y, s, x: y.softmax(dim=1),
        lambda y, s, x: torch.softmax(y.flatten(2) @ y.flatten(2).mT, dim=-1),
        lambda y, s, x: (y + s.w.masked_fill(s.mask, float("-inf"))).softmax(-1),
    ),
    "softmin": (lambda y, s, x: F.softmin(y, 1),),
    "log_softmax": (lambda y, s, x: F.log_softmax(y, 1), lambda y, s, x: y.log_softmax(-1)),
}

UNARY = "exp expm1 log1p square sin cos tan atan erf"
POSITIVE = "log sqrt rsqrt reciprocal"

FUNCTIONS: dict[str, tuple[Form, ...]] = {
    **{name: (lambda y, s, x, name=name: getattr(torch, name)(y),) for name in UNARY.split()},
    **{
        name: (lambda y, s, x, n=name: getattr(torch, n)(y + 0.5), lambda y, s, x, n=name: getattr(y + 1, n)())
        for name in POSITIVE.split()
    },
    "abs": (lambda y, s, x: abs(s.p - y), lambda y, s, x: torch.abs(y - 1), lambda y, s, x: (s.p - y).abs()),
    "absolute": (lambda y, s, x: torch.absolute(s.p - y),),
    "logsumexp": (lambda y, s, x: y.logsumexp(1), lambda y, s, x: torch.logsumexp(y, dim=(-1, 2), keepdim=True)),
    "pow": (lambda y, s, x: y**2, lambda y, s, x: 2**y, lambda y, s, x: torch.pow(y, 3), lambda y, s, x: y.pow(s.q)),
    "atan2": (lambda y, s, x: torch.atan2(y, s.p), lambda y, s, x: y.atan2(1 + y)),
    "max": (
        lambda y, s, x: y.max(1)[0],
        lambda y, s, x: torch.max(y, dim=-1, keepdim=True).values,
        lambda y, s, x: y.max(dim=2).values,
    ),
    "min": (
        lambda y, s, x: torch.min(y, 1)[0],
        lambda y, s, x: y.min(-1).values,
        lambda y, s, x: torch.min(y, 1 - y),
    ),
    "maximum": (
        lambda y, s, x: torch.maximum(y, s.p),
        lambda y, s, x: y.maximum(s.p.expand(y.shape[0], -1, -1, -1)),
    ),
    "minimum": (lambda y, s, x: torch.minimum(s.p, y),),
    "prod": (lambda y, s, x: y.prod(1), lambda y, s, x: torch.prod(1 + y, -1, keepdim=True)),
    "var": (lambda y, s, x: y.var(1, unbiased=False), lambda y, s, x: torch.var(y, dim=(1, 2), correction=0)),
    "std": (lambda y, s, x: y.std((-1, -2), keepdim=True), lambda y, s, x: torch.std(y, 1)),
    "var_mean": (lambda y, s, x: torch.var_mean(y, 1)[0], lambda y, s, x: sum(torch.var_mean(y, dim=-1))),
    "std_mean": (lambda y, s, x: torch.std_mean(y, 1, keepdim=True)[0],),
    "vector_norm": (lambda y, s, x: torch.linalg.vector_norm(y, dim=1, keepdim=True),),
    "norm": (lambda y, s, x: y.norm(dim=1), lambda y, s, x: torch.norm(y, p=1, dim=-1, keepdim=True)),
    "normalize": (lambda y, s, x: F.normalize(y), lambda y, s, x: F.normalize(y + 1, p=1, dim=-1)),
    "layer_norm": (lambda y, s, x: F.layer_norm(y, (6,), s.v, s.v), lambda y, s, x: F.layer_norm(y, y.shape[1:])),
    "group_norm": (lambda y, s, x: F.group_norm(y, 2, s.c, s.c, 0.1),),
    "rms_norm": (lambda y, s, x: F.rms_norm(y, (6,), s.v, eps=0.01),),
    "instance_norm": (lambda y, s, x: F.instance_norm(y, eps=0.1),),
    "local_response_norm": (lambda y, s, x: F.local_response_norm(y, 3, alpha=0.5),),
    **{f"lp_pool{d}d": (lambda y, s, x, d=d: getattr(F, f"lp_pool{d}d")(POOLED[d](y), 2, 3, 2),) for d in (1, 2, 3)},
    "cosine_similarity": (
        lambda y, s, x: F.cosine_similarity(y, s.p, 1),
        lambda y, s, x: torch.cosine_similarity(y, y.flip(1), -1),
    ),
    "bilinear": (lambda y, s, x: F.bilinear(y, y.flip(1), s.k.flatten(1)[:, :1, None].expand(-1, 6, 6) * s.w, s.c),),
    "embedding": (
        lambda y, s, x: y.mean((2, 3)) + F.embedding((x[:, 0, 0, 0] > 0).long(), s.w[:, :4]),
        lambda y, s, x: y * F.embedding((x.flatten(1)[:, :6] > 0).long(), s.w).unsqueeze(1),
    ),
    "cdist": (lambda y, s, x: torch.cdist(y, s.p), lambda y, s, x: torch.cdist(y[:, 0], y[:, 1], p=1.0)),
    "baddbmm": (lambda y, s, x: torch.baddbmm(s.w, y[:, 0], y[:, 1], beta=0.5, alpha=2),),
    "addmm": (
        lambda y, s, x: torch.addmm(s.v, y[:, 0, 0], s.w, alpha=2),
        lambda y, s, x: y[:, 1, 1].addmm(y[:, 0, 0], s.w),
    ),
    "addbmm": (lambda y, s, x: torch.addbmm(s.v, y[:, :, 0].transpose(0, 1), s.w.expand(4, 6, 6)),),
    "addmv": (lambda y, s, x: torch.addmv(s.c[:1], y[:, 0, 0], s.v, alpha=2),),
    "addcmul": (lambda y, s, x: torch.addcmul(s.p, y, s.q, value=2), lambda y, s, x: y.addcmul(y, s.p)),
    "addcdiv": (lambda y, s, x: torch.addcdiv(y, s.p, s.q, value=-1), lambda y, s, x: y.addcdiv(s.p, 1 + y)),
    "lerp": (lambda y, s, x: torch.lerp(y, s.p, 0.3), lambda y, s, x: s.p.lerp(y, s.q)),
    "scaled_dot_product_attention": (
        lambda y, s, x: F.scaled_dot_product_attention(y, 1 - y, y, attn_mask=s.mask | torch.eye(6).bool(), scale=0.7),
        lambda y, s, x: F.scaled_dot_product_attention(y, y, s.p.expand_as(y), is_causal=True),
    ),
}
POOLED = {1: lambda y: y.flatten(2), 2: lambda y: y, 3: lambda y: y.unsqueeze(1)}

CASES = ACTIVATIONS | FUNCTIONS


@pytest.mark.parametrize("name", CASES)
def test_every_form_of_an_operator(name: str, tmp_path: Path) -> None:
    check_every_form(name, CASES[name], tmp_path)
