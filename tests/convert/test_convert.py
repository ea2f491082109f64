"""The verbs as users call them."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import qffs
from helpers.problems import calibrated, images, losses_of_training, network, randomize
from qffs.errors import (
    Diverged,
    InvalidArgument,
    Mismatch,
    NotCalibrated,
    NotConvertible,
    NothingToQuantize,
    NotTraceable,
    QffsError,
)
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_whole_way(dtype: torch.dtype, device: str) -> None:
    """Every type and device; the last read-out is the QANN's output to the type's own precision."""
    model, x = network(dtype=dtype).to(device), images(dtype=dtype, count=16).to(device)
    qann = calibrated(model, x)
    assert {tensor.dtype for tensor in qann.parameters()} == {dtype}
    snn = qffs.to_spiking(qann)
    readout, expected = snn(x, steps=16), qann(x)
    assert readout.shape == (16, 16, 4)
    assert readout.device == expected.device
    if dtype == torch.bfloat16:  # a sum within rounding of a tie may fall either way: most images, not all
        assert (readout[-1].argmax(-1) == expected.argmax(-1)).float().mean() >= 0.8
    else:
        qffs.verify(qann, snn, x, tie_tolerance=0)
        torch.testing.assert_close(readout[-1], expected.detach(), rtol=1e-5, atol=1e-5)


def test_the_model_is_untouched() -> None:
    model, x = network(), images()
    before, source = copy.deepcopy(model.state_dict()), repr(model)
    output = model(x)
    qann = calibrated(model, x)
    snn = qffs.to_spiking(qann)
    kept = copy.deepcopy(qann.state_dict())
    snn(x, steps=8)
    assert repr(model) == source
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), output)
    assert all(torch.equal(kept[name], tensor) for name, tensor in qann.state_dict().items())
    shared = {tensor.data_ptr() for tensor in model.parameters()} & {tensor.data_ptr() for tensor in qann.parameters()}
    assert not shared


def test_state_dict_keys_are_kept() -> None:
    """A float checkpoint loads into the QANN, which adds nothing but step sizes."""
    model, x = network(), images()
    qann = qffs.quantize(model, example=x)
    result = qann.load_state_dict(network(seed=5).state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(name.endswith("step_size") for name in result.missing_keys)
    assert len(result.missing_keys) == 4


def test_a_relu_called_twice_becomes_two_quantizers() -> None:
    qann = qffs.quantize(network(), example=images())
    quantizers = [name for name, module in qann.named_modules() if isinstance(module, Quantizer)]
    assert sorted(quantizers) == ["relu", "relu_2", "relu_3", "relu_4"]
    assert not any(isinstance(module, nn.ReLU) for module in qann.modules())


def test_the_clip_of_a_relu_bounds_the_first_step_size() -> None:
    x = 9 * torch.randn(64, 4, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(0, 1), nn.Hardtanh()).double()
    qann = calibrated(model, x, output="analog")
    assert qann.get_submodule("1").step_size == 2.0
    assert qann.get_submodule("3").step_size == 1 / 3
    assert isinstance(qann.get_submodule("4"), nn.Hardtanh)
    qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0)


def test_a_weight_without_dimensions_decides_no_type() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.3, dtype=torch.float64))  # as from NumPy
            self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.layer(x))) * self.scale

    x = torch.randn(16, 4)
    qann = qffs.calibrate(qffs.quantize(Scaled(), example=x), [x], "lsq").eval()
    assert {step.dtype for name, step in qann.state_dict().items() if "step_size" in name} == {torch.float32}
    assert qffs.to_spiking(qann)(x, steps=8).dtype == torch.float32


def test_only_relu_positions_are_quantized() -> None:
    qann = calibrated(network(), images())
    assert sum(isinstance(module, Quantizer) for module in qann.modules()) == 4
    assert sum(isinstance(module, Quantizer) for module in calibrated(network(), images(), output=3).modules()) == 5


def test_training_mode_is_kept_by_part() -> None:
    model = network().train()
    model.norms[0].eval()
    qann = qffs.quantize(model, example=images())
    assert qann.training
    assert qann.get_submodule("relu").training
    assert not qann.get_submodule("norms.0").training
    assert qann.get_submodule("norms.1").training
    assert model.training
    assert not model.norms[0].training


def test_it_trains_with_any_loop() -> None:
    """A few steps of an ordinary loop lower the loss, move weights and step sizes, and conversion stays exact."""
    torch.manual_seed(0)
    x, labels = images(count=32), torch.arange(32) % 4
    qann = qffs.quantize(network().train(), example=x)
    losses = losses_of_training(qann, x, labels)
    assert losses[-1] < losses[0] / 2
    qann.eval()
    qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0)


def test_an_uncalibrated_network_refuses_to_run() -> None:
    x = images()
    qann = qffs.quantize(network(), example=x)
    with pytest.raises(NotCalibrated, match=r"qffs\.calibrate"):
        qann.eval()(x)
    with pytest.raises(NotCalibrated, match="4 step sizes are not set, the first at relu"):
        qffs.to_spiking(qann)
    qann.train()(x)  # the first batch of training sets them
    qann.eval()(x)


def test_loading_step_sizes_counts_as_calibrated() -> None:
    x = images()
    trained, fresh = calibrated(network(), x), qffs.quantize(network(), example=x).eval()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x), trained(x))


def test_verify_says_what_it_compared() -> None:
    x = images()
    qann = calibrated(network(), x)
    compared = qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0)
    assert [path for path, _ in compared.layers] == ["relu", "relu_2", "relu_3", "relu_4"]
    assert compared.layers[0][1] == 4 * 6 * 8 * 8
    assert compared.images == 4
    assert 3 <= compared.settled <= compared.steps


@pytest.mark.parametrize("layer", ["relu", "relu_4", "relu_2", "relu_3"])
def test_verify_names_the_first_layer_that_differs(layer: str) -> None:
    x = images()
    qann = calibrated(network(), x)
    snn = qffs.to_spiking(qann)
    neuron = snn.graph.get_submodule(layer)
    assert isinstance(neuron, Neuron)
    neuron.threshold *= 1.1
    with pytest.raises(Mismatch, match=rf"differs is {layer}: .* on \d+ of \d+ units, by 1 at most"):
        qffs.verify(qann, snn, x)


def test_verify_before_the_network_has_settled() -> None:
    x = images()
    qann = calibrated(network(), x)
    with pytest.raises(Mismatch, match="first layer that differs"):
        qffs.verify(qann, qffs.to_spiking(qann, 1), x, steps=1)


def test_verify_leaves_the_modes_as_they_were() -> None:
    x = images()
    qann = calibrated(network(), x)
    qann.train()
    qann.get_submodule("norms.0").eval()
    qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0)
    assert qann.training
    assert not qann.get_submodule("norms.0").training


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, True, "2"])
def test_impossible_bits(bits: object) -> None:
    with pytest.raises(InvalidArgument, match="bits must be a whole number from 1 to 8"):
        qffs.quantize(network(), bits, example=images())  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["digital", 0, 12])
def test_impossible_outputs(output: object) -> None:
    with pytest.raises(InvalidArgument, match="1 to 8"):
        qffs.quantize(network(), 2, output, example=images())  # type: ignore[arg-type]


@pytest.mark.parametrize("charge", [0, -3, (), (0.5, 0.4), (float("nan"), 1.0)])
def test_impossible_charge_steps(charge: object) -> None:
    with pytest.raises(InvalidArgument, match="charge"):
        qffs.to_spiking(calibrated(network(), images()), charge)  # type: ignore[arg-type]


def test_nothing_to_quantize() -> None:
    with pytest.raises(NothingToQuantize, match="no ReLU"):
        qffs.quantize(nn.Sequential(nn.Linear(2, 2), nn.Flatten()), example=torch.zeros(1, 2))


def test_every_operator_that_cannot_be_converted_is_named_with_its_place() -> None:
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Hardshrink()))
    model.add_module("norm", nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(NotConvertible) as caught:
        qffs.quantize(model, example=torch.zeros(4, 2))
    assert "Hardshrink at stem.2: it jumps: the least rounding error" in str(caught.value)
    assert "BatchNorm1d at norm: batch norm without running statistics" in str(caught.value)


def test_strict_refuses_what_sends_values() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.GELU())
    x = torch.randn(4, 2)
    qffs.quantize(model, example=x)
    with pytest.raises(NotConvertible, match=r"GELU at 3: .* sends values, not single spikes"):
        qffs.quantize(model, example=x, strict=True)
    qffs.quantize(network(), example=images(), strict=True)  # max pooling sends single spikes


def test_a_model_whose_code_depends_on_the_data() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x) if x.sum() > 0 else x

    with pytest.raises(NotTraceable, match=r"test_convert.py, line \d+: return torch.relu\(x\) if x.sum\(\) > 0"):
        qffs.quantize(Branches(), example=torch.zeros(4, 2))


def test_an_example_that_does_not_fit() -> None:
    with pytest.raises(InvalidArgument, match=r"does not run on an example of shape \(1, 3, 8, 8\)"):
        qffs.quantize(network(), example=torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(InvalidArgument, match="example must be a tensor"):
        qffs.quantize(network(), example=None)  # type: ignore[arg-type]


def test_to_spiking_takes_only_quantized_networks() -> None:
    with pytest.raises(InvalidArgument, match=r"qffs\.quantize returned"):
        qffs.to_spiking(network())


def test_a_pickled_quantized_network_is_refused_with_the_way_out() -> None:
    qann = pickle.loads(pickle.dumps(calibrated(network(), images())))
    with pytest.raises(InvalidArgument, match=r"qffs\.save"):
        qffs.to_spiking(qann)


def test_the_plan_lists_every_call_and_changes_nothing() -> None:
    model = network()
    plan = qffs.plan(model, images())
    sites = {row.site: row.kind.value for row in plan.rows}
    assert sites["stem"] == "linear"
    assert sites["pool"] == "differenced"
    assert sites["norms.0"] == "folded"
    assert sites["relu"] == sites["relu_2"] == sites["relu_3"] == "spiking"
    assert "g(X_t) - g(X_{t-1})" in str(plan)
    assert isinstance(model.relu, nn.ReLU)


def test_one_base_for_all_errors() -> None:
    with pytest.raises(QffsError):
        qffs.quantize(randomize(nn.Linear(2, 2), 0), example=torch.zeros(1, 2))


def test_verify_sees_an_output_that_differs() -> None:
    """Every count may be right and the head wrong."""
    x = images()
    qann = calibrated(network(), x)
    snn = qffs.to_spiking(qann)
    snn.graph.get_submodule("head").weight.mul_(1.001)
    with pytest.raises(Mismatch, match="the output differs by"):
        qffs.verify(qann, snn, x)


def test_verify_takes_its_arguments_in_order() -> None:
    x = images()
    qann = calibrated(network(), x)
    snn = qffs.to_spiking(qann)
    for arguments in ((snn, qann, x), (qann, snn), (qann, snn, x[:0])):
        with pytest.raises(InvalidArgument, match="in this order"):
            qffs.verify(*arguments)


def test_a_quantized_network_is_not_quantized_again() -> None:
    with pytest.raises(InvalidArgument, match="quantized already"):
        qffs.quantize(calibrated(network(), images()), example=images())


@pytest.mark.parametrize("offset", [float("nan"), "a"])
def test_impossible_offsets(offset: object) -> None:
    with pytest.raises(InvalidArgument, match="rounding offset"):
        qffs.quantize(network(), example=images(), offset=offset)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "result", [lambda y: y.chunk(2, 1), lambda y: (None,), lambda y: (y, y.size(0)), lambda y: {"a": y, "b": 3}]
)
def test_outputs_that_are_no_tensors_are_refused(result: object) -> None:
    class Returns(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return result(torch.relu(x))  # type: ignore[operator]

    with pytest.raises(NotConvertible, match="the network returns"):
        qffs.quantize(Returns(), example=torch.randn(2, 4))


def test_wrapped_and_converted_networks_say_what_to_pass() -> None:
    x, model = images(), network()
    qann = calibrated(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about itself
        compiled = torch.compile(model)
    for wrong, sentence in (
        (nn.DataParallel(model), "pass model.module"),
        (compiled, "given to torch.compile"),
        (qffs.to_spiking(qann), "a spiking network already"),
        (copy.deepcopy(model).half(), "float16"),
        (len, "must be a torch.nn.Module"),
    ):
        with pytest.raises(InvalidArgument, match=sentence):
            qffs.quantize(wrong, example=x)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="quantized already"):
        qffs.plan(qann, x)
    with pytest.raises(InvalidArgument, match=r"qffs\.FiringRule"):
        qffs.to_spiking(qann, rule="paper")  # type: ignore[arg-type]


def test_weights_that_are_not_finite() -> None:
    qann = calibrated(network(), images())
    qann.get_submodule("stem").weight.data[0] = torch.nan
    with pytest.raises(Diverged, match=r"first in stem\.weight"):
        qffs.to_spiking(qann)


@pytest.mark.parametrize("name", ["stem.weight", "norms.0.running_var"])
def test_a_network_with_a_weight_that_is_not_finite_is_not_quantized(name: str) -> None:
    broken = network()
    broken.state_dict()[name].view(-1)[0] = torch.inf
    with pytest.raises(Diverged, match=f"first in {name}"):
        qffs.quantize(broken, example=images())


def test_an_infinite_step_size_is_named() -> None:
    qann = calibrated(network(), images())
    path = next(path for path, module in qann.named_modules() if isinstance(module, Quantizer))
    qann.get_submodule(path).step_size.data.fill_(torch.inf)
    with pytest.raises(Diverged, match=f"first in {path}.step_size"):
        qffs.to_spiking(qann)


def test_a_weight_that_folding_makes_infinite_is_named() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)).eval()
    qann = calibrated(layers, torch.rand(4, 2))
    qann.get_submodule("0").weight.data.fill_(1e30)
    qann.get_submodule("1").weight.data.fill_(1e30)
    with pytest.raises(Diverged, match=r"first in 0\.weight"):
        qffs.to_spiking(qann)


def test_inputs_of_another_type_or_shape() -> None:
    x = images()
    qann = calibrated(network(), x)
    snn = qffs.to_spiking(qann)
    for wrong in (x.float(), x[0], x[:, :1], (100 * x).byte()):
        with pytest.raises(InvalidArgument, match="does not run on"):
            snn(wrong, steps=8)
        with pytest.raises(InvalidArgument, match="does not run on"):
            qffs.verify(qann, snn, wrong)
        with pytest.raises(InvalidArgument, match="does not run on"):
            qffs.calibrate(qann, [wrong])
    other = calibrated(network(width=4), x)
    with pytest.raises(Mismatch, match="made from another one"):
        qffs.verify(other, snn, x)


class Allocated(TorchDispatchMode):
    """Counts the bytes of large tensors that operators return in storage of their own."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.bytes = least, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        read = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)}
        for each in pytree.tree_leaves(result):
            if isinstance(each, Tensor) and each.nbytes >= self.least and each.untyped_storage().data_ptr() not in read:
                self.bytes += each.nbytes
        return result


def test_quantizing_copies_the_weights_once() -> None:
    """And the copy is the quantized network's own: what comes of it shares nothing with the model."""
    model, x = nn.Sequential(nn.Linear(600, 500), nn.ReLU(), nn.Linear(500, 400)), torch.randn(2, 600)
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.dim() == 2)
    with Allocated(least=100_000) as allocated:
        qann = qffs.quantize(model, example=x)
    assert allocated.bytes == weights
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in qann.parameters()}


def test_verify_says_what_it_found_and_takes_inputs_as_a_tuple() -> None:
    x = images()
    qann = calibrated(network(), x)
    snn = qffs.to_spiking(qann)
    found = qffs.verify(qann, snn, (x,), tie_tolerance=0)
    assert found == qffs.verify(qann, snn, x, tie_tolerance=0)
    neurons = sum(units for _, units in found.layers)
    assert str(found).startswith(f"the spike counts of all {neurons:,} neurons of {len(found.layers)} layers, over 4 ")
    assert f"settled after {found.settled} of {found.steps} steps" in str(found)


def test_a_network_without_weights_is_of_the_type_of_its_input() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(nn.Sequential(nn.ReLU()), example=x), [x], "lsq").eval()
    assert qann.get_submodule("0").step_size.dtype == torch.float64
    assert qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0).deviation < 1e-15
