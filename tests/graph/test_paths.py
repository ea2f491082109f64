"""Names of modules, weights and outputs: each is kept, or refused in one sentence."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated
from qffs.errors import NotTraceable

KEPT = ("self", "x", "a b", "a'b", "a-b", "1a", "{}", "%s", "'''", "a/b", "ä", "len", "True_", "torch", "weight")
REFUSED = ("class", "in", "None", "lambda", 'a"b', "a\\b", "a\\nb", "a\nb", '"""', "\ufb01", "\x00")
OF_GRAPHS = ("graph", "code", "meta", "recompile", "_graph")


class Named(nn.Module):
    """A network with modules and weights of one name, and a dictionary with this key."""

    def __init__(self, name: str, at_top: bool = True) -> None:
        super().__init__()
        self.name, self.at_top = name, at_top
        self.into, self.out = nn.ModuleDict({name: nn.Linear(6, 8)}), nn.Linear(8, 3)
        self.shifts = nn.ParameterDict({name: torch.randn(8)})
        if at_top:
            self.add_module(name, nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.into[self.name](x) + self.shifts[self.name]
        return {self.name: self.out(self._modules[self.name](y) if self.at_top else y.relu()), "y": y}


@pytest.mark.parametrize("name", KEPT)
def test_a_name_is_kept_in_networks_copies_and_files(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Named(name).double(), torch.randn(8, 6, dtype=torch.float64)
    qann = calibrated(model, x, output="analog")
    assert model.state_dict().keys() <= qann.state_dict().keys()
    snn = qffs.to_spiking(qann)
    qffs.verify(qann, snn, x)
    expected = snn(x, steps=8)
    for network in (copy.deepcopy(snn), qffs.load(qffs.save(snn, tmp_path / "snn")).network):
        assert torch.equal(network(x, steps=8)[name], expected[name])
    assert torch.equal(qffs.load(qffs.save(qann, tmp_path / "qann")).network(x)[name], qann(x)[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_no_source_can_hold_is_refused(name: str) -> None:
    with pytest.raises(NotTraceable) as refusal:
        qffs.quantize(Named(name, at_top=False), example=torch.randn(4, 6))
    assert f"its part {f'into.{name}'!r} must have another name" in str(refusal.value)


@pytest.mark.parametrize("name", OF_GRAPHS)
def test_a_name_that_graphs_use_themselves_is_refused_at_the_top(name: str) -> None:
    with pytest.raises(NotTraceable, match=f"its part '{name}' must have another name"):
        qffs.quantize(Named(name), example=torch.randn(4, 6))
    qffs.quantize(Named(name, at_top=False), example=torch.randn(4, 6))


@pytest.mark.parametrize("name", [*KEPT, *REFUSED, *OF_GRAPHS])
def test_an_output_may_have_any_name(name: str, tmp_path: Path) -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {name: self.layer(x).relu()}

    x = torch.randn(4, 6)
    qann = calibrated(Outputs(), x, output="analog")
    snn = qffs.load(qffs.save(qffs.to_spiking(qann), tmp_path / "snn")).network
    torch.testing.assert_close(snn(x, steps=8)[name][-1], qann(x)[name])
