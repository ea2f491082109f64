"""The plan decides every call by the table, before anything changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.errors import NotConvertible, NothingToQuantize
from qffs.graph.plan import plan
from qffs.graph.rules import Kind
from qffs.graph.trace import trace


def kinds(forward: object, x: Tensor) -> dict[str, Kind]:
    module = nn.Module()
    module.__class__ = type("Custom", (nn.Module,), {"forward": forward})
    return {row.operator: row.kind for row in plan(trace(module, x)).rows}


def test_kinds() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(x) * 2 + 1
        y = F.max_pool2d(F.pad(y, (1, 1)), 2)
        y = torch.cat([y, -y], 1)
        return y.view(x.shape[0], y.size(1), -1).mean(2) / 3

    found = kinds(forward, torch.zeros(2, 3, 4, 4))
    expected = {
        "x": Kind.INPUT, "ReLU": Kind.SPIKING, "mul": Kind.LINEAR, "add": Kind.SUM, "pad": Kind.LINEAR,
        "max_pool2d": Kind.DIFFERENCED, "cat": Kind.JOIN, "neg": Kind.LINEAR, "getattr": Kind.PLAIN,
        "getitem": Kind.PLAIN, ".size": Kind.PLAIN, ".view": Kind.LINEAR, ".mean": Kind.LINEAR,
        "truediv": Kind.LINEAR, "output": Kind.OUTPUT,
    }  # fmt: skip
    assert found == expected


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x: 1 / F.relu(x + 1), "truediv at truediv: a quotient with a signal below is not finite"),
        (lambda self, x: torch.div(F.relu(x), 0.3, rounding_mode="floor"), "div at div: a rounded quotient"),
        (lambda self, x: F.pad(F.relu(x), (1, 1), value=0.5), "pad at pad: only padding with zeros"),
        (lambda self, x: F.pad(F.relu(x), (1, 1), mode="reflect"), "pad at pad: only padding with zeros"),
        (lambda self, x: torch.sort(F.relu(x))[0], "sort at sort: there is no rule for sort"),
        (lambda self, x: F.relu(x).cumsum(1), ".cumsum at cumsum: there is no rule for .cumsum"),
        (lambda self, x: F.relu(x).mT, "getattr at getattr_1: the attribute mT"),
    ],
)  # fmt: skip
def test_refusals_name_operator_place_and_reason(forward: object, reason: str) -> None:
    module = nn.Module()
    module.__class__ = type("Custom", (nn.Module,), {"forward": forward})
    with pytest.raises(NotConvertible) as caught:
        plan(trace(module, torch.ones(2, 3, 4))).check()
    assert reason in str(caught.value)


def test_a_constant_may_be_divided_only_from_the_left() -> None:
    assert kinds(lambda self, x: F.relu(x) / 2, torch.ones(2, 3))["truediv"] is Kind.LINEAR


def test_no_relu() -> None:
    with pytest.raises(NothingToQuantize):
        plan(trace(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))).check()
