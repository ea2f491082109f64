"""One row of the table, one case: every class of modules, and what is refused of a signal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.operators import Around, check_laws, kinds
from qffs.graph.plan import plan
from qffs.graph.rules import MODULES, OPERATORS, FullPrecision
from qffs.graph.site import Kind
from qffs.graph.trace.trace import trace
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer

SHAPED: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda y: y.flatten(2),
    2: lambda y: y,
    3: lambda y: y.unsqueeze(2).expand(-1, -1, 3, -1, -1),
}
"""The spikes with one, two and three dimensions behind the channels."""

OF_DIMENSIONS: dict[str, Callable[[int], nn.Module]] = {
    "Conv": lambda d: nn.Conv2d(4, 6, 3, 2, 2, 2, 2, padding_mode="reflect") if d == 2 else CONV[d](4, 6, 3, padding=1),
    "ConvTranspose": lambda d: TRANSPOSED[d](4, 6, 3, stride=2, output_padding=1, groups=2, dilation=2),
    "AvgPool": lambda d: getattr(nn, f"AvgPool{d}d")(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "AdaptiveAvgPool": lambda d: getattr(nn, f"AdaptiveAvgPool{d}d")(2),
    "MaxPool": lambda d: getattr(nn, f"MaxPool{d}d")(3, 2, 1, ceil_mode=True),
    "AdaptiveMaxPool": lambda d: getattr(nn, f"AdaptiveMaxPool{d}d")(2),
    "ZeroPad": lambda d: getattr(nn, f"ZeroPad{d}d")((1, 2) * d),
    "ConstantPad": lambda d: getattr(nn, f"ConstantPad{d}d")((2, 1) * d, -0.7),
    "ReflectionPad": lambda d: getattr(nn, f"ReflectionPad{d}d")((1, 2) * d),
    "ReplicationPad": lambda d: getattr(nn, f"ReplicationPad{d}d")((1, 2) * d),
    "CircularPad": lambda d: getattr(nn, f"CircularPad{d}d")((1, 2) * d),
    "BatchNorm": lambda d: learned(getattr(nn, f"BatchNorm{d}d")(4)),
    "InstanceNorm": lambda d: getattr(nn, f"InstanceNorm{d}d")(4, eps=0.1, affine=True),
    "LPPool": lambda d: getattr(nn, f"LPPool{d}d")(2, 3, 2),
    "Dropout": lambda d: getattr(nn, f"Dropout{d}d")(0.4),
}
CONV = {1: nn.Conv1d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}

MADE: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(6, 5),
    "Flatten": lambda: nn.Flatten(-2),
    "Unflatten": lambda: nn.Unflatten(1, (2, 2)),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(3),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
    "Fold": lambda: nn.Sequential(nn.Flatten(2), nn.Fold((5, 10), 2, stride=(1, 2), padding=1)),
    "Unfold": lambda: nn.Unfold(3, dilation=2, padding=1, stride=2),
    "Upsample": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic", align_corners=True),
    "UpsamplingNearest2d": lambda: nn.UpsamplingNearest2d(size=(9, 4)),
    "UpsamplingBilinear2d": lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    "SyncBatchNorm": lambda: learned(nn.SyncBatchNorm(4)),
    "GLU": lambda: nn.GLU(1),
    "Hardtanh": lambda: nn.Hardtanh(-0.5, 0.6),
    "Threshold": lambda: nn.Threshold(0.1, 0.1),
    "PReLU": lambda: nn.PReLU(4),
    **{name: lambda name=name: getattr(nn, name)(dim=1) for name in ("Softmax", "Softmin", "LogSoftmax")},  # type: ignore[misc]
    "LayerNorm": lambda: nn.LayerNorm((6, 6)),
    "RMSNorm": lambda: nn.RMSNorm(6, eps=0.1),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3, alpha=0.5),
}

CALLED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor, Tensor], Any]]] = {
    "CosineSimilarity": (lambda: nn.CosineSimilarity(1), lambda m, y, x: m(y, y.flip(1))),
    "Bilinear": (lambda: nn.Bilinear(6, 6, 3), lambda m, y, x: m(y[:, 0], y[:, 1])),
    "Embedding": (lambda: nn.Embedding(2, 6), lambda m, y, x: y[:, :2] * m((x[..., 0] > 0).long())),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(6, 2, add_bias_kv=True),
        lambda m, y, x: m(*(y[:, i].transpose(0, 1) for i in range(3)), need_weights=False)[0].transpose(0, 1),
    ),
}


def learned(norm: Any) -> nn.Module:
    """A batch norm with statistics and parameters, as training leaves them."""
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        tensor.data.uniform_(0.5, 1.5)
    return norm  # type: ignore[no-any-return]


def converted_classes() -> list[str]:
    apart = {nn.ReLU, FullPrecision, Quantizer, Neuron}
    return [kind.__name__ for kind, rule in MODULES.items() if kind not in apart and rule.kind is not Kind.REFUSED]


def case(name: str) -> Around:
    """A network around a module of the class of this name."""
    if name in CALLED:
        made, call = CALLED[name]
        return Around((lambda y, s, x: call(s.m[0], y, x),), (made(),))
    family, dimensions = name[:-2], int(name[-2]) if name.endswith("d") and name[-2].isdigit() else 0
    if name not in MADE and family in OF_DIMENSIONS:
        return Around((lambda y, s, x: s.m[0](SHAPED[dimensions](y)),), (OF_DIMENSIONS[family](dimensions),))
    return Around((lambda y, s, x: s.m[0](y - 0.25),), (MADE[name]() if name in MADE else getattr(nn, name)(),))


@pytest.mark.parametrize("name", converted_classes())
def test_every_class(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = case(name).double().eval()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    found = kinds(model, x, name)
    if name == "Conv2d":
        found = found[1:]
    assert set(found) == {MODULES[getattr(nn, name)].kind}
    check_laws(model, x, tmp_path)


REFUSED: dict[str, Callable[[Any], Any]] = {
    **{name: lambda y, name=name: getattr(torch, name)(y, 0.3) for name in ["eq", "ne", "lt", "le", "gt", "ge"]},  # type: ignore[misc]
    **{name: lambda y, name=name: getattr(torch, name)(y, 0.3) for name in ("floor_divide", "remainder")},  # type: ignore[misc]
    **{
        name: lambda y, name=name: getattr(y, name)()
        for name in ["round", "floor", "ceil", "trunc", "sign", "int", "long", "bool"]
    },  # type: ignore[misc]
    **{name: lambda y, name=name: getattr(torch, name)(y, dim=1) for name in ("argmax", "argmin", "argsort")},  # type: ignore[misc]
    **{name: lambda y, name=name: getattr(torch, f"{name}")(y, y) for name in ("logical_and", "logical_or")},  # type: ignore[misc]
    "logical_not": torch.logical_not,
    "floordiv": lambda y: y // 0.3,
    "mod": lambda y: y % 0.3,
    "hardshrink": lambda y: torch.hardshrink(y, 0.2),
    "topk": lambda y: y.topk(1, 1)[0],
    "sort": lambda y: y.sort(1)[0],
    "masked_fill": lambda y: y.masked_fill(y > 0.5, 1.0),
    **{name: lambda y, name=name: BOTH[name](y > 0.3, y < 0.5) for name in ("and_", "or_", "xor")},  # type: ignore[misc]
    "invert": lambda y: ~(y > 0.3),
}
BOTH: dict[str, Callable[[Any, Any], Any]] = {
    "and_": lambda a, b: a & b,
    "or_": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_jumps_is_refused_of_spikes_and_allowed_of_the_input(name: str) -> None:
    x = torch.randn(3, 2, 6, 6)
    rows = plan(trace(Around((lambda y, s, x: REFUSED[name](y) * 1.0,)).eval(), x)).refused
    assert name in {row.operator.strip(".") for row in rows} | {"masked_fill"}, "there the mask is refused"
    of_input = Around((lambda y, s, x: y.mean((1, 2, 3)) + (REFUSED[name](x) * 1.0).flatten(1).mean(1),))
    plan(trace(of_input.eval(), x)).check()


RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(6, 6),
    "gru": lambda: nn.GRU(6, 6),
    "rnn_tanh": lambda: nn.RNN(6, 6),
    "rnn_relu": lambda: nn.RNN(6, 6, nonlinearity="relu"),
    "lstm_cell": lambda: nn.LSTMCell(6, 6),
    "gru_cell": lambda: nn.GRUCell(6, 6),
    "rnn_tanh_cell": lambda: nn.RNNCell(6, 6),
    "rnn_relu_cell": lambda: nn.RNNCell(6, 6, nonlinearity="relu"),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_classes_derived_from_recurrent_ones_are_recurrent(name: str) -> None:
    made = RECURRENT[name]()
    made.__class__ = type("Derived", (type(made),), {})

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = made

        def forward(self, x: Tensor) -> Tensor:
            y = self.memory(torch.relu(x))
            return y if name in {"gru_cell", "rnn_tanh_cell", "rnn_relu_cell"} else y[0]

    x = torch.randn(2, 6) if "cell" in name else torch.randn(2, 5, 6)
    (row, *_) = plan(trace(Recurrent(), x)).refused
    assert (row.operator, row.why) == (name, "it is recurrent: only feed-forward networks are converted")


def test_every_row_has_a_case() -> None:
    from graph.rules import test_nonlinear, test_operators, test_shapes

    shown = test_operators.CASES.keys() | test_shapes.CASES.keys() | test_nonlinear.CASES.keys() | REFUSED.keys()
    shown |= RECURRENT.keys()
    assert shown == {name for name in OPERATORS if ":" not in name}
