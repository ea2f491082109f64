"""Networks written as archives and graphs, read again by the tools they are for, against the networks themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx as onnx_library
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import qffs
from helpers.problems import IMAGE, Residual, randomize
from qffs import export, models
from qffs.data import load as load_data
from qffs.errors import InvalidArgument, Mismatch, NotConvertible
from qffs.export import torch_export
from qffs.export.target import Network, Written
from qffs.graph.nested import tensors
from qffs.nn.quantizer import Quantizer

STEPS = 3  # the charge steps; runs that are longer are those of `small`


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn((count, *IMAGE), generator=torch.Generator().manual_seed(seed))


def residual(**options: Any) -> tuple[Network, Network]:
    """Return a quantized network with everything the method names, and its spiking network."""
    model = randomize(Residual(), seed=3)
    qann = qffs.calibrate(qffs.quantize(model, example=images(2), **options), [images(32)], "lsq")
    return qann, qffs.to_spiking(qann)


KINDS: dict[str, dict[str, Any]] = {
    "2 bits": {"bits": 2},
    "by channel": {"bits": 2, "per_channel": True},
    "spiking output": {"bits": 2, "output": 3},
}


def small() -> tuple[Network, Network]:
    """Return a quantized network of two layers and its spiking network, where any network will do."""
    torch.manual_seed(0)
    x = torch.randn(32, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    qann = qffs.calibrate(qffs.quantize(model, 2, example=x[:2]), [x], "lsq")
    return qann, qffs.to_spiking(qann)


def run_onnx(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


def run_pt2(path: Path, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = torch.export.load(path).module()(x)
    return found


def expected(network: Network, x: Tensor, steps: int | None) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(x) if steps is None else network(x, steps=steps, backend="reference")
    return found


class Exported(NamedTuple):
    """A network, its two files, what the exports returned, and the modes and modules before and after them."""

    network: Network
    steps: int | None
    archive: Path
    graph: Path
    exports: tuple[Written, Written]
    before: tuple[bool, list[type], Tensor]
    after: tuple[bool, list[type], Tensor]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Exported]:
    """Write a network of a kind as an archive and as a graph, once for all tests: it takes seconds."""

    @cache
    def write(kind: str, spiking: bool) -> Exported:
        network, steps = residual(**KINDS[kind])[spiking], STEPS if spiking else None

        def state() -> tuple[bool, list[type], Tensor]:
            training = network.training
            network.eval()
            output = expected(network, images(4), steps)
            network.train(training)
            return training, [type(module) for module in network.modules()], output

        folder = tmp_path_factory.mktemp("exported")
        archive, graph = folder / "network.pt2", folder / "network.onnx"
        network.train()
        before = state()
        exports = export.pt2(network, archive, steps), export.onnx(network, graph, steps)
        after = state()
        network.eval()
        return Exported(network, steps, archive, graph, exports, before, after)

    return write


every_kind = pytest.mark.parametrize(
    ("kind", "spiking"),
    [
        ("2 bits", False),
        ("by channel", False),
        ("spiking output", False),
        pytest.param("2 bits", True, marks=pytest.mark.slow),
        pytest.param("by channel", True, marks=pytest.mark.slow),
        pytest.param("spiking output", True, marks=pytest.mark.slow),
    ],
)


@pytest.mark.slow
@every_kind
def test_any_batch_gives_what_the_network_gives(
    kind: str, spiking: bool, exported: Callable[[str, bool], Exported]
) -> None:
    network, steps, archive, graph, exports, *_ = exported(kind, spiking)
    assert exports[0].deviation == 0
    assert exports[1].deviation is not None
    assert exports[1].deviation < 1e-5
    assert [(each.path, each.steps) for each in exports] == [(archive, steps), (graph, steps)]
    for batch in (1, 2, 5):
        x = images(batch, seed=batch)
        wanted = expected(network, x, steps)
        assert torch.equal(run_pt2(archive, x), wanted)
        assert torch.allclose(run_onnx(graph, x), wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
@every_kind
def test_the_network_stays_as_it_was(kind: str, spiking: bool, exported: Callable[[str, bool], Exported]) -> None:
    before, after = exported(kind, spiking)[-2:]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


@pytest.mark.slow
def test_predictions_on_the_digits_are_the_same(tmp_path: Path) -> None:
    digits = load_data("digits")
    x = digits.normalize(digits.test.images)
    torch.manual_seed(0)
    qann = qffs.calibrate(qffs.quantize(models.DigitsNet().eval(), 2, example=x[:2]), [x[:128]], "lsq")
    snn = qffs.to_spiking(qann)
    for network, steps in ((qann, None), (snn, 3)):
        export.onnx(network, tmp_path / "network.onnx", steps)
        export.pt2(network, tmp_path / "network.pt2", steps)
        wanted = expected(network, x, steps)
        assert torch.equal(run_onnx(tmp_path / "network.onnx", x).argmax(-1), wanted.argmax(-1))
        assert torch.equal(run_pt2(tmp_path / "network.pt2", x), wanted)


def test_quantizers_are_quantize_clip_dequantize(tmp_path: Path) -> None:
    qann, _ = residual(bits={"relu": 3, "*": 2})
    path = tmp_path / "qann.onnx"
    export.onnx(qann, path)
    graph = onnx_library.load(path).graph
    onnx_library.checker.check_model(onnx_library.load(path))
    quantizers = [module for module in qann.modules() if isinstance(module, Quantizer)]
    chain = [node.op_type for node in graph.node if node.op_type in {"QuantizeLinear", "Clip", "DequantizeLinear"}]
    calls = sum(isinstance(qann.get_submodule(str(n.target)), Quantizer) for n in qann.graph.nodes
                if n.op == "call_module")  # fmt: skip
    assert chain == ["QuantizeLinear", "Clip", "DequantizeLinear"] * calls
    tops = {int(onnx_library.numpy_helper.to_array(each)) for each in graph.initializer
            if each.data_type == onnx_library.TensorProto.UINT8 and "highest" in each.name}  # fmt: skip
    assert tops == {quantizer.highest for quantizer in quantizers}


def test_rounding_is_the_quantizers(tmp_path: Path) -> None:
    """Beside the edges of the levels, which the offset moves from where QuantizeLinear has them, and far outside."""
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    qann = qffs.quantize(model, 2, example=torch.zeros(2, 5))
    for module in qann.modules():
        if isinstance(module, Quantizer):
            module.set_step_size(0.5)
    edges = torch.tensor([0.5 * (level - 0.5001) for level in range(-1, 6)])
    x = torch.cat([torch.linspace(-3, 3, 4801), edges - 2e-6, edges + 2e-6, torch.tensor([0.25, 0.75, 1e6, -1e6])])
    x = torch.cat([x, x[-1:].expand(-len(x) % 5)]).view(-1, 5)
    export.onnx(qann, tmp_path / "qann.onnx")
    assert torch.equal(run_onnx(tmp_path / "qann.onnx", x), expected(qann, x, None))


def test_levels_that_no_byte_holds_are_refused(tmp_path: Path) -> None:
    qann, _ = residual(levels=256)
    with pytest.raises(NotConvertible, match="onnx takes levels up to 255, not 256"):
        export.onnx(qann, tmp_path / "qann.onnx")
    assert not list(tmp_path.iterdir())


PROGRAM = """
import sys
sys.modules["qffs"] = None
import numpy, torch
x, wanted = (torch.from_numpy(numpy.load(path)) for path in sys.argv[2:4])
with torch.no_grad():
    assert torch.equal(torch.export.load(sys.argv[1]).module()(x), wanted)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("spiking", [pytest.param(True, marks=pytest.mark.slow), False])
def test_an_archive_needs_no_qffs(spiking: bool, exported: Callable[[str, bool], Exported], tmp_path: Path) -> None:
    network, steps, archive, *_ = exported("2 bits", spiking)
    x = images(3)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "wanted.npy", expected(network, x, steps).numpy())
    files = [str(archive), *(str(tmp_path / name) for name in ("x.npy", "wanted.npy"))]
    found = subprocess.run([sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True, check=False)
    assert found.stdout == "equal\n", found.stderr


@pytest.mark.slow
def test_steps_are_eight_or_twice_the_charge_steps(tmp_path: Path) -> None:
    qann, snn = small()
    assert export.pt2(snn, tmp_path / "snn.pt2").steps == 8
    assert export.pt2(qffs.to_spiking(qann, 5), tmp_path / "snn.pt2").steps == 10
    with pytest.raises(InvalidArgument, match="at least as many steps as the 3 charge steps"):
        export.pt2(snn, tmp_path / "few.pt2", 2)
    with pytest.raises(InvalidArgument, match="a quantized network has no time steps"):
        export.onnx(qann, tmp_path / "few.onnx", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["snn.pt2"]


@pytest.mark.slow
def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu(self.one(x) + self.other(y))
            return h, h.sum(1, keepdim=True)

    torch.manual_seed(0)
    given = torch.randn(4, 3), torch.randn(4, 5)
    qann = qffs.calibrate(qffs.quantize(Two(), 2, example=given), [given], "lsq")
    snn = qffs.to_spiking(qann)
    assert export.pt2(snn, tmp_path / "snn.pt2").deviation == 0
    with torch.no_grad():
        found, wanted = (
            torch.export.load(tmp_path / "snn.pt2").module()(*given),
            snn(*given, steps=8, backend="reference"),
        )
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    deviation = export.onnx(snn, tmp_path / "snn.onnx").deviation
    assert deviation is not None
    assert deviation < 1e-5


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Outputs:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize("kind", [Pair, Outputs])
def test_an_archive_holds_outputs_of_a_class_as_plain_ones(kind: Callable[..., Any], tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            hidden = self.layer(x).relu()
            return kind(self.head(hidden), hidden)

    x = torch.randn(8, 3)
    qann: Any = qffs.calibrate(qffs.quantize(Net(), 2, example=x), [x], "lsq").eval()
    prune.l1_unstructured(qann.head, "weight", 0.5)  # a weight that is computed, too
    export.pt2(qann, tmp_path / "qann.pt2")
    archived = torch.export.load(tmp_path / "qann.pt2").module()(x)
    assert isinstance(archived, tuple | dict)
    assert not isinstance(archived, Pair)
    assert all(map(torch.equal, tensors(archived), tensors(qann(x))))


def test_what_is_read_again_must_be_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_export, "apart", lambda *_: 0.5)
    (tmp_path / "qann.pt2").write_text("an earlier one")
    with pytest.raises(Mismatch, match=r"differs from the network by 0\.5"):
        export.pt2(small()[0], tmp_path / "qann.pt2")
    assert (tmp_path / "qann.pt2").read_text() == "an earlier one"
    assert [path.name for path in tmp_path.iterdir()] == ["qann.pt2"]


@pytest.mark.slow
def test_an_infinite_output_is_no_difference(tmp_path: Path) -> None:
    class Masked(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x)
            return out + torch.tensor([0.0, -torch.inf])

    torch.manual_seed(0)
    x = torch.randn(4, 3)
    qann = qffs.calibrate(qffs.quantize(Masked(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 2, example=x), [x], "lsq")
    assert export.pt2(qann, tmp_path / "qann.pt2").deviation == 0
    assert export.pt2(qffs.to_spiking(qann), tmp_path / "snn.pt2").deviation == 0


def test_an_operator_without_a_counterpart_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 7, 7)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveMaxPool2d((3, 2)), nn.Flatten(), nn.Linear(18, 3))
    qann = qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq")
    with pytest.raises(NotConvertible, match=r"ONNX has no counterpart of an operator.*adaptive_max_pool2d"):
        export.onnx(qann, tmp_path / "qann.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_onnx_is_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    qann, _ = residual(bits=2)
    assert isinstance(qann, torch.fx.GraphModule)
    with pytest.raises(InvalidArgument, match=f"onnx takes a network in float32 on the CPU, not {dtype} on cpu"):
        export.onnx(qann.to(dtype), tmp_path / "qann.onnx")
    assert not list(tmp_path.iterdir())


def test_examples_are_as_the_network_takes_them(tmp_path: Path) -> None:
    qann, _ = residual(bits=2)
    assert export.pt2(qann, tmp_path / "qann.pt2", example=images(1)).deviation == 0
    for wrong in ((images(2), images(2)), images(0), (torch.tensor(1.0),)):
        with pytest.raises(
            InvalidArgument, match="takes 1 inputs with a batch in dimension 0: give an example of each"
        ):
            export.pt2(qann, tmp_path / "other.pt2", example=wrong)
    with pytest.raises(NotConvertible, match="PyTorch cannot export this network: "):
        export.pt2(qann, tmp_path / "other.pt2", example=torch.zeros(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["qann.pt2"]


def test_other_things_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match=r"pt2 takes what qffs\.quantize or qffs\.to_spiking returned, not a Lin"):
        export.pt2(nn.Linear(1, 1), tmp_path / "a.pt2")  # type: ignore[arg-type]
    traced = torch.fx.symbolic_trace(nn.Linear(1, 1))
    with pytest.raises(InvalidArgument, match=r"name a file that ends in \.pt2, not a\.onnx"):
        export.pt2(residual(bits=2)[0], tmp_path / "a.onnx")
    with pytest.raises(InvalidArgument, match="onnx takes a network of kind snn or qann, not float"):
        export.onnx(traced, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InvalidArgument, match=r"onnx needs onnxscript, .*: pip install 'qffs\[onnx\]'"):
        export.onnx(residual(bits=2)[0], tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
