"""A graph of NIR: the network itself, composed of what NIR has, or its approximation that other tools run."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qffs.errors import InvalidArgument, Mismatch, NotConvertible
from qffs.export.target import Network, Target, Written, close, steps_of, tried
from qffs.files import write
from qffs.graph.nested import tensors
from qffs.spiking.network import SpikingNetwork

if TYPE_CHECKING:
    from qffs.export.nir.run import ExactNirNetwork

SHOWN = 16
"""How many random inputs are tried where none are given."""


@dataclass(frozen=True)
class Profile:
    """How a tool reads an integrate-and-fire node: the ``r`` it asks for, and the fields of `nir_network.Firing`.

    ``by_unit``: whether it keeps a threshold for each unit; ``without_reset``: whether the file must not name one;
    ``note``: what is to be done once it has read the file, before it does what was measured.
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
"""By name: NIR's own equations, and the tools as tried (SpikingJelly 2.0, snnTorch 1.0, Norse 1.1, Sinabs 2.0.3)."""

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
    """Write an approximation of a spiking network that other tools can read: convolutions, matrices, plain neurons.

    Each layer becomes `IF` nodes with threshold n θ; what a neuron sends on average is the activation, cut off at its
    highest level. That loses something, and how much is measured, on ``inputs`` (by default 16 random ones) and at
    1, 2, 4, ... ``steps`` (32), as the tool of the ``profile`` runs such nodes: one of `PROFILES`. The metadata of the
    graph say so under "qffs", in JSON: by step, the share of inputs classified as the network itself does, with
    ``labels`` the accuracy of both, and the root mean square of the difference of outputs over that of the outputs.

    Returned: what was written, with what it loses at the last step in the note. Raises `NotConvertible`, naming each
    operator that is neither a convolution of one or two dimensions nor a matrix, and `InvalidArgument` where there is
    no such profile, or the tool keeps one threshold a layer and the network has one a channel.
    """
    kind = NIR.check(network)
    assert isinstance(network, SpikingNetwork)
    if profile not in PROFILES:
        raise InvalidArgument(f"there is no profile {profile!r} of NIR; there are {', '.join(PROFILES)}")
    chosen, steps = PROFILES[profile], 32 if steps is None else steps
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InvalidArgument(f"the number of steps must be a whole number of at least 1, not {steps!r}")
    if not chosen.by_unit and any(bool(neuron.threshold.dim()) for _, neuron in network.neurons()):
        raise NotConvertible(f"{profile} keeps one threshold a layer, and this network has one a channel")
    from qffs.export.nir.approximate import Rates
    from qffs.export.nir.run import Firing, NirNetwork

    given = tried(network, inputs, SHOWN)
    if labels is not None and labels.shape != given[0].shape[:1]:
        raise InvalidArgument(f"there must be a label an input, {len(given[0])}, not {list(labels.shape)}")
    made = Rates(network, chosen.r)
    nodes, edges = made.build()
    for node in nodes.values():  # tools compute in float32, and some read no other numbers
        for name in ("weight", "bias", "r", "v_threshold", "v_reset"):
            if hasattr(node, name):
                setattr(node, name, getattr(node, name).astype("float32"))
    graph, own = _graph(nodes, edges, {}), _Own(network, made.inputs, given, labels)
    firing = Firing(chosen.at, chosen.subtract, chosen.several, chosen.floor)
    measured = {"measured": own.beside(NirNetwork(graph, firing), made.outputs, steps)}
    if not chosen.subtract:
        measured["measured if thresholds were subtracted"] = own.beside(
            NirNetwork(graph, replace(firing, subtract=True)), made.outputs, steps
        )
    known: dict[str, Any] = {
        "form": "approximation", "truth": TRUTH, "profile": profile, **asdict(chosen), "read-out": "mean over steps",
        "outputs": made.outputs, "inputs": len(given[0]), "network itself": own.said(), **measured,
    }  # fmt: skip
    _write(Path(path), nodes, edges, known, chosen.without_reset)
    last = measured["measured"][-1]
    same = f"{last['agreement']:.1%} are classified as by the network itself, and " if "agreement" in last else ""
    note = (
        f"An approximation: of {len(given[0])} inputs {same}outputs differ by {last['error']:.1%} (root mean square)."
    )
    return Written(Path(path), kind, steps, note=note)


def nir_exact(
    network: Network, path: str | Path, steps: int | None = None, inputs: Tensor | Sequence[Tensor] = ()
) -> Written:
    """Write a spiking network in NIR with nothing lost: each neuron composed of 2 I, 6 Threshold and 5 Scale nodes.

    `read_nir` reads it again and runs it, spike for spike as the network; no other tool runs recurrent graphs of such
    nodes yet. Max pooling is composed of such neurons too. The graph's metadata hold under "qffs", in JSON, the charge
    of the inputs by step, and which nodes send the spikes of which layer.

    Returned: what was written, after it was read again and run beside the network for T ``steps`` (8, at least 2 D) of
    ``inputs`` (by default 16 random ones), with the largest difference of an output. Raises `NotConvertible`, naming
    each operator that is neither a convolution of one or two dimensions nor a matrix, and `Mismatch` where a spike
    would differ from the network's in float64.
    """
    kind, length = NIR_EXACT.check(network), steps_of(network, steps)
    assert isinstance(network, SpikingNetwork)
    assert length is not None
    from qffs.export.nir.exact import Exact
    from qffs.export.nir.run import FORM, ExactNirNetwork, read

    made = Exact(network)
    nodes, edges = made.build()
    known = {"form": FORM, "charge": made.charge, "inputs": made.inputs, "outputs": made.outputs,
             "charges": made.charges, "populations": made.populations}  # fmt: skip
    given, wide, spikes = tried(network, inputs, SHOWN), copy.deepcopy(network).cpu().double(), {}
    readout, _ = wide.run(*given, steps=length, observer=lambda layer, sent, _: spikes.update({layer: sent}))
    deviation = 0.0

    def compared(fresh: Path) -> None:
        nonlocal deviation
        found, sent = ExactNirNetwork(read(fresh)).run(*given, steps=length)
        wrong = [layer for layer, own in spikes.items() if not torch.equal(own, sent[layer])]
        if wrong:
            raise Mismatch(f"in NIR, {wrong[0]} would send other spikes than in the network")
        deviation = close(tensors(found), tensors(readout), "in NIR")

    _write(Path(path), nodes, edges, known, check=compared)
    return Written(Path(path), kind, length, deviation)


def read_nir(path: str | Path) -> ExactNirNetwork:
    """A network that `nir_exact` wrote, to be called as ``network(x, steps=8)``; nothing of the file is run.

    Raises `CheckpointError` where the file holds none: an approximation is none.
    """
    NIR_EXACT.installed()
    from qffs.export.nir.run import ExactNirNetwork, read

    return ExactNirNetwork(read(path))


def _graph(nodes: dict[str, Any], edges: list[tuple[str, str]], known: dict[str, Any]) -> Any:
    from nir import NIRGraph

    from qffs.export.nir.run import KEY

    # Its types are checked where NIR 1.0.8 works them out rightly: of square kernels.
    square = all(len(set(node.weight.shape[2:])) <= 1 for node in nodes.values() if type(node).__name__ == "Conv2d")
    return NIRGraph(nodes, edges, metadata={KEY: json.dumps(known)}, type_check=square)


def _write(
    path: Path, nodes: dict[str, Any], edges: list[tuple[str, str]], known: dict[str, Any],
    without_reset: bool = False, check: Any = None,
) -> None:  # fmt: skip
    import h5py
    import nir as library

    graph = _graph(nodes, edges, known)

    def written(fresh: Path) -> None:
        library.write(fresh, graph)
        if without_reset:  # older versions of NIR, which Sinabs 3 asks for, know none
            with h5py.File(fresh, "a") as file:
                for node in file["node/nodes"].values():
                    if "v_reset" in node:
                        del node["v_reset"]
        if check is not None:
            check(fresh)

    write(path, written)


class _Own:
    """What the network itself reads out of some inputs, beside what an approximation does."""

    def __init__(
        self, network: SpikingNetwork, names: Sequence[str], inputs: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        wide = copy.deepcopy(network).cpu().double()
        self.steps = wide.schedule.usual_steps
        self.outputs = [leaf[-1] for leaf in tensors(wide(*inputs, steps=self.steps))]
        self.inputs = dict(zip(names, inputs, strict=True))
        self.classes = self.outputs[0].argmax(1) if self.outputs[0].dim() == 2 else None
        self.labels = None if labels is None or self.classes is None else labels.cpu()

    def said(self) -> dict[str, float]:
        """After how many steps it was read, and its accuracy where labels are known."""
        known: dict[str, float] = {"steps": self.steps}
        if self.classes is None or self.labels is None:
            return known
        return known | {"accuracy": _share(self.classes, self.labels)}

    def beside(self, ran: Any, outputs: Sequence[str], steps: int) -> list[dict[str, float]]:
        """What an approximation gives at 1, 2, 4, ... steps and the last."""
        total = [torch.zeros_like(each) for each in self.outputs]
        rows = []
        for step, sent in enumerate(ran.steps([self.inputs] * steps), 1):
            total = [sum_ + sent[name] for sum_, name in zip(total, outputs, strict=True)]
            if step & (step - 1) == 0 or step == steps:
                rows.append({"steps": step, **self._row([each / step for each in total])})
        return rows

    def _row(self, found: Sequence[Tensor]) -> dict[str, float]:
        difference = sum(float((a - b).square().sum()) for a, b in zip(found, self.outputs, strict=True))
        size = sum(float(each.square().sum()) for each in self.outputs)
        row = {"error": (difference / size) ** 0.5 if size else float(difference > 0)}
        if self.classes is not None:
            row["agreement"] = _share(found[0].argmax(1), self.classes)
        if self.labels is not None:
            row["accuracy"] = _share(found[0].argmax(1), self.labels)
        return row


def _share(found: Tensor, wanted: Tensor) -> float:
    """How many of these are equal."""
    return float(torch.eq(found, wanted).double().mean())


NIR = Target(
    "nir", "a graph of NIR with plain neurons that other tools read: an approximation, its loss measured", ("snn",),
    nir, frozenset({"steps", "profile", "inputs", "labels"}), "nir", ("nir",),
)  # fmt: skip
NIR_EXACT = Target(
    "nir-exact", "a graph of NIR with the same spikes, which qffs.export.read_nir runs", ("snn",),
    nir_exact, frozenset({"steps", "inputs"}), "nir", ("nir",),
)  # fmt: skip
