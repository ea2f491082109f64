"""Graphs of NIR: the exact one run by our reader, the approximations run by other tools beside it."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.networks import NETWORKS
from helpers.places import ROOT
from qffs import export
from qffs.errors import CheckpointError, InvalidArgument, Mismatch, NotConvertible
from qffs.export.nir import write
from qffs.export.nir.exact import Exact
from qffs.export.nir.linear_form import Convolution, Flatten, Matrix, linear_form
from qffs.export.nir.run import ExactNirNetwork, Firing, NirNetwork
from qffs.export.nir.write import PROFILES
from qffs.graph.nested import tensors
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from test_verification import quantized, run, some_quickly
from test_verification import spiking as converted

STEPS = 9
EXACT = {
    "resnet18", "resnet50", "resnext", "preactivation_resnet", "repvgg", "weight_standardized", "shared_block", "vgg16",
    "vgg16_bn", "functional", "conv1d", "convmixer", "mobilenet_v2", "shufflenet", "ghostnet", "squeezenet", "densenet",
    "googlenet", "csp", "spatial_pyramid_pooling", "checked", "normalizing", "mlp", "siamese", "many_outputs",
    "dueling", "weight_norm",
}  # fmt: skip
APPROXIMATE = {
    "preactivation_resnet", "repvgg", "weight_standardized", "shared_block", "mobilenet_v2", "shufflenet", "ghostnet",
    "densenet", "checked", "mlp", "many_outputs", "dueling", "weight_norm",
}  # fmt: skip


@some_quickly
def test_ordinary_networks_send_the_same_spikes(name: str, tmp_path: Path) -> None:
    snn, inputs, path = converted(name), NETWORKS[name].inputs(), tmp_path / "network.nir"
    if name not in EXACT:
        with pytest.raises(NotConvertible, match=r"these have no form in NIR:\n\w+ \(\.?\w+\): it "):
            export.nir_exact(snn, path)
        assert not path.exists()
        return
    written = export.nir_exact(snn, path, STEPS, inputs)
    assert written.deviation is not None
    assert written.deviation < 1e-12
    readout, sent = export.read_nir(path).run(*inputs, steps=STEPS)
    expected_readout, expected = run(name, STEPS, None)
    assert sent.keys() == expected.keys()
    for layer, spikes in sent.items():
        assert torch.equal(spikes, expected[layer]), layer
    for one, other in zip(tensors(readout), tensors(expected_readout), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def spiking(model: nn.Module, x: Tensor, rule: Any = None, schedule: Any = None, **options: Any) -> SpikingNetwork:
    qann = qffs.calibrate(qffs.quantize(model.double().eval(), 2, example=x[:2], **options), [x], "lsq")
    return qffs.to_spiking(qann, schedule, rule)


def small(**options: Any) -> tuple[SpikingNetwork, Tensor]:
    """Convolutions, a shortcut, average pooling."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.pool, self.out = nn.AvgPool2d(2), nn.Linear(36, 5)

        def forward(self, x: Tensor) -> Tensor:
            first = torch.relu(self.one(x))
            return self.out(self.pool(torch.relu(first + self.two(first))).flatten(1))

    torch.manual_seed(0)
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    return spiking(Small(), x, **options), x


def chain() -> tuple[SpikingNetwork, Tensor]:
    """One operator after the other."""
    torch.manual_seed(0)
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    one, two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
    return spiking(nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), nn.Flatten(), nn.Linear(54, 5)), x), x


@pytest.mark.parametrize(
    ("rule", "schedule", "per_channel"),
    [
        (qffs.FiringRule(negative_spikes=False), 3, False),
        (qffs.FiringRule(cap=False), 3, False),
        (qffs.FiringRule(precharge=0.0), 3, True),
        (None, (0.75, -0.25, 0.0, 0.5), True),
    ],
)
def test_rules_and_schedules_are_those_of_the_network(
    rule: Any, schedule: Any, per_channel: bool, tmp_path: Path
) -> None:
    snn, x = small(rule=rule, schedule=schedule, per_channel=per_channel)
    export.nir_exact(snn, tmp_path / "network.nir", STEPS, x)
    found = export.read_nir(tmp_path / "network.nir")(x, steps=STEPS)
    torch.testing.assert_close(found, snn(x, steps=STEPS), rtol=1e-12, atol=1e-12)


def test_a_neuron_is_what_the_paper_of_this_library_says_it_is(tmp_path: Path) -> None:
    snn, x = small()
    export.nir_exact(snn, tmp_path / "network.nir", inputs=x)
    graph = nir.read(tmp_path / "network.nir")
    for layer, _ in snn.neurons():
        own = [type(node).__name__ for name, node in graph.nodes.items() if name.startswith(f"{layer}.")]
        counts = {kind: own.count(kind) for kind in ("I", "Threshold", "Scale")}
        assert counts == {
            "I": 2,
            "Threshold": 6,
            "Scale": 5 + own.count("Input"),
        }  # and one for the bias, if it has one


def test_a_spike_that_would_differ_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = small()
    honest = ExactNirNetwork.run

    def altered(self: Any, *inputs: Any, **options: Any) -> Any:
        readout, sent = honest(self, *inputs, **options)
        next(iter(sent.values()))[0, 0, 0] += 1
        return readout, sent

    monkeypatch.setattr(ExactNirNetwork, "run", altered)
    with pytest.raises(Mismatch, match="in NIR, relu would send other spikes than in the network"):
        export.nir_exact(snn, tmp_path / "network.nir", inputs=x)
    assert list(tmp_path.iterdir()) == []


def test_an_approximation_never_passes_for_exact(tmp_path: Path) -> None:
    snn, x = small()
    export.nir(snn, tmp_path / "a.nir", 8, inputs=x)
    with pytest.raises(CheckpointError, match=r"this graph of NIR was not written by qffs\.export\.nir_exact"):
        export.read_nir(tmp_path / "a.nir")
    known = json.loads(nir.read(tmp_path / "a.nir").metadata["qffs"])
    assert known["form"] == "approximation"
    assert known["truth"].startswith("An approximation, not this network")
    (tmp_path / "b.nir").write_text("no graph")
    with pytest.raises(CheckpointError, match=r"b\.nir cannot be read as NIR"):
        export.read_nir(tmp_path / "b.nir")


@some_quickly
def test_ordinary_networks_are_approximated_or_refused(name: str, tmp_path: Path) -> None:
    snn, inputs, path = converted(name), NETWORKS[name].inputs(), tmp_path / "network.nir"
    if name not in APPROXIMATE:
        with pytest.raises(NotConvertible):
            export.nir(snn, path)
        assert not path.exists()
        return
    export.nir(snn, path, 512, "nir", inputs)
    graph, limit = nir.read(path), copy.deepcopy(quantized(name))
    for layer, module in list(limit.named_modules()):
        if isinstance(module, Quantizer):
            limit.set_submodule(layer, nn.Hardtanh(0.0, float(module.highest * module.step_size.detach().max())))
    given = dict(zip((n.name for n in limit.graph.find_nodes(op="placeholder")), inputs, strict=True))
    ran = NirNetwork(graph, Firing(at=True, subtract=True))
    total = [torch.zeros(())] * len(ran.outputs)
    for sent in ran.steps([given] * 512):
        total = [sum_ + sent[output] for sum_, output in zip(total, ran.outputs, strict=True)]
    with torch.no_grad():  # rates, which nothing rounds, are activations that are cut off
        for mean, wanted in zip(total, tensors(limit(*inputs)), strict=True):
            assert float((mean / 512 - wanted).abs().max()) < 0.05 * float(wanted.abs().max())


def test_what_is_measured_is_what_is_read_out(tmp_path: Path) -> None:
    snn, x = chain()
    labels = torch.arange(8) % 5
    written = export.nir(snn, tmp_path / "a.nir", 6, "spikingjelly", x, labels)
    graph = nir.read(tmp_path / "a.nir")
    known = json.loads(graph.metadata["qffs"])
    own = snn(x, steps=8)[-1]
    assert known["network itself"] == {"steps": 8, "accuracy": float((own.argmax(1) == labels).double().mean())}
    for key, firing in (
        ("measured", Firing(at=True)),
        ("measured if thresholds were subtracted", Firing(at=True, subtract=True)),
    ):
        total = torch.zeros_like(own)
        for step, sent in enumerate(NirNetwork(graph, firing).steps([{"input_1": x}] * 6), 1):
            total = total + sent["output"]
            row = {row["steps"]: row for row in known[key]}.get(step)
            assert (row is None) == (step in {3, 5})
            if row:
                mean = total / step
                assert row["error"] == pytest.approx(float((mean - own).norm() / own.norm()))
                assert row["agreement"] == float((mean.argmax(1) == own.argmax(1)).double().mean())
                assert row["accuracy"] == float((mean.argmax(1) == labels).double().mean())
    last = known["measured"][-1]
    assert written.note == (
        f"An approximation: of 8 inputs {last['agreement']:.1%} are classified as by the network itself, and outputs "
        f"differ by {last['error']:.1%} (root mean square)."
    )


def outputs(graph: Any, profile: str, x: Tensor, steps: int) -> Tensor:
    """What our reader says that a tool reads out at each step."""
    chosen = PROFILES[profile]
    firing = Firing(chosen.at, chosen.subtract, chosen.several, chosen.floor)
    ran = NirNetwork(graph, firing)
    return torch.stack([sent["output"] for sent in ran.steps([{ran.inputs[0]: x}] * steps)])


@pytest.fixture(params=["chain", "small"])
def network(request: pytest.FixtureRequest) -> tuple[SpikingNetwork, Tensor]:
    return {"chain": chain, "small": small}[request.param]()


@torch.no_grad()
def test_spikingjelly_reads_it(network: Any, tmp_path: Path) -> None:
    from spikingjelly.activation_based.neuron import IFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    snn, x = network
    export.nir(snn, tmp_path / "a.nir", 4, "spikingjelly", x)
    graph = nir.read(tmp_path / "a.nir")
    for subtracting in (False, True):
        made, state, found = import_from_nir(graph).float(), None, []
        for module in made.modules():
            if isinstance(module, IFNode) and subtracting:
                module.v_reset = None
        for _ in range(12):
            sent, state = made(x.float(), state)
            found.append(sent)
        firing = Firing(at=True, subtract=subtracting)
        ran = NirNetwork(graph, firing)
        wanted = [sent["output"] for sent in ran.steps([{ran.inputs[0]: x}] * 12)]
        torch.testing.assert_close(torch.stack(found).double(), torch.stack(wanted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_snntorch_reads_it(network: Any, tmp_path: Path) -> None:
    import snntorch
    from snntorch.import_nir import import_from_nir

    snn, x = network
    export.nir(snn, tmp_path / "a.nir", 4, "snntorch", x)
    made = import_from_nir(nir.read(tmp_path / "a.nir")).float()
    for module in made.modules():  # as docs/exports.md says
        if isinstance(module, snntorch.Leaky):
            module.init_hidden, module.reset_mechanism = True, "zero"
            module.beta.fill_(1.0)
            module.reset_mem()
        if isinstance(module, nn.Flatten):
            module.start_dim += 1
    found = torch.stack([made(x.float())[0] for _ in range(12)])
    wanted = outputs(nir.read(tmp_path / "a.nir"), "snntorch", x, 12)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_norse_reads_it(network: Any, tmp_path: Path) -> None:
    norse = pytest.importorskip("norse.torch", reason="norse is not installed")
    from graphlib import TopologicalSorter

    snn, x = network
    export.nir(snn, tmp_path / "a.nir", 4, "norse", x)
    graph = nir.read(tmp_path / "a.nir")
    made, state, found = norse.from_nir(graph).float(), None, []
    for module in made.modules():
        if isinstance(module, nn.Flatten):
            module.start_dim += 1
    in_order(made, graph, TopologicalSorter)
    for _ in range(12):
        sent, state = made(x.float(), state)
        found.append(sent)
    wanted = outputs(graph, "norse", x, 12)
    torch.testing.assert_close(torch.stack(found).double(), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sinabs_reads_it(network: Any, tmp_path: Path) -> None:
    sinabs = pytest.importorskip("sinabs", reason="sinabs is not installed")
    from graphlib import TopologicalSorter

    from sinabs.nir import from_nir

    snn, x = network
    export.nir(snn, tmp_path / "a.nir", 4, "sinabs", x)
    graph = nir.read(tmp_path / "a.nir")
    made = from_nir(graph, batch_size=len(x)).float()
    in_order(made, graph, TopologicalSorter)
    sinabs.reset_states(made)
    found = torch.stack([made(x.float())[0] for _ in range(12)])
    torch.testing.assert_close(found.double(), outputs(graph, "sinabs", x, 12), rtol=1e-4, atol=1e-4)


def in_order(made: Any, graph: Any, sorter: Any) -> None:
    """Run branches before what joins them, which nirtorch does not of itself."""
    before: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        before[target].add(source)
    nodes = {node.name: node for node in made.graph.node_list}
    made.execution_order = [nodes[name] for name in sorter(before).static_order()]


def test_sinabs_gets_no_reset(tmp_path: Path) -> None:
    import h5py

    snn, x = chain()
    for profile in PROFILES:
        export.nir(snn, tmp_path / f"{profile}.nir", 4, profile, x)
        with h5py.File(tmp_path / f"{profile}.nir") as file:
            named = ["v_reset" in node for node in file["node/nodes"].values() if node["type"][()] == b"IF"]
        assert named == [profile != "sinabs"] * 2


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = small(per_channel=True)
    path = tmp_path / "a.nir"
    with pytest.raises(InvalidArgument, match="there is no profile 'lava' of NIR; there are nir, spikingjelly, snntor"):
        export.nir(snn, path, profile="lava")
    with pytest.raises(InvalidArgument, match="the number of steps must be a whole number of at least 1, not 0"):
        export.nir(snn, path, 0)
    for profile in ("spikingjelly", "snntorch"):
        with pytest.raises(
            NotConvertible, match=f"{profile} keeps one threshold per layer, and this network has one per"
        ):
            export.nir(snn, path, profile=profile)
    export.nir(snn, path, 2, "norse", x)
    with pytest.raises(NotConvertible, match="relu: without a cap it has no highest rate"):
        export.nir(small(rule=qffs.FiringRule(cap=False))[0], path)
    export.nir_exact(small()[0], path)
    again = export.read_nir(path)
    with pytest.raises(InvalidArgument, match="the network takes 1 inputs, not 2"):
        again(x, x, steps=8)
    monkeypatch.setitem(sys.modules, "nir", None)
    for make in (lambda: export.nir(snn, path), lambda: export.nir_exact(snn, path), lambda: export.read_nir(path)):
        with pytest.raises(InvalidArgument, match=r"needs nir, which is not installed: pip install 'qffs\[nir\]'"):
            make()


def test_a_kernel_that_is_not_square_is_written_and_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    one = nn.Conv2d(2, 4, (3, 5), stride=(1, 2), padding=(1, 2))
    snn = spiking(nn.Sequential(one, nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)), x)
    export.nir_exact(snn, tmp_path / "a.nir", STEPS, x)
    found = export.read_nir(tmp_path / "a.nir")(x, steps=STEPS)
    torch.testing.assert_close(found, snn(x, steps=STEPS), rtol=1e-12, atol=1e-12)


def test_the_forms_of_operators() -> None:
    torch.manual_seed(0)
    grouped = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2, bias=False).double()
    window = ((3, 3), (2, 2), (1, 1), (1, 1))
    (found,) = linear_form(grouped, (4, 7, 7), [window]) or []
    assert isinstance(found, Convolution)
    assert found.weight.shape == (6, 4, 3, 3)
    assert torch.equal(found.weight[:3, :2], grouped.weight[:3])
    assert not found.weight[:3, 2:].any()
    assert linear_form(lambda x: x, (4, 7, 7), []) == []
    flattened = linear_form(lambda x: x.flatten(1), (4, 2, 2), [])
    assert flattened == [Flatten((4, 2, 2))]
    mean, matrix = linear_form(lambda x: x.mean((2, 3)), (4, 2, 2), []) or []
    assert mean == Flatten((4, 2, 2))
    assert isinstance(matrix, Matrix)
    assert torch.equal(matrix.weight, torch.eye(4, dtype=torch.float64).repeat_interleave(4, 1) / 4)
    with pytest.raises(NotConvertible, match="it is neither a convolution"):
        linear_form(lambda x: x.roll(1, -1), (4, 5, 5), [])  # what leaves comes in again at the other side
    with pytest.raises(NotConvertible, match="as a matrix of 81,920 x 1,024 it is too large"):
        linear_form(lambda x: x.flatten(1)[:, :1024], (20, 64, 64), [])
    with pytest.raises(NotConvertible, match="it is neither a convolution"):
        linear_form(nn.AdaptiveMaxPool2d(3), (1, 19, 19), [], pools=True)
    (pooled,) = linear_form(nn.MaxPool2d(3, 2, 1), (2, 8, 8), [window], pools=True) or []
    assert isinstance(pooled, Convolution)
    assert torch.equal(pooled.weight, torch.eye(2, dtype=torch.float64)[:, :, None, None].expand(2, 2, 3, 3))


def test_what_comes_back_to_an_integrator_was_sent_a_step_before() -> None:
    one = np.ones(1)
    nodes = {
        "input": nir.Input(input_type={"input": np.array([1])}), "i": nir.I(r=one), "back": nir.Scale(scale=-0.5 * one),
        "output": nir.Output(output_type={"output": np.array([1])}),
    }  # fmt: skip
    graph = nir.NIRGraph(nodes, [("input", "i"), ("i", "back"), ("back", "i"), ("i", "output")])
    given = [{"input": torch.full((1, 1), value, dtype=torch.float64)} for value in (4.0, 0.0, 0.0)]
    assert [float(sent["output"]) for sent in NirNetwork(graph).steps(given)] == [4.0, 2.0, 1.0]
    with pytest.raises(InvalidArgument, match="this graph takes the inputs input, not x"):
        list(NirNetwork(graph).steps([{"x": torch.zeros(1, 1)}]))
    nodes["i"] = nir.LI(tau=one, r=one, v_leak=one)
    with pytest.raises(InvalidArgument, match="i is a LI, which is not run here"):
        list(NirNetwork(nir.NIRGraph(nodes, [("input", "i"), ("i", "back"), ("back", "output")])).steps(given))


def test_what_is_to_be_done_in_a_tool_stands_in_the_file(tmp_path: Path) -> None:
    snn, x = chain()
    for profile, word in (("snntorch", "init_hidden"), ("norse", "execution_order"), ("sinabs", "execution_order")):
        export.nir(snn, tmp_path / "a.nir", 2, profile, x)
        assert word in json.loads(nir.read(tmp_path / "a.nir").metadata["qffs"])["note"]


def test_every_profile_is_described() -> None:
    text = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PROFILES)
    assert write.NIR.takes == {"steps", "profile", "inputs", "labels"}


@pytest.mark.parametrize("channels", [1, 4])
def test_a_pooling_of_uneven_windows_is_refused(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 1, 19, 19, dtype=torch.float64)
    pool, out = nn.AdaptiveMaxPool2d(3), nn.Linear(9 * channels, 3)
    snn = spiking(nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), out), x)
    with pytest.raises(NotConvertible, match=r"_2 \(AdaptiveMaxPool2d\): no convolution has its windows"):
        export.nir_exact(snn, tmp_path / "a.nir", inputs=x)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = chain()
    honest = ExactNirNetwork.run

    def altered(self: Any, *inputs: Any, **options: Any) -> Any:
        readout, sent = honest(self, *inputs, **options)
        return readout + 1e-6, sent

    monkeypatch.setattr(ExactNirNetwork, "run", altered)
    with pytest.raises(Mismatch, match="in NIR, an output would differ by 1e-06"):
        export.nir_exact(snn, tmp_path / "a.nir", inputs=x)


@pytest.mark.parametrize("named", ["a spiking output", "a layer called output"])
def test_outputs_that_are_layers(named: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5, dtype=torch.float64)
    model: nn.Module = nn.Sequential()
    model.add_module("one", nn.Linear(5, 8))
    model.add_module("output", nn.ReLU())
    model.add_module("two", nn.Linear(8, 3))
    snn = spiking(model, x, output=3) if named == "a spiking output" else spiking(model, x)
    export.nir_exact(snn, tmp_path / "a.nir", STEPS, x)
    torch.testing.assert_close(export.read_nir(tmp_path / "a.nir")(x, steps=STEPS), snn(x, steps=STEPS))
    export.nir(snn, tmp_path / "b.nir", 4, inputs=x)


@pytest.mark.parametrize(
    "convolve",
    [
        nn.Conv2d(2, 3, 4, padding="valid"),
        nn.Conv2d(2, 3, 3, padding="same", dilation=2),
        nn.Conv2d(2, 3, 5, stride=2),
        nn.Conv2d(2, 3, (5, 3), padding=(4, 0)),
    ],
)
def test_convolutions_as_they_are_called(convolve: nn.Conv2d) -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.first = convolve.weight, nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            h = nn.functional.conv2d(h, self.weight, None, convolve.stride, convolve.padding, convolve.dilation)
            return torch.relu(h)

    x = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    for model in (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), copy.deepcopy(convolve), nn.ReLU()), Called()):
        nodes, _ = Exact(spiking(model, x)).build()
        assert sum(isinstance(node, nir.Conv2d) for node in nodes.values()) == 2


def test_metadata_and_inputs_that_do_not_fit(tmp_path: Path) -> None:
    snn, x = chain()
    export.nir_exact(snn, tmp_path / "a.nir", inputs=x)
    graph = nir.read(tmp_path / "a.nir")
    with pytest.raises(InvalidArgument, match=r"input_1 must be \[8, 2, 6, 6\], not \[8, 2, 6, 5\]"):
        export.read_nir(tmp_path / "a.nir")(x[..., :5], steps=8)
    known = json.loads(graph.metadata["qffs"])
    graph.metadata["qffs"] = json.dumps(known | {"outputs": ["zz"]})
    nir.write(tmp_path / "b.nir", graph)
    with pytest.raises(CheckpointError, match="this graph of NIR was not written by"):
        export.read_nir(tmp_path / "b.nir")
    with pytest.raises(InvalidArgument, match=r"there must be one label per input, 8, not \[3\]"):
        export.nir(snn, tmp_path / "c.nir", inputs=x, labels=torch.zeros(3))
    with pytest.raises(InvalidArgument, match="the number of steps must be a whole number of at least 1, not True"):
        export.nir(snn, tmp_path / "c.nir", True)
