"""Methods that quantize as this library does, and differ in the schedule, the cap or the spikes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, fx, nn

from qffs.convert import to_spiking
from qffs.method import FiringRule, Levels
from qffs.nn.copies import copied
from qffs.nn.quantizer import OFFSET, Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import Activation, Batches, Method
from qffs.train.calibrate import calibrate
from qffs.train.reconstruct import reconstruct

BITS = 2
HIGHEST = Levels.from_bits(BITS).highest


def _start(module: nn.Module, x: Tensor) -> None:
    assert isinstance(module, Quantizer)
    module.set_step_size_from(float(x.abs().mean()))


def _reconstructed(network: fx.GraphModule, batches: Batches) -> fx.GraphModule:
    batches = list(batches)
    model = copied(network)  # nothing is trained before this, so these are the weights in full precision
    calibrate(network, batches)
    reconstruct(network, model, batches, progress=False)
    return network


LSQ = Activation(f"LSQ, {BITS} bits", lambda clip: Quantizer(HIGHEST, OFFSET, clip), _start)
WITHOUT_LABELS = replace(LSQ, name=f"{BITS} bits, reconstructed", finish=_reconstructed, training={"epochs": 0})


def _by(
    charge: int | Sequence[float], rule: FiringRule | None = None
) -> Callable[[fx.GraphModule, Batches, int], SpikingNetwork]:
    return lambda network, _, __: to_spiking(network, charge, rule)


QFFS = Method(
    "qffs",
    "this library",
    "Li, Ma, Furber, Frontiers in Neuroscience 2022",
    "signed spikes, at most as many as the highest level, input charged over the first steps",
    LSQ,
    _by(HIGHEST),
)
RECONSTRUCTED = Method(
    "qffs-reconstructed",
    "this library, without labels",
    "after Li et al. (BRECQ), ICLR 2021, and Wei et al. (QDrop), ICLR 2022",
    "as qffs, but trained on the calibration images without labels, to compute what the network computes",
    WITHOUT_LABELS,
    _by(HIGHEST),
    notes="the epochs of the others are left out",
)
FAST_SNN = Method(
    "fast-snn",
    "Fast-SNN",
    "Hu et al., TPAMI 2023",
    "signed spikes without a cap",
    LSQ,
    _by(HIGHEST, FiringRule(cap=False)),
    notes="only its conversion, without fine-tuning layer by layer",
)
AT_ONCE = Method(
    "spikezip",
    "SpikeZIP",
    "You et al., ICML 2024",
    "signed spikes with a cap, the whole input at the first step",
    LSQ,
    _by((1.0,)),
)
MULTI_LEVEL = Method(
    "multi-level",
    "multi-level spikes",
    "Lv et al. (group neurons), 2024",
    "a neuron sends all spikes of its level at once: exact in one step; compare at equal spikes",
    LSQ,
    _by((1.0,), FiringRule(multi_spike=True)),
    notes="a spike of k thresholds counts as k spikes",
)
