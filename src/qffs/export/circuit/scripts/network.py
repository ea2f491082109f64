"""A spiking network in network.npz, a comparison of its spikes with the stored ones, and the command line of run.py.

python run.py                         # simulate the examples in network.npz and compare all spikes with the stored ones
python run.py images.npy --steps 12   # simulate other inputs [B, ...], with one file per input
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
"""By population, ``[T, B, N]``: spikes in {-1, 0, 1}; for an output, its potential."""


@dataclass(frozen=True)
class Population:
    """A population of N signed integrate-and-fire neurons; an output has an infinite threshold and only adds up.

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
        """True for a layer of neurons, False for an output."""
        return bool(np.isfinite(self.threshold).all())

    def __len__(self) -> int:
        return len(self.bias)


@dataclass(frozen=True)
class Synapses:
    """The synapses between two populations: a spike of unit ``pre[k]`` adds ``weight[k]`` at unit ``post[k]``."""

    source: str
    target: str
    pre: np.ndarray
    post: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Network:
    """A network: the populations in the order of computation, and the synapses between them.

    inputs: the shapes of the inputs by name. inward: the synapses from the inputs, which carry values instead of
    spikes. charge: the weights of the current at the first steps.
    """

    inputs: dict[str, tuple[int, ...]]
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]
    inward: tuple[Synapses, ...]
    charge: tuple[float, ...]

    @property
    def depth(self) -> int:
        """The delay of the last population in steps, if a spike needs one step from a population to the next."""
        return max(each.depth for each in self.populations)

    def currents(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the current from inputs and biases by population, ``[B, N]``, which the schedule charges."""
        currents = {each.name: np.tile(each.bias, (len(inputs[0]), 1)) for each in self.populations}
        for each in self.inward:
            values = inputs[list(self.inputs).index(each.source)]
            values = values.reshape(len(values), -1)
            for current, value in zip(currents[each.target], values, strict=True):
                np.add.at(current, each.post, value[each.pre] * each.weight)
        return currents


def read(path: Path) -> tuple[Network, list[np.ndarray], Spikes]:
    """Return the network in a file, the examples in the file, and the spikes that the network must send for them."""
    with np.load(path, allow_pickle=False) as file:
        structure = json.loads(str(file["structure"]))

        def arrays(name: str, *fields: str) -> dict[str, np.ndarray]:
            return {field: file[f"{name}/{field}"] for field in fields}

        populations = tuple(
            Population(
                each["name"], tuple(each["shape"]), each["depth"], float(each["highest"]), each["negative"],
                **arrays(f"population {number}", "threshold", "initial", "bias"),
            )
            for number, each in enumerate(structure["populations"])
        )  # fmt: skip
        synapses = [
            Synapses(each["source"], each["target"], **arrays(f"synapses {number}", "pre", "post", "weight"))
            for number, each in enumerate(structure["synapses"])
        ]
        inputs = {name: tuple(shape) for name, shape in structure["inputs"].items()}
        network = Network(
            inputs,
            populations,
            tuple(each for each in synapses if each.source not in inputs),
            tuple(each for each in synapses if each.source in inputs),
            tuple(structure["charge"]),
        )
        examples = [file[f"input {number}/examples"] for number in range(len(inputs))]
        expected = {each.name: file[f"population {number}/expected"] for number, each in enumerate(populations)}
        return network, examples, expected


def write(path: Path, spikes: Spikes) -> None:
    """Write an .npz file with arrays of any names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in spikes.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)


def main(simulate: Callable[[Network, dict[str, np.ndarray], int], Spikes]) -> int:
    """Run the command line, and return the exit status: 1 if spikes differ from the stored ones, else 0."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Runs the network of network.npz.")
    parser.add_argument("inputs", nargs="*", type=Path, help=".npy files [B, ...]; without them, the examples")
    parser.add_argument("--steps", type=int, help="time steps T; by default those of the examples")
    parser.add_argument("-o", "--output", type=Path, help="an .npz file for all spikes [T, B, N] by population")
    options = parser.parse_args()
    network, examples, expected = read(here / "network.npz")
    length = len(next(iter(expected.values())))
    steps = length if options.steps is None else options.steps
    if options.inputs and len(options.inputs) != len(network.inputs):
        parser.error(f"the network takes {len(network.inputs)} inputs: {', '.join(network.inputs)}")
    if steps < len(network.charge):
        parser.error(f"a run needs at least the {len(network.charge)} steps in which the input is charged")
    if options.output and not options.output.absolute().parent.is_dir():
        parser.error(f"there is no folder {options.output.absolute().parent} to write to")
    try:
        inputs = [np.asarray(np.load(path, allow_pickle=False)) for path in options.inputs] or examples
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
    spikes = simulate(network, network.currents(inputs), steps)
    seconds = time.perf_counter() - start
    neurons = [each for each in network.populations if each.fires]
    outputs = [each for each in network.populations if not each.fires]
    events = int(sum(np.abs(spikes[each.name]).sum() for each in neurons))
    print(f"{len(inputs[0])} inputs, {steps} steps, {events:,} spikes, {seconds:.1f} s")
    if outputs and len(outputs[0].shape) == 1:
        print("largest output:", *spikes[outputs[0].name][-1].argmax(-1))
    if options.output:
        write(options.output, spikes)
    if options.inputs or steps > length:
        return 0
    different = [each.name for each in neurons if not np.array_equal(spikes[each.name], expected[each.name][:steps])]
    deviation = max((np.abs(spikes[each.name] - expected[each.name][:steps]).max() for each in outputs), default=0.0)
    print(f"spikes differ in {', '.join(different)}" if different else "all spikes are those of qffs,", end=" ")
    print(f"outputs within {deviation:.1e}")
    return 1 if different else 0
