"""Small networks around one operator, and the laws that each has to keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import qffs
from qffs.functional.neuron import NeuronState
from qffs.graph.call import label
from qffs.graph.nested import tensors
from qffs.graph.paths import owner
from qffs.graph.plan import plan
from qffs.graph.rules import OPERATORS, name_of
from qffs.graph.site import Kind, site
from qffs.graph.trace.trace import trace
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork

Form = Callable[[Tensor, Any, Tensor], Any]
"""A forward: of the spikes y [B, 4, 6, 6], the network with its parameters, and the input x [B, 2, 6, 6]."""


class After(nn.Module):
    """Neurons after the operator, which fire for large values and for small ones."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.relu(torch.stack([z * 0.7371 + 0.21, 0.3 - z * 0.7371], 1))


class Around(nn.Module):
    """Convolution, ReLU, then every form of an operator, read out as it is and through further neurons."""

    def __init__(self, forms: tuple[Form, ...], modules: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        self.conv, self.after, self.forms = nn.Conv2d(2, 4, 3, padding=1), After(), forms
        self.m = nn.ModuleList(modules)
        self.p, self.q = nn.Parameter(torch.randn(1, 4, 6, 6)), nn.Parameter(torch.rand(1, 4, 1, 6) + 0.5)
        self.w, self.v = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.k, self.c = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.randn(4))
        self.register_buffer("mask", torch.rand(6, 6) > 0.4)
        self.register_buffer("index", torch.tensor([2, 0, 2]))

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.conv(x))
        read = [form(y, self, x) for form in self.forms]
        return [(z, self.after(z)) for z in read]


def kinds(model: nn.Module, x: Tensor, name: str) -> list[Kind]:
    """The kinds of the calls of an operator in the forms of a network."""
    traced = trace(model, x)
    plan(traced)
    calls = [node for node in traced.graph.nodes if owner(node) != "after" and site(node).kind is not Kind.INPUT]
    return [site(node).kind for node in calls if (name_of(node) or label(node, traced)).lower() in called(name)]


def check_every_form(name: str, forms: tuple[Form, ...], folder: Path) -> None:
    """Every form of an operator is found under its name, is of the kind of its row, and keeps the laws."""
    torch.manual_seed(1)
    model = Around(forms).double().eval()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    found = kinds(model, x, name)
    assert len(found) >= len(forms)
    assert {kind for kind in found if kind is not Kind.PLAIN} <= {OPERATORS[name].kind}
    check_laws(model, x, folder)


def called(name: str) -> set[str]:
    """How an operator may be called in a graph: dropout becomes a module of its own."""
    return {name.lower(), name.lower().replace("_", "")}


def converted(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """The quantized network; its step sizes are powers of two, so that no type rounds the spikes."""
    qann = qffs.calibrate(qffs.quantize(model, example=x), [x], "lsq").eval()
    for module in qann.modules():
        if isinstance(module, Quantizer):
            module.set_step_size(2.0 ** torch.log2(module.step_size).round().item())
    return qann


def check_laws(model: nn.Module, x: Tensor, folder: Path) -> None:
    """Counts equal levels, outputs are equal, in chunks of any size, under every schedule, and after saving."""
    qann = converted(model, x)
    with torch.no_grad():
        expected = tensors(qann(x))
    with torch.no_grad():
        saved = tensors(qffs.load(qffs.save(qann, folder / "qann")).network(x))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(saved, expected, strict=True))
    for charge in (None, (0.0, 1.0)):
        snn = qffs.to_spiking(qann, charge)
        steps = qffs.verify(qann, snn, x, tie_tolerance=0).steps
        whole, spikes = run(snn, x, steps, None)
        close(whole, expected)
        assert all(bool(fired.any()) for fired in spikes.values()), "a layer that never fires shows nothing"
        for chunk in (1, 2):
            parts, fired = run(snn, x, steps, chunk)
            assert all(torch.equal(spikes[path], fired[path]) for path in spikes)
            close(parts, whole)
    again, _ = run(qffs.load(qffs.save(snn, folder / "snn")).network, x, steps, None)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, whole, strict=True))


def close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def run(snn: Any, x: Tensor, steps: int, chunk: int | None) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The outputs after the last step, and the spikes [T, B, ...] of every layer."""
    assert isinstance(snn, SpikingNetwork)
    seen: dict[str, list[Tensor]] = {}

    def observe(path: str, spikes: Tensor, state: NeuronState) -> None:
        seen.setdefault(path, []).append(spikes)

    readout, _ = snn.run(x, steps=steps, chunk=chunk, observer=observe)
    return [each[-1] for each in tensors(readout)], {path: torch.cat(parts) for path, parts in seen.items()}
