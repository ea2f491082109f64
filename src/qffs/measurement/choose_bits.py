"""The choice of bits: levels by layer for a budget of steps, spikes or changed outputs, from what each layer costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from qffs.convert import quantize, to_spiking
from qffs.errors import InvalidArgument
from qffs.graph.blocks import Block, blocks, in_order, joined, part
from qffs.graph.nested import tensors
from qffs.graph.replace import activations, in_full_precision, output_quantizers
from qffs.nn.copies import copied
from qffs.nn.inspect import empty_like, quantizers
from qffs.nn.quantizer import Quantizer
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.train.calibrate import calibrate
from qffs.train.error import error as relative_error
from qffs.train.error import sizes
from qffs.train.values import Values, gathered, in_batches, sample, values

CANDIDATES = (1, 3, 7, 15, 31)
"""The highest levels that a layer may get by default: those of 1 to 5 bits."""
SIMULATED = 32
"""The most images on which steps and spikes are counted."""


@dataclass(frozen=True)
class Effect:
    """The effect of one activation, by its highest level n, with all others in full precision.

    errors: the relative squared error of the network's outputs; spikes: the mean sum of its levels per image, which is
    the number of spikes of its neurons, negative ones subtracted.
    """

    errors: Mapping[int, float]
    spikes: Mapping[int, float]

    def gain(self, now: int, then: int) -> float:
        """Return by how much the error falls per further spike, from one highest level to another."""
        return (self.errors[now] - self.errors[then]) / max(self.spikes[then] - self.spikes[now], 1e-9)


@dataclass(frozen=True)
class ChosenLevels(Mapping[str, int | str]):
    """The highest level of each activation by its path, or "full", as `qffs.quantize` takes it for ``levels``.

    levels: the choice; effects: its reasons, by path, for each activation whose levels were chosen. The whole network
    with these levels and LSQ's step sizes has: error: the relative squared error of its outputs; changed: the share of
    images for which it predicts another class than in full precision, None where its outputs are no classes; steps:
    after which it has settled; spikes: per image until then. ``print`` shows a table.
    """

    levels: dict[str, int | str]
    effects: Mapping[str, Effect]
    error: float
    changed: float | None
    steps: int
    spikes: float

    def __getitem__(self, path: str) -> int | str:
        return self.levels[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.levels)

    def __len__(self) -> int:
        return len(self.levels)

    def __str__(self) -> str:
        candidates = list(next(iter(self.effects.values())).errors)
        rows = [["layer", "n", *(f"error, n = {n}" for n in candidates), *(f"spikes, n = {n}" for n in candidates)]]
        for path, effect in self.effects.items():
            cells = [f"{100 * each:.2f} %" for each in effect.errors.values()]
            cells += [f"{each:,.0f}" for each in effect.spikes.values()]
            rows.append([path, str(self.levels[path]), *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return what the whole network has with these levels, in one line."""
        changed = "" if self.changed is None else f"another class on {100 * self.changed:.1f} % of the images, "
        return (
            f"all together, without training: error {100 * self.error:.1f} %, {changed}settled after {self.steps} "
            f"steps, {self.spikes:,.0f} spikes per image"
        )


def choose_bits(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    *,
    steps: int | None = None,
    spikes: float | None = None,
    changed: float | None = None,
    error: float | None = None,
    candidates: Sequence[int] = CANDIDATES,
    progress: bool = True,
) -> ChosenLevels:
    """Return the levels of each activation for a budget, chosen by what each does to the network's outputs.

    - ``model``: the network in full precision, or what `qffs.quantize` made of it, whose output levels are kept, and
      whose activations in full precision stay so.
    - ``batches``: input tensors ``[B, ...]``, or tuples of inputs, without labels.
    - Give one budget, the most that there may be: ``steps``, in which the spiking network settles; ``spikes`` per image
      until then; ``changed``, the share of images for which another class is predicted than in full precision, where
      the network has one output with the classes in dimension 1; or ``error``, the relative squared error of the
      outputs.
    - ``candidates``: the highest levels n that a layer may get, in increasing order.

    Each activation is quantized alone, to each candidate, and the error of the outputs and the spikes are measured.
    Then, from the fewest levels everywhere, the change that lowers the error most per further spike is made again and
    again; errors of several layers are taken to add up. No layer gets a candidate before all have the one below it: the
    charge schedule is as long as the highest n, and one layer with a high n lets all others send more spikes, which are
    taken back later. A few of these networks are measured as a whole, with LSQ's step sizes (their steps and spikes on
    up to 32 of the images), halving what is left of the order each time: for a budget of steps or spikes toward more
    levels, for the others toward fewer. The choice fits the budget. Where what is measured does not grow evenly with
    the levels, another one that fits may be a little better.

    Returns a `ChosenLevels`, which `qffs.quantize` takes as ``levels``; ``print`` shows why. Raises `InvalidArgument`
    where no choice that was measured fits the budget, and as `qffs.quantize` and `qffs.calibrate` do.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(128, 4)
    >>> chosen = qffs.choose_bits(model, [x], steps=8, progress=False)
    >>> qann = qffs.quantize(model, levels=chosen, example=x)
    """
    budgets = {"steps": steps, "spikes": spikes, "changed": changed, "error": error}
    given = [(name, limit) for name, limit in budgets.items() if limit is not None]
    if len(given) != 1:
        raise InvalidArgument(f"give one budget, of {', '.join(budgets)}, not {len(given)}")
    ((name, limit),) = given
    search = _Search(*_prepared(model, batches, candidates))
    if name == "changed" and not search.classes:
        raise InvalidArgument("changed takes a network with one output of classes in dimension 1: give another budget")
    orders = _orders(search.measure_layers(candidates, progress), candidates)

    def fits(number: int) -> bool:
        return float(getattr(search.trial(orders[number]), name)) <= limit

    costs = name in {"steps", "spikes"}
    chosen = _first(lambda n: not fits(n), len(orders)) - 1 if costs else _first(fits, len(orders))
    if not 0 <= chosen < len(orders):
        nearest = getattr(search.trial(orders[0 if costs else -1]), name)
        raise InvalidArgument(f"no choice of levels fits {name} = {limit:g}: the nearest has {nearest:.3g}")
    return search.trial(orders[chosen])


def _prepared(
    model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]], candidates: Sequence[int]
) -> tuple[fx.GraphModule, Values, set[str]]:
    """Return a quantized copy of a network, its inputs for all images, and the paths of quantizers that stay."""
    ordered = all(one < other for one, other in pairwise(candidates))
    if not candidates or not ordered:
        raise InvalidArgument(f"candidates must be highest levels in increasing order, not {candidates!r}")
    if isinstance(model, fx.GraphModule) and quantizers(model):
        qann = copied(model)
        return qann, _gathered(batches, qann), output_quantizers(qann)
    if isinstance(batches, Tensor):
        raise InvalidArgument("choose_bits takes several batches: give a list, even of one, such as [x]")
    kept = list(batches)
    if not kept:
        raise InvalidArgument("choose_bits takes at least one batch of inputs")
    example = tuple(kept[0]) if isinstance(kept[0], (tuple, list)) else kept[0]
    qann = quantize(model, levels=candidates[-1], example=example)
    return qann, _gathered(kept, qann), set()


def _gathered(batches: Iterable[Tensor | tuple[Tensor, ...]], qann: fx.GraphModule) -> Values:
    return gathered(batches, len(qann.graph.find_nodes(op="placeholder")), "choose_bits")


class _Search:
    """A quantized network, its inputs for all images, and what it computes of them in full precision."""

    def __init__(self, qann: fx.GraphModule, inputs: Values, stay: set[str]) -> None:
        self.qann, self.inputs, self.device = qann.eval(), inputs, empty_like(qann).device
        self.exact = in_full_precision(qann, qann).eval()
        self.parts = blocks(qann)
        self.targets = values(part(self.exact, joined(self.parts)), inputs)
        self.sizes = sizes(self.targets)
        self.classes = len(self.targets) == 1 and self.targets[0].dim() > 1 and self.targets[0].shape[1] > 1
        self.hidden = {path: each for path, each in in_order(qann).items() if path not in stay}
        self.others = _others(qann, self.hidden)
        self.effects: dict[str, Effect] = {}
        self.trials: dict[tuple[int, ...], ChosenLevels] = {}

    @torch.no_grad()
    def measure_layers(self, candidates: Sequence[int], progress: bool) -> dict[str, Effect]:
        """Return the effect of each activation, quantized alone, by its path in the order of computation."""
        inputs = self.inputs
        with track("effect of each layer", len(self.hidden) * len(candidates), "networks", show=progress) as bar:
            for number, block in enumerate(self.parts):
                rest = joined(self.parts[number:])
                for path in [each for each in in_order(part(self.qann, block)) if each in self.hidden]:
                    of = {}
                    for n in candidates:
                        of[n] = self._alone(path, n, block, rest, inputs)
                        bar.advance()
                    self.effects[path] = Effect(*({n: pair[which] for n, pair in of.items()} for which in (0, 1)))
                inputs = values(part(self.exact, block), inputs)
        return self.effects

    def _alone(self, path: str, n: int, block: Block, rest: Block, inputs: Values) -> tuple[float, float]:
        """Return the error of the outputs and the spikes per image, with one activation quantized to levels 0 to n."""
        full, quantizer = self.exact.get_submodule(path), _with_highest(self.hidden[path], n)
        levels: list[Tensor] = []
        self.exact.set_submodule(path, quantizer)
        try:
            calibrate(part(self.exact, block), in_batches(inputs, self.device), "lsq", progress=False)
            quantizer.register_forward_hook(lambda _, given, __: levels.append(quantizer.level(given[0]).sum()))
            outputs = values(part(self.exact, rest), inputs)
        finally:
            self.exact.set_submodule(path, full)
        return float(relative_error(outputs, self.targets, self.sizes)), float(sum(levels)) / len(inputs[0])

    @torch.no_grad()
    def trial(self, levels: Mapping[str, int]) -> ChosenLevels:
        """Return these levels with what the whole network has that was calibrated with them, measured once."""
        key = tuple(levels.values())
        if key not in self.trials:
            qann = copied(self.qann)
            for path, n in levels.items():
                qann.set_submodule(path, _with_highest(self.hidden[path], n))
            calibrate(qann, in_batches(self.inputs, self.device), "lsq", progress=False)
            outputs = values(part(qann, joined(blocks(qann))), self.inputs)
            steps, spikes = _simulated(to_spiking(qann), sample(self.inputs, SIMULATED))
            self.trials[key] = ChosenLevels(
                {**self.others, **levels},
                self.effects,
                error=float(relative_error(outputs, self.targets, self.sizes)),
                changed=_changed(outputs[0], self.targets[0]) if self.classes else None,
                steps=steps,
                spikes=spikes,
            )
        return self.trials[key]


def _with_highest(quantizer: Quantizer, n: int) -> Quantizer:
    other = Quantizer(n, quantizer.offset, quantizer.clip, quantizer.channels)
    return other.to(quantizer.step_size.device, quantizer.step_size.dtype).eval()


def _others(qann: fx.GraphModule, hidden: Mapping[str, Quantizer]) -> dict[str, int | str]:
    """Return the levels of the activations that are not chosen, which `qffs.quantize` needs too."""
    modules = {path: qann.get_submodule(path) for path in activations(qann) if path not in hidden}
    return {path: each.highest if isinstance(each, Quantizer) else "full" for path, each in modules.items()}


def _changed(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of images (or places) for which another class, in dimension 1, has the largest number."""
    return float((outputs.argmax(1) != targets.argmax(1)).double().mean())


def _simulated(snn: SpikingNetwork, inputs: Values) -> tuple[int, float]:
    """Return the steps after which a spiking network has settled on all images, and its spikes per image until then."""
    spikes = 0

    def count(_: str, sent: Tensor) -> None:
        nonlocal spikes
        spikes += int(sent.sum())

    readout = snn(*(x.to(snn.empty_like.device) for x in inputs), counter=count)
    return len(tensors(readout)[0]), spikes / len(inputs[0])


def _orders(effects: Mapping[str, Effect], candidates: Sequence[int]) -> list[dict[str, int]]:
    """Return choices of levels, from the fewest everywhere to the most everywhere, each with one change more.

    The next change is the one that lowers the error most per further spike, to the next candidate.
    """
    levels = dict.fromkeys(effects, candidates[0])
    orders = [dict(levels)]
    for now, then in pairwise(candidates):
        for path in sorted(effects, key=lambda path: effects[path].gain(now, then), reverse=True):
            levels[path] = then
            orders.append(dict(levels))
    return orders


def _first(holds: Callable[[int], bool], count: int) -> int:
    """Return the least of the numbers from 0 for which ``holds`` is true, and after it always; ``count`` if none is."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
