"""A spiking network read from network.npz, its spikes beside those it should send, and the command line of run.py.

python run.py                         # the examples kept in network.npz, and whether all spikes are as they should be
python run.py images.npy --steps 12   # other inputs [B, ...], one file an input
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Spikes = dict[str, np.ndarray]
"""By population, ``[T, B, N]``: spikes in {-1, 0, 1}, of an output what it has added up so far."""


@dataclass(frozen=True)
class Population:
    """Signed integrate-and-fire neurons, ``[N]`` each; an output only adds up what arrives (threshold infinite).

    ::

        u <- u + charge[t] * current + sum of the weights of arriving spikes
        z  = +1 if u >= threshold and sent < highest,  -1 if negative and u < 0 and sent > 0,  else 0
        u <- u - threshold * z,  sent <- sent + z
    """

    name: str
    shape: tuple[int, ...]
    depth: int
    highest: float
    negative: bool
    threshold: np.ndarray
    initial: np.ndarray
    bias: np.ndarray

    @property
    def fires(self) -> bool:
        """Whether it is no output."""
        return bool(np.isfinite(self.threshold).all())

    def __len__(self) -> int:
        return len(self.bias)


@dataclass(frozen=True)
class Synapses:
    """A spike of the source's unit ``pre[k]`` adds ``weight[k]`` to the potential of the target's unit ``post[k]``."""

    source: str
    target: str
    pre: np.ndarray
    post: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Network:
    """All populations in the order of computation; ``inward`` are the synapses from the inputs, which carry values."""

    inputs: dict[str, tuple[int, ...]]
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]
    inward: tuple[Synapses, ...]
    charge: tuple[float, ...]

    @property
    def depth(self) -> int:
        """How many steps later the last population begins, with a delay of one step from each to the next."""
        return max(each.depth for each in self.populations)

    def currents(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """By population, ``[B, N]``: the current of the inputs and the biases, to be charged by the schedule."""
        found = {each.name: np.tile(each.bias, (len(inputs[0]), 1)) for each in self.populations}
        for each in self.inward:
            values = inputs[list(self.inputs).index(each.source)]
            values = values.reshape(len(values), -1)
            for current, value in zip(found[each.target], values, strict=True):
                np.add.at(current, each.post, value[each.pre] * each.weight)
        return found


def read(path: Path) -> tuple[Network, list[np.ndarray], Spikes]:
    """The network of a file, the examples kept with it, and what it should send for them."""
    with np.load(path, allow_pickle=False) as file:
        known = json.loads(str(file["structure"]))

        def arrays(name: str, *fields: str) -> dict[str, np.ndarray]:
            return {field: file[f"{name}/{field}"] for field in fields}

        populations = tuple(
            Population(
                each["name"], tuple(each["shape"]), each["depth"], float(each["highest"]), each["negative"],
                **arrays(f"population {number}", "threshold", "initial", "bias"),
            )
            for number, each in enumerate(known["populations"])
        )  # fmt: skip
        synapses = [
            Synapses(each["source"], each["target"], **arrays(f"synapses {number}", "pre", "post", "weight"))
            for number, each in enumerate(known["synapses"])
        ]
        inputs = {name: tuple(shape) for name, shape in known["inputs"].items()}
        network = Network(
            inputs,
            populations,
            tuple(each for each in synapses if each.source not in inputs),
            tuple(each for each in synapses if each.source in inputs),
            tuple(known["charge"]),
        )
        examples = [file[f"input {number}/examples"] for number in range(len(inputs))]
        expected = {each.name: file[f"population {number}/expected"] for number, each in enumerate(populations)}
        return network, examples, expected


def write(path: Path, spikes: Spikes) -> None:
    """An .npz file, of any names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in spikes.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)


def main(simulate: Callable[[Network, dict[str, np.ndarray], int], Spikes]) -> int:
    """The command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Runs the network of network.npz.")
    parser.add_argument("inputs", nargs="*", type=Path, help=".npy files [B, ...]; without them, the examples")
    parser.add_argument("--steps", type=int, help="time steps T; by default those of the examples")
    parser.add_argument("-o", "--output", type=Path, help="an .npz file for all spikes [T, B, N] by population")
    given = parser.parse_args()
    network, examples, expected = read(here / "network.npz")
    length = len(next(iter(expected.values())))
    steps = length if given.steps is None else given.steps
    if given.inputs and len(given.inputs) != len(network.inputs):
        parser.error(f"the network takes {len(network.inputs)} inputs: {', '.join(network.inputs)}")
    if steps < len(network.charge):
        parser.error(f"a run needs at least the {len(network.charge)} steps in which the input is charged")
    if given.output and not given.output.absolute().parent.is_dir():
        parser.error(f"there is no folder {given.output.absolute().parent} to write to")
    try:
        inputs = [np.asarray(np.load(path, allow_pickle=False)) for path in given.inputs] or examples
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for (name, shape), value in zip(network.inputs.items(), inputs, strict=True):
        if value.dtype.kind not in "biuf" or value.shape[1:] != shape or not len(value):
            parser.error(
                f"{name} must be numbers [B, {', '.join(map(str, shape))}], not {value.dtype} {list(value.shape)}"
            )
        if len(value) != len(inputs[0]):
            parser.error(f"all inputs must have the same batch, not {[len(each) for each in inputs]}")
        if not np.isfinite(value).all():
            parser.error(f"{name} holds NaN or infinity")
    start = time.perf_counter()
    found = simulate(network, network.currents(inputs), steps)
    seconds = time.perf_counter() - start
    neurons = [each for each in network.populations if each.fires]
    outputs = [each for each in network.populations if not each.fires]
    events = int(sum(np.abs(found[each.name]).sum() for each in neurons))
    print(f"{len(inputs[0])} inputs, {steps} steps, {events:,} spikes, {seconds:.1f} s")
    if outputs and len(outputs[0].shape) == 1:
        print("largest output:", *found[outputs[0].name][-1].argmax(-1))
    if given.output:
        write(given.output, found)
    if given.inputs or steps > length:
        return 0
    other = [each.name for each in neurons if not np.array_equal(found[each.name], expected[each.name][:steps])]
    apart = max((np.abs(found[each.name] - expected[each.name][:steps]).max() for each in outputs), default=0.0)
    print(f"spikes differ in {', '.join(other)}" if other else "all spikes are those of qffs,", end=" ")
    print(f"outputs within {apart:.1e}")
    return 1 if other else 0
