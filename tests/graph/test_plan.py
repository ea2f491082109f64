"""The plan decides every call by the table, before anything changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.errors import NotConvertible, NothingToQuantize
from qffs.graph.plan import plan
from qffs.graph.site import Kind
from qffs.graph.trace.trace import trace


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


def of(forward: object) -> nn.Module:
    module = nn.Module()
    module.__class__ = type("Custom", (nn.Module,), {"forward": forward})
    return module


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x: torch.div(F.relu(x), 0.3, rounding_mode="floor"), "div at div (H): a rounded quotient"),
        (lambda self, x: F.threshold(F.relu(x), 0.5, 0.0), "_threshold at _threshold (H): it jumps"),
        (lambda self, x: F.relu(x).round(), ".round at round_1 (H): it jumps: the least rounding error"),
        (lambda self, x: F.relu(x) // 0.3, "floordiv at floordiv (H): it jumps"),
        (lambda self, x: x * (F.relu(x) > 0.5), "gt at gt (H): it jumps"),
        (lambda self, x: F.relu(x).argmax(1), ".argmax at argmax (H): it jumps"),
        (lambda self, x: F.relu(x).to(torch.int64) * x, ".to at to (H): it jumps"),
        (lambda self, x: torch.sort(F.relu(x))[0], "sort at sort (H): it jumps"),
        (lambda self, x: F.relu(x).cosh(), ".cosh at cosh (H): there is no rule for cosh"),
        (lambda self, x: F.max_pool1d(F.relu(x), 2, return_indices=True)[0], "no rule for max_pool1d_with_indices"),
        (lambda self, x: torch.relu(x) - x.mean(0, keepdim=True), ".mean at mean (H): it joins the images"),
        (lambda self, x: torch.relu(x) - x.mean(), ".mean at mean (H): it joins the images"),
        (lambda self, x: torch.relu(x)[:1], "getitem at getitem (H): it joins the images"),
        (lambda self, x: torch.relu(x).flip(0), ".flip at flip (H): it joins the images of the batch, or mixes"),
        (lambda self, x: torch.cat([x, torch.relu(x)]), "cat at cat (H): it joins the images"),
        (lambda self, x: torch.relu(x).view(2, 3, 4), ".view at view (H): it needs a batch of one certain size"),
        (lambda self, x: torch.relu(x).transpose(0, 1), "the batch is not in dimension 0 of the output"),
        (lambda self, x: x.mul_(2).relu(), ".mul at mul_ (H): it writes into an input of the network"),
        (lambda self, x: F.relu(x, inplace=True), "it writes into an input of the network, in place"),
        (lambda self, x: F.batch_norm(x, None, None, training=True).relu(), "depends on the other images"),
        (lambda self, x: (torch.relu(x), x.shape[1]), "the network returns getitem, which is no tensor"),
    ],
)  # fmt: skip
def test_refusals_name_operator_place_line_and_reason(forward: Any, reason: str) -> None:
    line = f"test_plan.py, line {forward.__code__.co_firstlineno}"
    with pytest.raises(NotConvertible) as caught:
        plan(trace(of(forward), torch.ones(2, 3, 4))).check()
    assert reason.replace("H", line) in str(caught.value)


def test_all_refusals_at_once() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(x).round()
        return y * F.relu(x - 1).cosh() + x.mean(0)

    with pytest.raises(NotConvertible) as caught:
        plan(trace(of(forward), torch.ones(2, 3))).check()
    assert len(str(caught.value).splitlines()) == 4
    assert all(operator in str(caught.value) for operator in (".round at", ".cosh at", ".mean at"))


@pytest.mark.parametrize(
    "recurrent", [nn.RNN(4, 3), nn.LSTM(4, 3, batch_first=True), nn.GRU(4, 3), nn.LSTMCell(4, 3), nn.GRUCell(4, 3)]
)
def test_recurrent_modules_are_refused_by_name(recurrent: nn.Module) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = recurrent

        def forward(self, x: Tensor) -> Tensor:
            out = self.memory(torch.relu(x))
            return out if isinstance(self.memory, nn.GRUCell) else out[0]

    x = torch.ones(2, 4) if isinstance(recurrent, (nn.LSTMCell, nn.GRUCell)) else torch.ones(2, 5, 4)
    with pytest.raises(NotConvertible, match=r"at memory \(test_plan.py, line \d+\): it is recurrent"):
        plan(trace(Recurrent(), x)).check()


def test_of_the_input_alone_anything_may_be_computed() -> None:
    rows = plan(trace(of(lambda self, x: F.relu(F.gelu(x).round() * (x > 0))), torch.ones(2, 3))).rows
    assert [row.kind for row in rows if row.operator in {"gelu", ".round", "gt"}] == [Kind.DIFFERENCED] * 3
    assert not any(row.values for row in rows)
    plan(trace(of(lambda self, x: F.relu(F.gelu(x))), torch.ones(2, 3))).check(strict=True)
    with pytest.raises(NotConvertible, match="sends values"):
        plan(trace(of(lambda self, x: F.gelu(F.relu(x))), torch.ones(2, 3))).check(strict=True)


def test_quotients() -> None:
    """Linear above the line; below it the signal is accumulated."""
    assert kinds(lambda self, x: F.relu(x) / 2, torch.ones(2, 3))["truediv"] is Kind.LINEAR
    assert kinds(lambda self, x: 2 / F.relu(x), torch.ones(2, 3))["truediv"] is Kind.DIFFERENCED


def test_linear_in_the_first_operand_only() -> None:
    """A signal as weight, index or grid is no longer linear."""
    x = torch.rand(2, 3, 3)
    assert kinds(lambda self, x: F.linear(F.relu(x), torch.ones(5, 3)), x)["linear"] is Kind.LINEAR
    assert kinds(lambda self, x: F.linear(F.relu(x), F.relu(x)[0]), x)["linear"] is not Kind.LINEAR
    assert kinds(lambda self, x: F.relu(x) @ torch.ones(3, 3), x)["matmul"] is Kind.LINEAR
    assert kinds(lambda self, x: torch.ones(3, 3) @ F.relu(x), x)["matmul"] is Kind.LINEAR
    assert kinds(lambda self, x: F.relu(x) @ x, x)["matmul"] is Kind.DIFFERENCED


def test_no_relu() -> None:
    with pytest.raises(NothingToQuantize):
        plan(trace(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))).check()


def test_a_maximum_sends_spikes_over_a_dimension_and_values_beside_another() -> None:
    def rows(forward: object) -> list[bool]:
        return [
            row.values for row in plan(trace(of(forward), torch.rand(2, 3, 3))).rows if row.operator.endswith("max")
        ]

    assert rows(lambda self, x: F.relu(x).max(1)[0]) == [False]
    assert rows(lambda self, x: torch.max(F.relu(x), torch.ones(3, 3))) == [True]
    assert rows(lambda self, x: torch.max(F.relu(x), F.relu(x - 1))) == [True]


@pytest.mark.parametrize(
    ("forward", "values"),
    [
        (lambda self, x: F.max_pool2d(F.relu(x), 2), False),
        (lambda self, x: F.max_pool2d(F.pad(F.relu(x).flatten(1).view(-1, 3, 4, 4), (1, 1)), 2).amax(1), False),
        (lambda self, x: F.max_pool2d(torch.cat([F.relu(x), F.relu(x - 1)], 1), 2), False),
        (lambda self, x: F.max_pool2d(torch.cat([F.relu(x), F.relu(x - 1)], 2), 2), True),
        (lambda self, x: torch.cat([F.relu(x), F.relu(x - 1)], 1).amax(1), True),
        (lambda self, x: F.relu(F.max_pool2d(2 * F.relu(x) - 1, 2)), True),
        (lambda self, x: F.max_pool2d(F.relu(x) + F.relu(x - 1), 2), True),
        (lambda self, x: F.relu(F.max_pool2d(x, 2)), False),  # of the input alone
    ],
)
def test_pooling_sends_single_spikes_only_of_single_spikes(forward: Any, values: bool) -> None:
    planned = plan(trace(of(forward), torch.randn(2, 3, 4, 4)))
    pools = [row for row in planned.rows if "max" in row.operator]
    assert pools[-1].values is values
