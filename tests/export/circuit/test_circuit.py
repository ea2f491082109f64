"""Networks as populations and synapses, and the scripts that run them in Brian 2 and PyNN."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.networks import NETWORKS
from qffs import export
from qffs.data import load as load_data
from qffs.errors import InvalidArgument, Mismatch, NotConvertible
from qffs.export.circuit import extract
from qffs.export.circuit import folder as circuit_folder
from qffs.export.circuit.circuit import simulate
from qffs.export.circuit.extract import circuit
from qffs.graph import batch_axis
from qffs.graph.nested import tensors
from qffs.graph.site import Kind, site
from qffs.spiking.network import SpikingNetwork
from test_verification import run, some_quickly
from test_verification import spiking as converted

STEPS = 9
NONLINEAR = {
    "lenet", "alexnet", "group_norm", "se_resnet", "mobilenet_v3", "cbam", "convnext", "autoencoder", "vit",
    "vit_fused", "vit_einsum", "vit_multihead", "vit_linear", "windows", "shifted_windows", "textcnn",
    "transformer_encoder", "transformer_encoder_norm_first", "time_first", "decoder", "decoder_fused", "numbered",
    "cosine", "mixer", "pointnet", "graph_convolution",
}  # fmt: skip
"""What multiplies or divides signals, or pools what are no single spikes."""


@some_quickly
def test_ordinary_networks_send_the_same_spikes(name: str) -> None:
    snn, inputs = converted(name), NETWORKS[name].inputs()
    if name in NONLINEAR:
        with pytest.raises(NotConvertible, match=r"no synapses between neurons:\n\w+ \(\.?\w+\): it is not linear in"):
            circuit(snn)
        return
    found = simulate(circuit(snn), inputs, STEPS)
    readout, expected = run(name, STEPS, None)
    for node in snn.graph.graph.nodes:
        if site(node).kind is Kind.SPIKING:
            own = expected[node.target].movedim(batch_axis.dimension(node) + 1, 1)
            assert torch.equal(own.reshape(found[node.target].shape), found[node.target]), node.target
    for number, each in enumerate(tensors(readout)):
        total = found["output" if not number else f"output_{number}"]
        torch.testing.assert_close(total.view(each.shape), each, rtol=1e-9, atol=1e-9)


def spiking(model: nn.Module, x: Tensor, **options: Any) -> SpikingNetwork:
    return qffs.to_spiking(qffs.calibrate(qffs.quantize(model.double(), 2, example=x[:2]), [x], "lsq"), **options)


@cache
def digits() -> tuple[Tensor, Tensor]:
    found = load_data("digits")
    return found.normalize(found.test.images).double(), found.test.labels


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))


def convolutional() -> nn.Module:
    one, two = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
    return nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), nn.Flatten(), nn.Linear(24, 10))


def pooling() -> nn.Module:
    one, two = nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 4, 3, 1, 1)
    return nn.Sequential(
        one, nn.ReLU(), nn.MaxPool2d(3, 2, 1), two, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    )


@cache
def trained(make: Callable[[], nn.Module]) -> SpikingNetwork:
    """Lightly: so that classes differ and spikes are taken back."""
    torch.manual_seed(0)
    model, (x, y) = make().double(), digits()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return spiking(model, x)


def script(folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-W", "ignore", "run.py", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


TARGETS = {"brian2": export.brian2, "pynn": export.pynn}


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "make"),
    [
        ("brian2", dense),
        pytest.param("brian2", convolutional, marks=SLOW),
        pytest.param("brian2", pooling, marks=SLOW),
        ("pynn", dense),
        pytest.param("pynn", convolutional, marks=SLOW),
        pytest.param("pynn", pooling, marks=SLOW),
    ],
)
def test_a_simulator_sends_the_same_spikes_for_digits(
    target: str, make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    snn, x = trained(make), digits()[0][:8]
    written = TARGETS[target](snn, tmp_path / "made", 8, x)
    assert (written.path, written.steps) == (tmp_path / "made", 8)
    code, said, errors = script(tmp_path / "made", "-o", "spikes.npz")
    assert (code, errors) == (0, "")
    classes = snn(x, steps=8)[-1].argmax(-1)
    assert re.fullmatch(
        rf"8 inputs, 8 steps, [\d,]+ spikes, \S+ s\nlargest output: {' '.join(map(str, classes.tolist()))}\n"
        r"all spikes are those of qffs, outputs within \de-1\d\n".replace(r"\de", r"\d\.\de"),
        said,
    )
    spikes: dict[str, Tensor] = {}
    snn.run(x, steps=8, observer=lambda path, sent, _: spikes.update({path: sent}))
    with np.load(tmp_path / "made" / "spikes.npz") as found:
        for path, sent in spikes.items():
            assert np.array_equal(found[path].reshape(sent.shape), sent.numpy())
    assert any(bool((sent < 0).any()) for sent in spikes.values())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("rule", "schedule"),
    [
        (qffs.FiringRule(negative_spikes=False), 3),
        (qffs.FiringRule(cap=False, precharge=0.25), 2),
        (None, (0.75, -0.25, 0.0, 0.5)),
    ],
)
def test_rules_and_schedules_are_those_of_the_network(target: str, rule: Any, schedule: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 5, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    snn = spiking(model, x, charge_steps=schedule, rule=rule)
    TARGETS[target](snn, tmp_path / "made", 11, x)
    code, said, _ = script(tmp_path / "made")
    assert code == 0
    assert "all spikes are those of qffs" in said


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    x = torch.randn(6, 5)
    snn = spiking(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), x.double())
    export.brian2(snn, tmp_path / "made")
    return tmp_path / "made"


@pytest.mark.slow
def test_spikes_that_differ_are_told(small: Path) -> None:
    with np.load(small / "network.npz") as file:
        arrays = dict(file)
    arrays["population 0/expected"][2, 1, 3] += 1
    np.savez(small / "network.npz", **arrays)
    code, said, _ = script(small)
    assert code == 1
    assert "spikes differ in 1 outputs within" in said


@pytest.mark.slow
def test_other_inputs_are_simulated(small: Path) -> None:
    np.save(small / "x.npy", np.random.default_rng(0).normal(size=(3, 5)))
    code, said, _ = script(small, "x.npy", "--steps", "12")
    assert code == 0
    assert said.startswith("3 inputs, 12 steps, ")
    assert "qffs" not in said
    code, _, errors = script(small, "x.npy", "--steps", "2")
    assert code == 2
    assert "run.py: error: a run needs at least the 3 steps in which the input is charged" in errors


MISTAKES = {
    "x.npy x.npy": "the network takes 1 inputs: input_1",
    "x.npy --steps 2": "a run needs at least the 3 steps in which the input is charged",
    "wrong.npy": r"input_1 must be numbers \[B, 5\], not float64 \[3, 4\]",
    "none.npy": "No such file or directory: 'none.npy'",
    "text.npy": r"input_1 must be numbers \[B, 5\], not <U1 \[2, 5\]",
    "empty.npy": r"input_1 must be numbers \[B, 5\], not float64 \[0, 5\]",
    "several.npz": r"input_1 must be numbers \[B, 5\], not ",
    "infinite.npy": "input_1 holds NaN or infinity",
    "x.npy -o nowhere/spikes.npz": "there is no folder .*nowhere to write to",
}


def test_likely_mistakes_are_told(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what every ``run.py`` calls, in this process, where no simulator has to be imported for each."""
    x = np.random.default_rng(0).normal(size=(3, 5))
    np.save(small / "x.npy", x)
    np.save(small / "wrong.npy", x[:, :4])
    np.save(small / "text.npy", np.full((2, 5), "a"))
    np.save(small / "empty.npy", x[:0])
    np.save(small / "infinite.npy", np.where(x > 0, np.inf, x))
    np.savez(small / "several.npz", x=x)
    spec = importlib.util.spec_from_file_location("written_network", small / "network.py")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "written_network", stored := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(stored)
    monkeypatch.chdir(small)
    for arguments, sentence in MISTAKES.items():
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments.split()])
        with pytest.raises(SystemExit) as stop:
            stored.main(lambda *_: pytest.fail("began to simulate"))
        assert stop.value.code == 2
        assert re.search(rf"run.py: error: .*{sentence}", capsys.readouterr().err)


@pytest.mark.parametrize("target", TARGETS)
def test_without_the_simulator(target: str, small: Path) -> None:
    (small / "run.py").write_bytes((circuit_folder.SCRIPTS / f"run_{target}.py").read_bytes())
    (small / "brian2.py").write_text("raise ImportError('not here')")
    code, _, errors = script(small)
    assert code == 1
    assert re.fullmatch(r"run.py needs .*: pip install .*brian2 'numpy<2.4' \(not here\)\n", errors)


def test_what_is_there_is_replaced_and_other_files_are_not_touched(small: Path, tmp_path: Path) -> None:
    x = torch.randn(6, 5, dtype=torch.float64)
    snn = spiking(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), x)
    export.pynn(snn, small, inputs=x)
    assert sorted(each.name for each in small.iterdir()) == ["network.npz", "network.py", "run.py"]
    (small / "notes.txt").write_text("")
    with pytest.raises(InvalidArgument, match=r"made holds notes.txt, which is not a file of an export"):
        export.brian2(snn, small)
    assert "PyNN" in (small / "run.py").read_text()


def test_nothing_is_written_where_spikes_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(6, 5, dtype=torch.float64)
    snn = spiking(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), x)

    def altered(*arguments: Any) -> dict[str, Tensor]:
        found = simulate(*arguments)
        found["1"][4, 0, 0] += 1
        return found

    monkeypatch.setattr(circuit_folder, "simulate", altered)
    with pytest.raises(Mismatch, match="as a circuit, 1 would send other spikes than in the network, from step 5 on"):
        export.brian2(snn, tmp_path / "made", inputs=x)
    assert not (tmp_path / "made").exists()


def test_large_networks_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "UNITS", 12)
    x = torch.randn(6, 5, dtype=torch.float64)
    with pytest.raises(NotConvertible, match="this network has 13 units, and at most 12 are written unit by unit"):
        circuit(spiking(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), x))


def test_what_the_input_decides_is_refused() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return torch.where(mask, torch.relu(self.one(x)), torch.relu(self.other(torch.relu(self.one(x)))))

    torch.manual_seed(0)
    given = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 4) > 0.3
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(Chosen().double(), 2, example=given), [given], "lsq"))
    with pytest.raises(NotConvertible, match=r"where \(where\): the input decides where its operands go"):
        circuit(snn)


class Named(nn.Module):
    """Layers, an input and a pooling that are called as one another, or as files call things."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.output, self.file = nn.ReLU(), nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), nn.ReLU()
        self.max_pool2d = nn.Module()
        self.max_pool2d.levels = nn.ReLU()
        self.end = nn.Linear(18, 3)

    def forward(self, x: Tensor, output: Tensor) -> Any:
        y = self.max_pool2d.levels(self.x(x) - 0.5 * x)
        y = nn.functional.max_pool2d(self.output(y), 2, 1) + output
        return self.end(self.file(y).flatten(1)), y.mean((2, 3))


@pytest.mark.slow
def test_things_may_be_called_alike(tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.randn(6, 2, 3, 3, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(Named().double(), 2, example=given), [given], "lsq")
    snn = qffs.to_spiking(qann)
    found = circuit(snn)
    names = [*found.inputs, *(each.name for each in found.populations)]
    assert len(set(names)) == len(names)
    layers = [path for path, _ in snn.neurons()]
    assert layers == ["x", "max_pool2d.levels", "output.1", "file"]
    assert set(layers) < set(names)
    export.brian2(snn, tmp_path / "made", 9, given)
    code, said, errors = script(tmp_path / "made", "-o", "spikes.npz")
    assert (code, errors) == (0, "")
    assert "all spikes are those of qffs" in said
    with np.load(tmp_path / "made" / "spikes.npz") as file:
        assert set(file) == {each.name for each in found.populations}
    written = export.nir_exact(snn, tmp_path / "a.nir", 9, given)
    assert written.deviation is not None
    for one, other in zip(export.read_nir(tmp_path / "a.nir")(*given, steps=9), snn(*given, steps=9), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_several_inputs_have_one_batch(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(5, 4), nn.Linear(3, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.relu(self.one(a) + self.other(b))

    given = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(Two().double(), 2, example=given), [given], "lsq"))
    export.brian2(snn, tmp_path / "made", inputs=given)
    np.save(tmp_path / "a.npy", given[0][:3].numpy())
    np.save(tmp_path / "b.npy", given[1].numpy())
    code, _, errors = script(tmp_path / "made", "../a.npy", "../b.npy")
    assert code == 2
    assert "all inputs must have the same batch, not [3, 6]" in errors
    for wrong in ((given[0],), (given[0], given[1][:3]), (given[0][:, :2], given[1]), (torch.tensor(1.0), given[1])):
        for make in (export.brian2, export.nir_exact, export.nir):
            with pytest.raises(InvalidArgument, match=r"the network takes inputs of \[B, 5\], \[B, 3\], not \["):
                make(snn, tmp_path / "other", inputs=wrong)
    export.brian2(snn, tmp_path / "made", inputs=[x.clone().requires_grad_() for x in given])


def test_a_file_and_a_script_of_ones_own_stay(tmp_path: Path) -> None:
    x = torch.randn(6, 5, dtype=torch.float64)
    snn = spiking(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), x)
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "run.py").write_text("mine")
    for path in ("thesis.txt", "own"):
        with pytest.raises(InvalidArgument, match="which is not a file of an export: name another folder"):
            export.brian2(snn, tmp_path / path)
    assert (tmp_path / "thesis.txt").read_text() == (tmp_path / "own" / "run.py").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
