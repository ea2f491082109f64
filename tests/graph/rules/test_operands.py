"""Where the spikes stand among an operator's operands decides its kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers.operators import Around, Form, check_laws, kinds
from qffs.graph.site import Kind

CASES: dict[str, tuple[str, Kind, Form]] = {
    "a constant by spikes": ("truediv", Kind.DIFFERENCED, lambda y, s, x: s.p / (y + 1)),
    "a quotient of two signals": ("div", Kind.DIFFERENCED, lambda y, s, x: torch.div(y, 1 + y.sum(1, keepdim=True))),
    "an einsum of two signals": ("einsum", Kind.DIFFERENCED, lambda y, s, x: torch.einsum("bchw,bdhw->bcd", y, y)),
    "an index of the input": (
        "gather", Kind.DIFFERENCED, lambda y, s, x: y.gather(1, (x[:, :1] > 0).long() + 1)),
    "a mask of the input": ("where", Kind.JOIN, lambda y, s, x: torch.where(x[:, :1] > 0, y, s.p)),
    "a mask of the input as method": ("where", Kind.JOIN, lambda y, s, x: s.p.where(x[:, :1] > 0, y)),
    "scores that a mask of the input takes out": (
        "where", Kind.JOIN,
        lambda y, s, x: (y @ y.mT).masked_fill(x[:, :1, :1] > 0.7, -torch.inf).softmax(-1)),
    "what a mask of the input chooses, with images elsewhere": (
        "where", Kind.JOIN,
        lambda y, s, x: torch.where(x[:, :1].transpose(0, 1) > 0, y.transpose(0, 1), s.p.transpose(0, 1)).mean(0)),
    "two masks of the input": ("and_", Kind.DIFFERENCED, lambda y, s, x: y.masked_fill((x[:, :1] > 0) & ~s.mask, 0.5)),
    "a grid of the input": (
        "grid_sample", Kind.DIFFERENCED,
        lambda y, s, x: F.grid_sample(y, x.tanh().permute(0, 2, 3, 1), align_corners=False)),
    "a difference to a constant": (
        "diff", Kind.DIFFERENCED, lambda y, s, x: y.diff(prepend=s.p[..., :1].expand(y.shape[0], -1, -1, -1))),
    "the input alone": ("sigmoid", Kind.DIFFERENCED, lambda y, s, x: x.sigmoid() + y[:, :2]),
    "a product with the input": ("mul", Kind.DIFFERENCED, lambda y, s, x: y[:, :2] * x),
    "spikes joined with a bias": (
        "cat", Kind.JOIN, lambda y, s, x: torch.cat([y, s.c.view(1, -1, 1, 1).expand(y.shape[0], -1, 6, 6)], 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operands(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    operator, kind, form = CASES[name]
    model = Around((form,)).double().eval()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    assert kind in kinds(model, x, operator)
    check_laws(model, x, tmp_path)
