"""A graph does what its model does: the same outputs, the same gradients, and the same again in a second call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.errors import NotTraceable
from qffs.graph.rules import register
from qffs.graph.trace.trace import trace


class Two(nn.Module):
    """Two layers, with code between them."""

    def __init__(self, between: Callable[[Any], Any] = torch.relu) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(torch.relu(self.first(x))))


class Sign(torch.autograd.Function):
    """A sign with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return torch.sign(w)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Reverse(Sign):
    """A gradient reversal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Clip(Reverse):
    """A clip of large gradients, larger ones than those of the example."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(-100, 100)


class Range(Reverse):
    """A clip of values far from those of the example, with a gradient everywhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-50, 50)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Same(Reverse):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x


class Swish(torch.autograd.Function):
    """A backward of its own that is the true gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * s * (1 + x * (1 - s))


class Binary(nn.Linear):
    """A layer of binary weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Sign.apply(self.weight), self.bias)


alias = Same.apply


@pytest.mark.parametrize(
    ("between", "name"),
    [
        (lambda h: Reverse.apply(1 * h), "Reverse"),
        (lambda h: Clip.apply(1 * h), "Clip"),
        (lambda h: Range.apply(1 * h), "Range"),
        (lambda h: alias(1 * h), "Same"),
    ],
)
def test_a_backward_of_its_own_is_refused_by_name_and_line(between: Callable[[Any], Any], name: str) -> None:
    line = between.__code__.co_firstlineno
    with pytest.raises(NotTraceable, match=rf"would lose gradients: {name} \(the model, test_same.py, line {line}\)"):
        trace(Two(between), torch.randn(4, 6))


def test_a_backward_of_its_own_on_weights_names_the_path_of_the_module() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Binary(8, 3))
    with pytest.raises(NotTraceable, match=r"Sign \(2, test_same.py, line \d+\) has a backward of its own"):
        trace(model, torch.randn(4, 6))


class OfItsParts(Two):
    """A network that reads the weights of its first layer through a function of its own."""

    def __init__(self, function: Callable[[Any], Any], inputs: int = 6) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(inputs, 8), function

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.first._parameters.values()  # as `named_parameters` reads them: no stand-ins
        return self.second(torch.relu(F.linear(x, self.function(weight), bias)))


class OfItsPartsByName(OfItsParts):
    """The same by name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(F.linear(x, self.function(self.first.weight), self.first.bias)))


@pytest.mark.parametrize("inputs", [6, 3000])
def test_every_weight_of_a_part_whose_weights_the_code_reads_itself_is_compared(inputs: int) -> None:
    x = torch.randn(4, inputs)
    with pytest.raises(NotTraceable, match=r"Sign \(the model, test_same.py"):
        trace(OfItsPartsByName(Sign.apply, inputs), x)
    with pytest.raises(NotTraceable, match="would lose gradients: those of the graph differ"):
        trace(OfItsParts(lambda weight: 2 * weight, inputs), x)
    trace(OfItsPartsByName(lambda weight: 2 * weight, inputs), x)


@pytest.mark.parametrize("kind", [Reverse, Clip, Range])
@pytest.mark.parametrize("without", ["an example", "a head", "units", "a bias and an example"])
def test_a_backward_of_its_own_is_found_where_the_example_gives_no_gradients(kind: Any, without: str) -> None:
    model, x = Two(lambda h: torch.relu(kind.apply(h - 100 * (without == "units")))), torch.randn(4, 6)
    if without == "a head":
        nn.init.zeros_(model.second.weight)
    if "bias" in without:
        model.first = nn.Linear(6, 8, bias=False)
    if "example" in without:
        x = torch.zeros(4, 6)
    with pytest.raises(NotTraceable, match=rf"would lose gradients: {kind.__name__} \(the model, test_same.py"):
        trace(model, x)


def test_a_backward_of_its_own_that_is_the_true_gradient_is_read_through() -> None:
    model, x = Two(Swish.apply), torch.randn(4, 6)
    assert_same_gradients(trace(model, x), model, x)
    trace(model, torch.zeros(4, 6))
    trace(Two(lambda h: Rectified.apply(h, torch.ones(8))), x)
    with pytest.raises(NotTraceable, match=r"lose gradients: Reverse \(the model, test_same.py, line \d+\) has a"):
        trace(Two(lambda h: Reverse.apply(Swish.apply(h))), x)


class Rectified(torch.autograd.Function):
    """A clamp whose gradient differs from that of torch at 0 alone, with a mask that has no gradient."""

    @staticmethod
    def forward(x: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return x.clamp(min=0) * mask

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return gradients[0] * (output > 0), None


@pytest.mark.parametrize("scale", [1e33, 1e-33])
def test_gradients_that_overflow_are_not_taken_for_others(scale: float) -> None:
    layers = nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    trace(nn.Sequential(*layers), scale * torch.randn(4, 6))


def assert_same_gradients(traced: nn.Module, model: nn.Module, x: Tensor) -> None:
    for network in (traced, model):
        network(x).pow(2).sum().backward()
    for name, weight in model.named_parameters():
        gradient = traced.get_parameter(name).grad
        if weight.grad is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, weight.grad)


class Frozen(Two):
    """A first layer that gets no gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.relu(self.first(x))
            h = h + 1
        return self.second(torch.relu(h))


class Detached(Two):
    """The same, by other means."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.first(x)).detach(), self.second.weight.data, self.second.bias)


@pytest.mark.parametrize("kind", [Frozen, Detached])
def test_what_gets_no_gradients_in_the_model_gets_none_in_the_graph(kind: type[Two]) -> None:
    model, x = kind(), torch.randn(4, 6)
    traced = trace(model, x)
    assert_same_gradients(traced, model, x)
    assert model.first.weight.grad is None


class WithoutGradients(Two):
    """A network that is written for use only, and can be trained as a graph."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class GradientsInTraining(Two):
    """A network that has gradients in training only."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


@pytest.mark.parametrize("kind", [WithoutGradients, GradientsInTraining])
def test_where_the_model_has_no_gradients_there_is_nothing_to_compare(kind: type[Two]) -> None:
    traced = trace(kind(), torch.randn(4, 6))
    traced(torch.randn(4, 6)).sum().backward()
    assert traced.get_parameter("first.weight").grad is not None


class PartInTraining(Two):
    """A first layer that has gradients in training only."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            h = torch.relu(self.first(x))
        return self.second(h)


class HeadInTraining(Frozen):
    """A head that is called in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.head(y) if self.training else y


def test_gradients_that_the_model_has_in_training_only_are_not_lost() -> None:
    with pytest.raises(NotTraceable, match=r"turns off the gradients of weights .*\(torch.set_grad_enabled\)"):
        trace(PartInTraining(), torch.randn(4, 6))
    trace(HeadInTraining(), torch.randn(4, 6))


def test_networks_without_gradients_of_some_kind_are_traced() -> None:
    frozen = Two().requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in trace(frozen, torch.randn(4, 6)).parameters())
    words = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.ReLU(), nn.Linear(24, 3))
    trace(words, torch.randint(0, 10, (4, 6)))
    trace(nn.Sequential(nn.ReLU()), torch.randn(4, 6))
    undefined = Two(lambda h: h / (h - h).pow(2).sqrt())  # NaN in both
    trace(undefined, torch.randn(4, 6))
    dropped = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.ReLU()).train()
    assert trace(dropped, torch.randn(1, 6)).training


def test_a_gradient_that_only_integer_inputs_reach_is_compared_too() -> None:
    model = nn.Sequential(nn.Embedding(5000, 4), Negative(), nn.Flatten(), nn.ReLU(), nn.Linear(24, 3))
    with pytest.raises(NotTraceable, match=r"Reverse \(1, test_same.py"):
        trace(model, torch.randint(0, 10, (4, 6)))


class Negative(nn.Module):
    """A gradient reversal as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return Reverse.apply(x)


class Hooked(Two):
    """A hook that works where there are gradients."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient)
        return self.second(h)


def test_hooks_on_tensors_are_refused_with_their_line() -> None:
    line = Hooked.forward.__code__.co_firstlineno + 3
    with pytest.raises(NotTraceable, match=rf"register_hook on a tensor \(test_same.py, line {line}\), which a graph"):
        trace(Hooked(), torch.randn(4, 6))
    with pytest.raises(NotTraceable, match=r"calls register_hook on a tensor, which a graph cannot hold \(in hooking"):
        trace(Two(hooking), torch.randn(4, 6))


def hooking(h: Tensor) -> Tensor:
    h.register_hook(lambda gradient: gradient)
    return h


def test_the_gradients_of_the_model_are_left_alone() -> None:
    model = Two()
    trace(model, torch.randn(4, 6))
    assert all(parameter.grad is None for parameter in model.parameters())


def sign_by_name(w: Tensor) -> Tensor:
    return Sign.apply(w)


class Named(nn.Linear):
    """A layer of binary weights, with the sign in a function of a global name."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, sign_by_name(self.weight), self.bias)


def test_a_registered_function_keeps_its_backward() -> None:
    register(sign_by_name, "differenced")
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Named(8, 3)), torch.randn(4, 6)
    traced = trace(model, x)
    assert_same_gradients(traced, model, x)
    assert bool(traced.get_parameter("2.weight").grad.any())  # type: ignore[union-attr]


class WithoutDerivative(nn.Module):
    """Code that refuses values with gradients."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and type(x) is Tensor and x.requires_grad:
            raise ValueError
        return torch.relu(x)


def test_a_network_that_does_not_run_with_gradients_is_compared_without() -> None:
    x = torch.randn(4, 6)
    assert torch.equal(trace(WithoutDerivative(), x)(x), torch.relu(x))


class LearnedStatistics(nn.Module):
    """Statistics that are weights, for which torch has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.batch_norm(x, self.mean, self.variance))


def test_a_network_without_a_derivative_is_compared_without() -> None:
    model, x = LearnedStatistics(), torch.randn(4, 6)
    with torch.no_grad():
        assert torch.equal(trace(model, x)(x), model(x))
