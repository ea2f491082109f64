"""Copies of networks that were in use."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from qffs.errors import InvalidArgument
from qffs.nn.copies import copied, make_weights_plain


class Slots:
    __slots__ = ("value",)


@dataclass
class Box:
    value: Any


def slotted(x: Tensor) -> Slots:
    slots = Slots()
    slots.value = x
    return slots


@pytest.mark.parametrize(
    "hide",
    [
        lambda x: x,
        lambda x: [x, (x, {x})],
        lambda x: {"loss": {"mean": x}},
        lambda x: OrderedDict(a=deque([x])),
        lambda x: {x: 1},
        Box,
        slotted,
    ],
)
@pytest.mark.parametrize("path", ["", "0", "1.0"])
def test_what_autograd_computed_is_detached_wherever_it_is(hide: Any, path: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1)))
    loss = model(torch.ones(3, 2)).sum()
    model.get_submodule(path).kept = hide(loss)
    copy = copied(model)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    assert type(copy.get_submodule(path).kept) is type(hide(loss))
    assert loss.requires_grad  # the tensor of the original stays as it was


def test_a_tensor_kept_twice_is_one_tensor_in_the_copy() -> None:
    layer = nn.Linear(2, 1)
    layer.first = layer(torch.ones(1, 2))
    layer.again = [layer.first]
    copy = copied(layer)
    assert copy.again[0] is copy.first
    assert torch.equal(copy.first, layer.first)
    assert copy.first.grad_fn is None


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1)))
    model[1].guard = threading.Lock()
    with pytest.raises(InvalidArgument, match=r"1 has the attribute 'guard', a lock: cannot pickle .*lock"):
        copied(model)


class Rounded(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.round(decimals=1)


def twice(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Rounded())
    parametrize.register_parametrization(layer, "bias", Rounded())


def pruned_twice(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "bias", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        twice,
        pruned_twice,
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
)
def test_computed_weights_become_plain(change: Any) -> None:
    original = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    change(original[0])
    x = torch.randn(3, 4)
    original(x)
    original.eval()
    model, before = copied(original), original(x)
    make_weights_plain(model)
    assert type(model[0]) is nn.Linear
    assert model.state_dict().keys() == nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).state_dict().keys()
    assert not model[0]._forward_pre_hooks
    assert torch.equal(model(x), before)
    assert torch.equal(original(x), before)  # the original still computes its weights
    assert "weight" not in dict(original[0].named_parameters())
