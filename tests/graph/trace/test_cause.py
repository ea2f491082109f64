"""A refusal names the cause of the difference between a graph and its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.errors import InvalidArgument, NotTraceable
from qffs.graph.trace.trace import trace


class Code(nn.Module):
    """Two layers with code between them, which may use the attributes ``kept`` and ``buffer``."""

    def __init__(self, code: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.first, self.second, self.code = nn.Linear(6, 8), nn.Linear(8, 3), code
        self.kept: Any = None
        self.listed: list[Any] = []
        self.register_buffer("buffer", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.code(self, torch.relu(self.first(x))))


def refused(code: Callable[[Any, Any], Any]) -> str:
    with pytest.raises(NotTraceable) as caught:
        trace(Code(code), torch.randn(4, 6))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("rand", lambda self, h: h + torch.rand(8)),
        ("randn_like", lambda self, h: h + torch.randn_like(h)),
        ("dropout", lambda self, h: F.dropout(h, training=True)),
        ("bernoulli_", lambda self, h: h * torch.zeros(8).bernoulli_(0.5)),
    ],
)
def test_random_numbers_are_named_with_their_line(name: str, code: Any) -> None:
    line = f"{name}, test_cause.py, line {code.__code__.co_firstlineno}"
    assert f"its code draws random numbers: {line}; draw them in training only" in refused(code)


def recurrent(self: Code, h: Tensor) -> Tensor:
    h = h if self.kept is None else h + self.kept
    self.kept = h
    return h


def recurrent_in_private(self: Any, h: Tensor) -> Tensor:
    h = h + getattr(self, "_state", 0)
    self._state = h
    return h


def recurrent_buffer(self: Code, h: Tensor) -> Tensor:
    h = h + self.buffer
    self.buffer = h.mean(0).detach()
    return h


def remembering(self: Code, h: Tensor) -> Tensor:
    self.listed.append(h)
    return sum(self.listed)  # type: ignore[return-value]


CALLS = [0]


def counting(self: Code, h: Tensor) -> Tensor:
    CALLS[0] += 1
    return h * CALLS[0]


def counting_inside(self: Code, h: Tensor) -> Tensor:
    self.listed.append(1)
    return h * len(self.listed)


def test_values_outside_of_the_network_are_told_from_random_numbers_of_torch() -> None:
    said = "its output changes from run to run of the same network: its code draws random numbers, or keeps a value"
    assert said in refused(counting)


def test_a_question_for_gradients_is_named() -> None:
    assert "something else where gradients are off (torch.is_grad_enabled)" in refused(
        lambda self, h: h if torch.is_grad_enabled() else 2 * h
    )


def test_weights_that_the_first_call_makes_are_named() -> None:
    def scaled(self: Code, h: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(8))
        return h * self.scale

    said = "would lose gradients: its code makes weights when it runs (scale); run it once first"
    assert said in refused(scaled)
    model, x = Code(scaled), torch.randn(4, 6)
    model(x)
    assert torch.equal(trace(model, x)(x), model(x))


def test_values_that_leave_pytorch_are_named() -> None:
    said = refused(lambda self, h: torch.from_numpy(h.detach().numpy() * 2))
    assert "its code leaves PyTorch (numpy)" in said
    assert "qffs.register keeps a module or function as one step" in said


@pytest.mark.parametrize(
    ("attribute", "code"),
    [
        ("listed", counting_inside),
        ("kept", recurrent),
        ("_state", recurrent_in_private),
        ("buffer", recurrent_buffer),
        ("listed", remembering),
    ],
)
def test_an_attribute_that_is_read_before_it_is_written_is_named(attribute: str, code: Any) -> None:
    assert f"its output changes from call to call, because its code keeps a value in an attribute ({attribute})" in (
        refused(code)
    )


def recurrent_kept_late(self: Code, h: Tensor) -> Tensor:
    kept, self.kept = self.kept, h.detach()  # the tracer finds the new value in the place of the old one
    return h if kept is None else h + kept


@pytest.mark.parametrize("code", [recurrent, recurrent_kept_late])
def test_a_memory_that_was_used_is_named_where_it_holds_another_number_of_images(code: Any) -> None:
    model, x = Code(code), torch.randn(4, 6)
    model(x)
    with pytest.raises(
        NotTraceable, match=r"keeps values of the images in an attribute \(kept\) and reads them in the"
    ):
        trace(model, x)
    with pytest.raises(
        InvalidArgument, match=r"does not run on an example of shape \(3, 6\): The size .* \(at .*[^)]\)$"
    ):
        trace(model, torch.randn(3, 6))


def test_an_example_without_a_batch_is_not_taken_for_a_memory() -> None:
    def whole(self: Code, h: Tensor) -> Tensor:
        self.kept = h.detach()
        return h.reshape(4, 8)

    model, x = Code(whole), torch.randn(4, 6)
    model(x)
    with pytest.raises(InvalidArgument, match=r"give example\[None\] where it has none"):
        trace(model, x)


def test_a_question_of_the_type_is_named() -> None:
    assert "asks for the type of a value (isinstance)" in refused(lambda self, h: 2 * h if isinstance(h, Tensor) else h)


def test_a_network_with_batch_norm_gets_its_cause_too() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), Code(counting_inside))
    with pytest.raises(NotTraceable, match=r"keeps a value in an attribute \(3.listed\)"):
        trace(model, torch.randn(4, 6))


class Double(nn.Module):
    """Code that returns another type for a tensor than for a stand-in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double() if type(x) is Tensor else 1 * x


def test_an_output_of_another_type_than_that_of_the_graph_is_refused() -> None:
    with pytest.raises(NotTraceable, match="asks for the type of a value"):
        trace(nn.Sequential(nn.Linear(6, 3), nn.ReLU(), Double()), torch.randn(4, 6))


def test_no_cause_is_named_that_is_not_there() -> None:
    said = refused(lambda self, h: h + torch.rand(8))
    assert not any(word in said for word in ("in place", "isinstance", "attribute", "qffs.register"))
