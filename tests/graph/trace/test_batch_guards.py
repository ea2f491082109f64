"""Decisions on the number of images are followed where they change nothing, and refused where they do."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qffs.errors import NotConvertible
from qffs.graph.plan import plan
from qffs.graph.trace.trace import trace


class Code(nn.Module):
    """Code on a batch, with two attributes that it may use."""

    def __init__(self, code: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.code, self.linear = code, nn.Linear(4, 4)
        self.kept: Any = None
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, torch.relu(self.linear(x)))


def anew_with_the_shape(self: Code, h: Tensor) -> Tensor:
    if self.seen != h.shape:
        self.kept, self.seen = torch.arange(h.shape[1]).to(h), h.shape
    return h + self.kept


def anew_with_the_batch(self: Code, h: Tensor) -> Tensor:
    if self.seen != len(h):
        self.kept, self.seen = torch.arange(4).to(h), len(h)
    return h + self.kept


def anew_with_the_size(self: Code, h: Tensor) -> Tensor:
    if self.kept is None or self.kept.shape != h.shape[1:]:
        self.kept = torch.arange(h.shape[1]).to(h)
    return h + self.kept


def once(self: Code, h: Tensor) -> Tensor:
    if self.kept is None:
        self.kept = torch.linspace(0, 1, h.shape[1])
    return h + self.kept


def one_for_each_shape(self: Code, h: Tensor) -> Tensor:
    self.kept = self.kept or {}
    if h.shape not in self.kept:
        self.kept[h.shape] = torch.ones(h.shape)
    return h + self.kept[h.shape]


@cache
def ones(*sizes: int) -> Tensor:
    return torch.ones(sizes)


def from_a_cache_of_python(self: Code, h: Tensor) -> Tensor:
    return h + ones(h.shape[0], h.shape[1])


def asks_for_the_length(self: Code, h: Tensor) -> Tensor:
    assert len(h) > 0, f"no images among {len(h)}"
    return h


@pytest.mark.parametrize("ran", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "code",
    [
        *(anew_with_the_shape, anew_with_the_batch, anew_with_the_size, once, asks_for_the_length),
        *(one_for_each_shape, from_a_cache_of_python),
    ],
)
def test_what_the_first_call_keeps_decides_nothing(code: Any, ran: int) -> None:
    """Whether the model has run before, and on how many images."""
    model = Code(code).eval()
    if ran:
        model(torch.randn(ran, 4))
    traced = trace(model, torch.randn(4, 4))
    plan(traced).check()
    for count in (1, 2, 3, 4, 5, 9):
        x = torch.randn(count, 4)
        torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)


def test_a_buffer_that_is_made_in_the_first_call_is_followed() -> None:
    model, x = Code(once), torch.randn(4, 4)
    del model.kept
    model.register_buffer("kept", None)
    torch.testing.assert_close(trace(model, x)(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "code",
    [
        lambda self, h: h if len(h) <= 3 else 2 * h,
        lambda self, h: h if len(h) % 2 else 2 * h,
        lambda self, h: torch.stack([h[i] for i in range(len(h))]),
        lambda self, h: h * len(h),
    ],
)
def test_a_decision_on_the_batch_that_changes_something_is_refused(code: Any) -> None:
    with pytest.raises(NotConvertible, match=r"test_batch_guards.py, line \d+\): it (needs a batch|joins)"):
        plan(trace(Code(code), torch.randn(4, 4))).check()
