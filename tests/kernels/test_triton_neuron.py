"""The kernel in Triton against the reference loop: by Triton's interpreter, and compiled where there is a GPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.networks import NETWORKS
from kernels.test_neuron import CHARGE, RULES, expected, levels, numbers, whole
from qffs.functional.neuron import fire as reference
from qffs.functional.neuron import rest
from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels import neuron as kernel
from qffs.kernels.layer import Neurons
from qffs.method import FiringRule
from qffs.spiking.layer_by_layer import accumulated
from test_verification import spiking

triton = pytest.importorskip("triton", reason="triton is not installed")
NAME = "qffs.kernels.triton_neuron"
DIFFERS = kernel.differs


def imported(interpret: bool) -> ModuleType:
    """The module anew, its kernels interpreted or compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(interpret)))
        patch.delitem(sys.modules, NAME, raising=False)
        module = importlib.import_module(NAME)
    sys.modules.pop(NAME, None)
    return module


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return torch.device(request.param)


@pytest.fixture(scope="module")
def module(device: torch.device) -> Iterator[ModuleType]:
    """With kernels for this device."""
    found = imported(interpret=device.type == "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(device.type == "cpu")))
        patch.setattr(found, "BLOCK", 32)  # the interpreter goes through the neurons of a block one by one
        yield found


@pytest.mark.parametrize("rule", RULES, ids=["signed", "unsigned", "free", "empty", "reset", "leaky", "leaky reset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_levels_are_those_of_the_reference(
    module: ModuleType, device: torch.device, dtype: torch.dtype, rule: FiringRule
) -> None:
    torch.manual_seed(0)
    shape = (3, 5, 4)
    by_channel = torch.tensor([0.25, 0.375, 0.5]).view(3, 1, 1)
    constant, one = (whole(n, *shape, low=-20, high=40) for n in (5, 1))
    arrived, others = numbers(*shape, channels_last=True), levels(*shape)
    for inputs, fixed, threshold in (
        ([], constant, torch.tensor(0.25)),
        ([arrived], None, by_channel),
        ([others], one, torch.tensor(0.25)),
        ([others, arrived], constant, by_channel),
    ):
        wanted = expected(inputs, fixed, threshold, 3, rule)
        given = [
            SparseSteps(*(x if x is None else on(x, device, dtype) for x in (r.values, r.index, r.scale)))
            for r in inputs
        ]
        charged = None if fixed is None else on(fixed, device, dtype)
        found, moved = module.fire(Neurons(given, charged, CHARGE, on(threshold, device, dtype), 3, rule))
        assert (found.dtype, moved.dtype) == (torch.uint8, torch.bool)
        assert torch.equal(found.cpu().double(), wanted)
        assert torch.equal(moved.cpu(), (torch.cat([wanted[:1], wanted.diff(dim=0)]) != 0).flatten(2).any(-1))


def on(x: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return x.to(device, dtype) if x.is_floating_point() else x.to(device)


def test_infinity_that_is_not_charged(module: ModuleType, device: torch.device) -> None:
    constant = torch.tensor([[float("-inf"), 1.0]], device=device)
    found, _ = module.fire(Neurons([], constant, (0.0, 1.0), torch.tensor(0.5, device=device), 3, RULES[0]))
    assert found.flatten(1).tolist() == [[0, 0], [0, 1]]


def test_long_runs(module: ModuleType, device: torch.device) -> None:
    """With levels that fit no byte, and a leak and a charge that are rounded."""
    torch.manual_seed(0)
    charge, rule = (0.7, 0.3) * 150, FiringRule(cap=False, precharge=0.3, decay=0.9)
    constant, theta = torch.rand(1, 50, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
    found, _ = module.fire(Neurons([], constant.to(device), charge, theta.to(device), 3, rule))
    state = rest(constant, theta, 0.3)
    wanted = reference(state, constant, None, charge, theta, 3, rule)[0].cumsum(0)
    assert torch.equal(found.cpu().double(), wanted)
    assert wanted.max() > 255


def test_no_images(module: ModuleType, device: torch.device) -> None:
    constant = torch.zeros(0, 3, 4, device=device)
    found, moved = module.fire(Neurons([], constant, CHARGE, torch.tensor(0.5, device=device), 3, RULES[0]))
    assert (found.shape, moved.shape) == ((7, 0, 3, 4), (7, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "resnet18", "two_inputs"])
def test_networks_run_through_it(
    name: str, module: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    snn, inputs = spiking(name).to(device), [x.to(device) for x in NETWORKS[name].inputs()]
    called: list[Any] = []
    counted = SimpleNamespace(fire=lambda neurons: called.append(neurons) or module.fire(neurons))
    monkeypatch.setattr(kernel, "in_triton", lambda *_: counted)
    found = accumulated(snn.operations, inputs, snn.schedule.over(8), compiled=False)
    torch.testing.assert_close(found, snn(*inputs, steps=8, backend="reference"), rtol=1e-9, atol=1e-9)
    assert len(called) == len(list(snn.neurons()))


def test_what_fires_otherwise_is_not_used(
    module: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel.differs(module, device, torch.float64) is None
    off = SimpleNamespace(fire=lambda neurons: module.fire(replace(neurons, highest=2)))
    assert kernel.differs(off, device, torch.float32) == "its spikes are wrong"
    gpu = torch.device("cuda", 7)  # where there may be none
    for broken, reason in ((off, "its spikes are wrong"), (SimpleNamespace(), "AttributeError: .*'fire'")):
        monkeypatch.setattr(kernel, "importlib", SimpleNamespace(import_module=lambda _, broken=broken: broken))
        monkeypatch.setattr(kernel, "differs", lambda triton, _, dtype: DIFFERS(triton, device, dtype))
        kernel.in_triton.cache_clear()
        with pytest.warns(UserWarning, match=f"neurons are not compiled on .*, and simulation is slower: {reason}"):
            assert kernel.in_triton(gpu, torch.bfloat16) is None
    kernel.in_triton.cache_clear()


@pytest.mark.parametrize("wide", ["fp32", "fp64"])
def test_it_compiles_for_gpus(wide: str) -> None:
    """For one of compute capability 9.0, whether it is there or not."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {"values": wide, "index": "i64", "constant": wide, "threshold": wide, "charged": wide}
    signature = {name: f"*{of}" for name, of in (pointers | {"sent": "u8", "fired": "u8"}).items()}
    signature |= dict.fromkeys(("steps", "images", "neurons", "constant_stride"), "i32")
    given = {"ARRIVES": True, "CHARGES": True, "BY_NEURON": True, "PRECHARGE": 0.5, "HIGHEST": 3, "NEGATIVE": True}
    for loses in ({"TO_ZERO": False, "LEAK": 1.0}, {"TO_ZERO": True, "LEAK": 0.5}):
        constants = given | loses | {"BLOCK": 512}
        source = ASTSource(imported(False)._fire, signature | dict.fromkeys(constants, "constexpr"), constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        assert "fma" not in made.asm["ptx"]
        assert made.asm["cubin"]
