"""Networks that return named tuples, dataclasses and kinds of dictionaries: their outputs keep the class."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated
from qffs.errors import NotConvertible, NotTraceable
from qffs.graph.nested import mapped, tensors
from qffs.graph.replace import plain_copy


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Outputs:
    hidden: Tensor
    logits: Tensor
    loss: Tensor | None = None

    @property
    def classes(self) -> Tensor:
        return self.logits.argmax(-1)


@dataclass(frozen=True, slots=True)
class Frozen:
    logits: Tensor
    parts: tuple[Tensor, ...]


@dataclass
class Swapped:
    """Its fields have the names of operands, and its arguments another order."""

    input: Tensor
    other: Tensor

    def __init__(self, other: Tensor, input: Tensor) -> None:
        self.input, self.other = input, other


class Model(OrderedDict[str, Any]):
    """The manner of Hugging Face: a dataclass that is a dictionary of those fields that are not None."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            if getattr(self, each.name) is not None:
                self[each.name] = getattr(self, each.name)


@dataclass
class ModelOutput(Model):
    loss: Tensor | None = None
    logits: Tensor | None = None
    states: tuple[Tensor, ...] | None = None


class Attributes(dict[str, Tensor]):
    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class Net(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.head, self.make = nn.Linear(6, 8), nn.Linear(8, 3), make

    def forward(self, x: Tensor) -> Any:
        hidden = self.layer(x).relu()
        return self.make(self.head(hidden), hidden)


MAKERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "named tuple": Pair,
    "dataclass": lambda y, h: Outputs(h, y),
    "frozen dataclass": lambda y, h: Frozen(y, (h, h)),
    "swapped": lambda y, h: Swapped(input=y, other=h),
    "model output": lambda y, h: ModelOutput(logits=y, states=(h, y)),
    "ordered dictionary": lambda y, h: OrderedDict(b=y, a=h),
    "attributes": lambda y, h: Attributes(logits=y, hidden=h),
    "nested": lambda y, h: [Pair(y, h), {"more": Outputs(h, y)}],
    "one inside another": lambda y, h: Pair(Pair(y, h), h),  # type: ignore[arg-type]
}


def qann_of(make: Callable[[Tensor, Tensor], Any], output: Any = "analog") -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, 6, dtype=torch.float64)
    return calibrated(Net(make).double(), x, output=output), x


def same(a: Any, b: Any) -> bool:
    pairs = zip(tensors(a), tensors(b), strict=True)
    return type(a) is type(b) and all(torch.allclose(x, y, rtol=0, atol=1e-12) for x, y in pairs)


@pytest.mark.parametrize("make", MAKERS)
def test_the_class_is_kept_in_both_networks(make: str) -> None:
    qann, x = qann_of(MAKERS[make])
    expected = qann(x)
    assert type(expected) is type(MAKERS[make](x, x))
    assert same(copy.deepcopy(qann)(x), expected)
    snn = qffs.to_spiking(qann)
    qffs.verify(qann, snn, x)
    for network in (snn, copy.deepcopy(snn)):
        for backend in (None, "reference", "pytorch"):
            readout = network(x, steps=8, backend=backend)
            assert all(each.shape[:2] == (8, 8) for each in tensors(readout))
            assert same(mapped(readout, lambda each: each[-1]), mapped(expected, lambda each: each))
        assert len(tensors(network(x))[0]) <= 8  # until it has settled
        assert tensors(network(x[:0], steps=8))[0].shape[:2] == (8, 0)


@pytest.mark.parametrize("make", MAKERS)
def test_outputs_are_quantized_inside_it(make: str) -> None:
    qann, x = qann_of(MAKERS[make], output=2)
    assert sum("step_size" in name for name, _ in qann.named_parameters()) == 2
    snn = qffs.to_spiking(qann)
    qffs.verify(qann, snn, x)
    assert len({path for path, _ in snn.neurons()}) == 2


@pytest.mark.parametrize("make", MAKERS)
def test_a_file_holds_tuples_and_dictionaries(make: str, tmp_path: Path) -> None:
    qann, x = qann_of(MAKERS[make])
    for network, options in ((qann, {}), (qffs.to_spiking(qann), {"steps": 8})):
        loaded = qffs.load(qffs.save(network, tmp_path / "saved")).network(x, **options)
        assert isinstance(loaded, tuple | dict | list)
        assert all(map(torch.equal, tensors(loaded), tensors(network(x, **options))))
    plain = plain_copy(qann)(x)
    assert type(plain) in {tuple, dict, list}
    assert all(map(torch.equal, tensors(plain), tensors(qann(x))))


def test_the_plan_has_one_row_for_the_output() -> None:
    x = torch.randn(4, 6)
    plans = [qffs.plan(Net(make), x).summary() for make in (lambda y, h: (y, h), MAKERS["named tuple"])]
    assert plans[0] == plans[1]


def test_a_dictionary_that_is_built_in_another_way_is_a_dictionary() -> None:
    qann, x = qann_of(lambda y, _: defaultdict(list, {"y": y}))
    assert qann(x).keys() == {"y"}


@dataclass
class Computed:
    logits: Tensor
    hidden: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.hidden = self.logits


@dataclass
class Doubled:
    logits: Tensor

    def __post_init__(self) -> None:
        self.logits = 2 * self.logits


@dataclass
class Numbered:
    logits: Tensor
    number: int = 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y, _: Computed(y), "a Computed cannot be put together from its fields .*: return a tuple or a dict"),
        (
            lambda y, _: Doubled(y),
            r"a Doubled cannot be put together from its fields \(it changes them when it is made",
        ),
        (lambda y, _: Numbered(y), "Numbered at numbered: the network returns 3, which is no tensor"),
        (lambda y, _: SimpleNamespace(y=y), "a SimpleNamespace, which a graph cannot hold: use a tuple or a dict"),
    ],
)
def test_what_cannot_be_put_together_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises((NotConvertible, NotTraceable), match=message) as refusal:
        qffs.quantize(Net(make), example=torch.randn(4, 6))
    assert "\n" not in str(refusal.value)
