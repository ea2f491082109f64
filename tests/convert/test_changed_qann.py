"""What users do to a quantized network, a plain module, before `to_spiking`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

import qffs
from helpers.problems import calibrated
from qffs.errors import Diverged, InvalidArgument, NotConvertible


def qann() -> tuple[Any, Tensor]:
    """Return a quantized network with quantizers at 1 and 3, and inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(32, 6, dtype=torch.float64)
    return calibrated(model, x, output="analog"), x


class Rounded(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        s = w.abs().max() / 3
        return w + ((w / s).round() * s - w).detach()


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


def fine_tuned_after_pruning(q: Any) -> None:
    prune.l1_unstructured(q.get_submodule("2"), "weight", 0.5)
    q(torch.randn(4, 6, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        for parameter in q.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        lambda q: parametrize.register_parametrization(q.get_submodule("2"), "weight", Rounded()),
        lambda q: parametrizations.weight_norm(q.get_submodule("2")),
        lambda q: weight_norm(q.get_submodule("2")),
        lambda q: prune.global_unstructured(
            [(q.get_submodule("0"), "weight"), (q.get_submodule("2"), "bias")], prune.L1Unstructured, amount=0.3
        ),
        fine_tuned_after_pruning,
        lambda q: q.set_submodule("4", nn.Linear(8, 5).double()),
        lambda q: q.set_submodule("4", nn.Identity()),
        lambda q: q.set_submodule("4", nn.Softmax(-1)),
    ],
)
def test_changed_weights_and_layers_are_read(change: Callable[[Any], Any]) -> None:
    q, x = qann()
    change(q)
    qffs.verify(q, qffs.to_spiking(q), x)
    q(x).sum().backward()  # the QANN is as it was, and trains on


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("4", nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))),
        ("3", Own()),
        ("3", nn.ReLU()),
        ("3", nn.ReLU6()),
        ("3", nn.Hardtanh(0, 2)),
        ("3", nn.LSTM(8, 8)),
        ("3", nn.Hardshrink()),
        ("2", nn.BatchNorm1d(8, track_running_stats=False)),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_path(path: str, module: nn.Module) -> None:
    q, _ = qann()
    q.set_submodule(path, module.double())
    with pytest.raises(NotConvertible, match=f"cannot be converted: {type(module).__name__} at {path}: "):
        qffs.to_spiking(q)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.to("meta"), r"2\.weight is on the meta device"),
        (lambda weight: weight.to_sparse(), r"2\.weight is a sparse_coo tensor"),
        (lambda weight: weight.to(torch.float8_e4m3fn), r"2\.weight is of type float8_e4m3fn"),
        (lambda weight: weight.float(), r"several types \(0\.weight float64, 2\.weight float32\)"),
    ],
)
def test_weights_in_another_form_are_named(change: Callable[[Tensor], Tensor], message: str) -> None:
    q, _ = qann()
    layer = q.get_submodule("2")
    layer.weight = nn.Parameter(change(layer.weight.detach()), requires_grad=False)
    with pytest.raises(InvalidArgument, match=message):
        qffs.to_spiking(q)


def test_a_lost_layer_is_named() -> None:
    q, _ = qann()
    q.delete_submodule("2")
    with pytest.raises(InvalidArgument, match="no longer has 2, which its graph reads"):
        qffs.to_spiking(q)


@pytest.mark.parametrize("step_size", [0.0, -0.5, float("nan")])
def test_a_step_size_of_zero_or_below_is_named(step_size: float) -> None:
    q, x = qann()
    q(x)  # from now on it counts as set
    with torch.no_grad():
        q.get_submodule("3").step_size.fill_(step_size)
    with pytest.raises(Diverged, match=f"the step size at 3 is {step_size:g}"):
        qffs.to_spiking(q)


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (lambda q: q.get_submodule("2").register_forward_hook(lambda *_: None), "2 has forward hooks"),
        (lambda q: setattr(q.get_submodule("2"), "forward", lambda x: 2 * x), "2 has a forward of its own, put on"),
        (lambda q: q.register_forward_hook(lambda *_: None), "the quantized network has forward hooks"),
        (lambda q: q.register_forward_pre_hook(lambda *_: None), "the quantized network has forward hooks"),
        (lambda q: setattr(q, "forward", lambda x: 2 * x), "the quantized network has a forward of its own"),
    ],
)
def test_what_was_added_to_instances_is_refused_by_name(add: Callable[[Any], Any], said: str) -> None:
    q, x = qann()
    q.get_submodule("2").register_full_backward_hook(lambda *_: None)
    q.get_submodule("2").weight.register_hook(lambda gradient: gradient)
    qffs.verify(q, qffs.to_spiking(q), x)  # a spiking network has no gradients
    add(q)
    with pytest.raises(NotConvertible, match=said):
        qffs.to_spiking(q)
