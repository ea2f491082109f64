"""Networks in files of NIR: exactly, or as an approximation that other tools run."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qffs.errors import InvalidArgument, Mismatch, NotConvertible
from qffs.export.target import Network, Target, Written, close, inputs_to_try, steps_of
from qffs.files import expanded, put, write
from qffs.graph.nested import tensors
from qffs.spiking.network import SpikingNetwork

SHOWN = 16
"""The default number of random inputs for a comparison."""


@dataclass(frozen=True)
class Profile:
    """The way in which a tool reads an integrate-and-fire node.

    r: the value of ``r`` that the tool expects. at, subtract, several, floor: see `qffs.export.nir.run.Firing`.
    by_unit: whether the tool supports one threshold for each unit. without_reset: whether the file must not contain
    ``v_reset``. note: the changes that a user must make after the tool has read the file, to get the measured results.
    """

    r: float = 1.0
    at: bool = False
    subtract: bool = False
    several: bool = False
    floor: bool = False
    by_unit: bool = True
    without_reset: bool = False
    note: str = ""


BRANCHES = "set execution_order to a topological order of the nodes where branches run in parallel"

PROFILES = {
    "nir": Profile(),
    "spikingjelly": Profile(r=1e4, at=True, by_unit=False),
    "snntorch": Profile(
        by_unit=False,
        note="set each Leaky's init_hidden to True, beta to 1, reset_mechanism to 'zero', and Flatten's start_dim to 1",
    ),
    "norse": Profile(note=f"set Flatten's start_dim to 1, and {BRANCHES}"),
    "sinabs": Profile(at=True, subtract=True, several=True, floor=True, without_reset=True, note=BRANCHES),
}
"""The profiles by name, for the tested versions: SpikingJelly 2.0, snnTorch 1.0, Norse 1.1 and Sinabs 2.0.3."""

TRUTH = (
    "An approximation, not this network: unsigned spikes, no cap, no potential before the first step, input and biases "
    "always on, the read-out a mean over time. What it loses was measured, see 'measured'; nir-exact loses nothing."
)


def nir(
    network: Network,
    path: str | Path,
    steps: int | None = None,
    profile: str = "nir",
    inputs: Tensor | Sequence[Tensor] = (),
    labels: Tensor | None = None,
) -> Written:
    """Write an approximation of a spiking network in NIR that other tools can read: convolutions, matrices, IF nodes.

    network: a network that `qffs.to_spiking` returned.
    path: the file to write.
    steps: the number of steps of the measurement, by default 32.
    profile: the tool that will read the file: "nir" (NIR's own equations), "spikingjelly", "snntorch", "norse" or
        "sinabs"; see `qffs.export.nir.write.PROFILES`.
    inputs: the inputs of the measurement, ``[B, ...]`` for each input of the network; by default 16 random images.
    labels: the classes of these inputs, int64 ``[B]``, to measure the accuracy too.

    Each layer of neurons becomes `IF` nodes with threshold n θ. The mean over time of what a neuron sends is its
    activation, up to the highest level. This is not exact. The loss is measured after 1, 2, 4, ... and ``steps`` steps,
    with `IF` nodes that fire as in the tool. The metadata of the graph contain the loss under "qffs", in JSON: after
    each of these steps, the share of inputs that are classified as by the network itself; with ``labels``, the accuracy
    of both; and the root mean square of the difference of the outputs, divided by that of the outputs.

    Returns a `Written`, with the loss after the last step in its ``note``.
    Raises `NotConvertible` with the name of each operator that is neither a convolution in one or two dimensions nor a
    matrix, or if the tool supports one threshold per layer and the network has one per channel; `InvalidArgument` if
    ``network`` is not a spiking network, if there is no such profile, if the steps, inputs or labels do not fit, or if
    NIR is not installed; `QffsError` if the file cannot be written.
    """
    kind = NIR.check(network)
    assert isinstance(network, SpikingNetwork)
    steps = 32 if steps is None else steps
    chosen = _profile(network, profile, steps)
    from qffs.export.nir.approximate import Rates
    from qffs.export.nir.run import Firing, NirNetwork

    values = inputs_to_try(network, inputs, SHOWN)
    if labels is not None and labels.shape != values[0].shape[:1]:
        raise InvalidArgument(f"there must be one label per input, {len(values[0])}, not {list(labels.shape)}")
    rates = Rates(network, chosen.r)
    nodes, edges = rates.build()
    _to_float32(nodes)
    graph, original = _graph(nodes, edges, {}), _Original(network, rates.inputs, values, labels)
    firing = Firing(chosen.at, chosen.subtract, chosen.several, chosen.floor)
    measured = {"measured": original.compare(NirNetwork(graph, firing), rates.outputs, steps)}
    if not chosen.subtract:
        measured["measured if thresholds were subtracted"] = original.compare(
            NirNetwork(graph, replace(firing, subtract=True)), rates.outputs, steps
        )
    description: dict[str, Any] = {
        "form": "approximation", "truth": TRUTH, "profile": profile, **asdict(chosen), "read-out": "mean over steps",
        "outputs": rates.outputs, "inputs": len(values[0]), "network itself": original.summary(), **measured,
    }  # fmt: skip
    _write(expanded(path), nodes, edges, description, chosen.without_reset)
    return Written(expanded(path), kind, steps, note=_note(len(values[0]), measured["measured"][-1]))


def _profile(network: SpikingNetwork, name: str, steps: int) -> Profile:
    """Return the profile with a name; raise an error if it does not exist or does not fit the network or the steps."""
    if name not in PROFILES:
        raise InvalidArgument(f"there is no profile {name!r} of NIR; there are {', '.join(PROFILES)}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InvalidArgument(f"the number of steps must be a whole number of at least 1, not {steps!r}")
    if not PROFILES[name].by_unit and any(bool(neuron.threshold.dim()) for _, neuron in network.neurons()):
        raise NotConvertible(f"{name} keeps one threshold per layer, and this network has one per channel")
    return PROFILES[name]


def _to_float32(nodes: dict[str, Any]) -> None:
    """Convert the numbers of all nodes, because tools compute in float32, and some cannot read other types."""
    for node in nodes.values():
        for name in ("weight", "bias", "r", "v_threshold", "v_reset"):
            if hasattr(node, name):
                setattr(node, name, getattr(node, name).astype("float32"))


def _note(count: int, last: dict[str, float]) -> str:
    """Return one sentence about the loss of an approximation on ``count`` inputs after the last step."""
    same = f"{last['agreement']:.1%} are classified as by the network itself, and " if "agreement" in last else ""
    return f"An approximation: of {count} inputs {same}outputs differ by {last['error']:.1%} (root mean square)."


def nir_exact(
    network: Network, path: str | Path, steps: int | None = None, inputs: Tensor | Sequence[Tensor] = ()
) -> Written:
    """Write a spiking network in NIR exactly: each neuron is composed of 2 I, 6 Threshold and 5 Scale nodes.

    network: a network that `qffs.to_spiking` returned.
    path: the file to write.
    steps: T, the time steps of the comparison; by default 8, or 2 D if that is larger.
    inputs: the inputs of the comparison, ``[B, ...]`` for each input of the network; by default 16 random images.

    `read_nir` reads the file and runs it with the same spikes as the network. No other tool runs recurrent graphs of
    these nodes yet. Max pooling is composed of such neurons too. The metadata of the graph contain under "qffs", in
    JSON, the charge of the inputs at each step, and the nodes that send the spikes of each layer.

    Returns a `Written`. Before, the file is read again and run beside the network in float64: all spikes are equal, and
    ``deviation`` is the largest difference of an output.

    Raises `NotConvertible` with the name of each operator that is neither a convolution in one or two dimensions nor a
    matrix; `Mismatch` if a spike or an output would differ from the network; `InvalidArgument` if ``network`` is not a
    spiking network, if the steps or inputs do not fit, or if NIR is not installed; `QffsError` if the file cannot be
    written.
    """
    kind, length = NIR_EXACT.check(network), steps_of(network, steps)
    assert isinstance(network, SpikingNetwork)
    assert length is not None
    from qffs.export.nir.exact import Exact
    from qffs.export.nir.run import FORM, ExactNirNetwork
    from qffs.export.nir.stored import read

    exact = Exact(network)
    nodes, edges = exact.build()
    description = {"form": FORM, "charge": exact.charge, "inputs": exact.inputs, "outputs": exact.outputs,
                   "charges": exact.charges, "populations": exact.populations}  # fmt: skip
    values, wide, spikes = inputs_to_try(network, inputs, SHOWN), copy.deepcopy(network).cpu().double(), {}
    readout, _ = wide.run(*values, steps=length, observer=lambda layer, sent, _: spikes.update({layer: sent}))
    deviation = 0.0

    def compare(fresh: Path) -> None:
        nonlocal deviation
        outputs, sent = ExactNirNetwork(read(fresh), path).run(*values, steps=length)
        different = [layer for layer, expected in spikes.items() if not torch.equal(expected, sent[layer])]
        if different:
            raise Mismatch(f"in NIR, {different[0]} would send other spikes than in the network")
        deviation = close(tensors(outputs), tensors(readout), "in NIR")

    _write(expanded(path), nodes, edges, description, check=compare)
    return Written(expanded(path), kind, length, deviation)


def _graph(nodes: dict[str, Any], edges: list[tuple[str, str]], description: dict[str, Any]) -> Any:
    from nir import NIRGraph

    from qffs.export.nir.run import KEY

    # NIR 1.0.8 computes correct types only for square kernels: the check of types is off for others.
    square = all(len(set(node.weight.shape[2:])) <= 1 for node in nodes.values() if type(node).__name__ == "Conv2d")
    return NIRGraph(nodes, edges, metadata={KEY: json.dumps(description)}, type_check=square)


def _write(
    path: Path, nodes: dict[str, Any], edges: list[tuple[str, str]], description: dict[str, Any],
    without_reset: bool = False, check: Any = None,
) -> None:  # fmt: skip
    import h5py
    import nir as library

    graph = _graph(nodes, edges, description)

    def save(stream: BinaryIO) -> None:
        library.write(stream, graph)
        if without_reset:  # the older versions of NIR that Sinabs 3 needs do not have this field
            with h5py.File(stream, "a") as file:
                for node in file["node/nodes"].values():
                    if "v_reset" in node:
                        del node["v_reset"]

    def write_graph(fresh: Path) -> None:
        put(fresh, save)
        if check is not None:
            check(fresh)

    write(path, write_graph)


class _Original:
    """The outputs of the network itself for some inputs, for comparison with an approximation."""

    def __init__(
        self, network: SpikingNetwork, names: Sequence[str], inputs: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        wide = copy.deepcopy(network).cpu().double()
        self.steps = wide.schedule.usual_steps
        self.outputs = [leaf[-1] for leaf in tensors(wide(*inputs, steps=self.steps))]
        self.inputs = dict(zip(names, inputs, strict=True))
        self.classes = self.outputs[0].argmax(1) if self.outputs[0].dim() == 2 else None
        self.labels = None if labels is None or self.classes is None else labels.cpu()

    def summary(self) -> dict[str, float]:
        """Return the number of steps of the network itself, and its accuracy if there are labels."""
        result: dict[str, float] = {"steps": self.steps}
        if self.classes is None or self.labels is None:
            return result
        return result | {"accuracy": _share(self.classes, self.labels)}

    def compare(self, approximation: Any, outputs: Sequence[str], steps: int) -> list[dict[str, float]]:
        """Return error, agreement and accuracy of an approximation after 1, 2, 4, ... steps and after the last."""
        total = [torch.zeros_like(each) for each in self.outputs]
        rows = []
        for step, sent in enumerate(approximation.steps([self.inputs] * steps), 1):
            total = [sum_ + sent[name] for sum_, name in zip(total, outputs, strict=True)]
            if step & (step - 1) == 0 or step == steps:
                rows.append({"steps": step, **self._row([each / step for each in total])})
        return rows

    def _row(self, outputs: Sequence[Tensor]) -> dict[str, float]:
        difference = sum(float((a - b).square().sum()) for a, b in zip(outputs, self.outputs, strict=True))
        size = sum(float(each.square().sum()) for each in self.outputs)
        row = {"error": (difference / size) ** 0.5 if size else float(difference > 0)}
        if self.classes is not None:
            row["agreement"] = _share(outputs[0].argmax(1), self.classes)
        if self.labels is not None:
            row["accuracy"] = _share(outputs[0].argmax(1), self.labels)
        return row


def _share(predicted: Tensor, expected: Tensor) -> float:
    """Return the share of equal elements."""
    return float(torch.eq(predicted, expected).double().mean())


NIR = Target(
    "nir", "a graph of NIR with plain neurons that other tools read: an approximation, its loss measured", ("snn",),
    nir, frozenset({"steps", "profile", "inputs", "labels"}), "nir", ("nir",), marks=(b"\x89HDF", b"qffs"),
)  # fmt: skip
NIR_EXACT = Target(
    "nir-exact", "a graph of NIR with the same spikes, which qffs.export.read_nir runs", ("snn",),
    nir_exact, frozenset({"steps", "inputs"}), "nir", ("nir",), marks=(b"\x89HDF", b"qffs"),
)  # fmt: skip
