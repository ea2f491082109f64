"""The tables and figures; each is a function from trained networks to its rows and panels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qffs.errors import InvalidArgument
from qffs.measurement.noise import NEGATIVE_SPIKES, without
from qffs.method import FiringRule
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import OFFSET, Quantizer
from qffs.report.findings import Cell, Findings, Panel, Series
from qffs.studies.paper.published import DIRECT, SOURCE, TABLE_3, TABLE_4
from qffs.studies.paper.variant import Variant

if TYPE_CHECKING:
    from qffs.studies.paper.shelf import Shelf, Trained

BITS = (1, 2, 3, 4, 5)
STEPS, PERCENT = "time steps T", "accuracy (%)"


@dataclass(frozen=True)
class Item:
    """A table or figure: its name, its title, the function that makes it, and the result in the paper."""

    name: str
    title: str
    find: Callable[[Shelf], Findings]
    paper: str


def table3(shelf: Shelf) -> Findings:
    """Return accuracy before and after conversion, with the published rows of table 3."""
    rows: list[list[Cell]] = []
    for trained in shelf.networks(Variant(2, 3), Variant(2, "analog"), Variant(3, "analog")):
        method = f"qffs, {trained.recipe.bits} bit, output {_output(trained)}"
        for steps in sorted({4, 8, trained.settled() or 8}):
            if trained.charge_steps <= steps <= len(trained.curve):
                accuracy = _percent(trained.curve[steps - 1])
                rows.append(
                    [method, _data(trained), trained.recipe.model, _percent(trained.qann), accuracy, steps, "here"]
                )
    rows += [[p.method, p.data, p.network, p.ann, p.snn, p.steps, "paper"] for p in TABLE_3]
    head = ["method", "data", "network", "before (%)", "SNN (%)", "steps", "from"]
    return Findings(
        head, rows, notes=["Accuracy before conversion is that of the quantized network for qffs and QFFS."]
    )


def table4(shelf: Shelf) -> Findings:
    """Return accuracy while remedies are added one by one, with the published accuracies of table 4."""
    try:
        average, largest, wider = shelf.networks(Variant(2, 2, "average"), Variant(2, 2, "max"), Variant(2, 3, "max"))
    except InvalidArgument as error:
        raise InvalidArgument(
            f"this needs a network whose pooling can be chosen, such as digits_net or cifar_vgg16: {error}"
        ) from error
    bare = shelf.accuracy(average, without(average.spiking(), NEGATIVE_SPIKES), average.charge_steps)
    settled = len(average.curve)
    ours = [
        (bare[-1], average, average.charge_steps),
        (average.curve[average.charge_steps - 1], average, average.charge_steps),
        (average.curve[-1], average, settled),
        (largest.curve[-1], largest, len(largest.curve)),
        (wider.curve[-1], wider, len(wider.curve)),
    ]
    rows: list[list[Cell]] = [
        [number, setting, _percent(accuracy), steps, _percent(trained.qann), published]
        for number, ((setting, published), (accuracy, trained, steps)) in enumerate(zip(TABLE_4, ours, strict=True), 1)
    ]
    head = ["", "setting", "SNN (%)", "steps", "QANN (%)", "paper, ImageNet ResNet-50 (%)"]
    notes = [
        "The first two rows are read after the last charge step. Cap and pre-charge are on in all.",
        "How much is lost without negative spikes grows with depth and shrinks with width: compare rows, not columns.",
    ]
    return Findings(head, rows, notes=notes)


def figure1(shelf: Shelf) -> Findings:
    """Return accuracy against latency, with published points."""
    conversion, latency = f"{SOURCE}, table 3", "latency, time steps (1 ms each)"
    published = [(row.data, row.method, row.steps, row.snn, conversion) for row in TABLE_3]
    published += [(row.data, f"{row.method}, trained directly", row.steps, row.snn, row.source) for row in DIRECT]
    panels = [Panel(data, latency, PERCENT, [], log=True) for data in ("CIFAR-10", "ImageNet")]
    for panel in panels:
        rows_of_panel = [row for row in published if row[0] == panel.title]
        for method, source in dict.fromkeys((row[1], row[4]) for row in rows_of_panel):
            points = [(steps, snn) for _, each, steps, snn, _ in rows_of_panel if each == method]
            panel.series.append(
                Series(method, [x for x, _ in points], [y for _, y in points], "points", published=source)
            )
    networks = shelf.networks(Variant(2, "analog"), Variant(2, 3))
    model, data = networks[0].recipe.model, _data(networks[0])
    measured = [_curve(each, f"qffs, {model}, 2 bit, output {_output(each)}", each.charge_steps) for each in networks]
    same_data = [panel for panel in panels if data.removesuffix(" (JPEG)").lower() == panel.title.lower()]
    if same_data:
        same_data[0].series.extend(measured)
    else:
        panels.insert(0, Panel(data, latency, PERCENT, measured, log=True))
    rows: list[list[Cell]] = [
        [panel.title, each.name, float(y), int(x), each.published or "here"]
        for panel in panels
        for each in panel.series
        for x, y in zip(each.x, each.y, strict=True)
        if each.published or x in {each.x[0], each.x[-1]} or math.log2(x).is_integer()
    ]
    head = ["data", "method", "SNN (%)", "steps", "from"]
    return Findings(
        head, rows, panels, ["Points are published, as their authors or the paper say; lines were measured here."]
    )


def figure3(shelf: Shelf) -> Findings:
    """Return accuracy without negative spikes, the remedy of occasional noise, at each number of bits."""
    rows: list[list[Cell]] = []
    for bits, trained in zip(BITS, shelf.networks(*(Variant(bits, bits) for bits in BITS)), strict=True):
        bare = shelf.accuracy(trained, without(trained.spiking(), NEGATIVE_SPIKES), trained.charge_steps)
        rows.append([bits, _percent(trained.qann), _percent(bare[-1]), trained.charge_steps])
    columns = [[float(row[index] or 0) for row in rows] for index in (1, 2)]
    series = [
        Series("QANN", list(BITS), columns[0]),
        Series("SNN without negative spikes, T = 2^b - 1", list(BITS), columns[1]),
    ]
    panel = Panel("Occasional noise", "bits b in all layers", PERCENT, series)
    return Findings(["bits", "QANN (%)", "SNN (%)", "steps"], rows, [panel])


def figure4(_: Shelf) -> Findings:
    """Return the responses of neuron and quantizer (2 bits, step size 1) to a constant input over 3 steps."""
    x = torch.linspace(-0.5, 4.5, 501, dtype=torch.float64)
    quantizer = Quantizer(3, OFFSET).double()
    quantizer.set_step_size(1.0)
    bare, precharged = (
        Neuron.from_quantizer(quantizer, FiringRule(precharge=precharge)).double() for precharge in (0.0, None)
    )
    clipped = x.clamp(0, 3)
    responses = [
        ("A: neuron, at most 3 spikes", _response(bare, x)),
        ("B: neuron, pre-charged", _response(precharged, x)),
        ("C: quantizer", quantizer(x).detach()),
    ]
    panels = [
        Panel(name, "input", "output", [_drawn(name[3:], x, y), _drawn("clipped ReLU", x, clipped)])
        for name, y in responses
    ]
    for letter, (name, y) in zip("DEF", responses, strict=True):
        error = [_drawn(f"{name[3:]} - clipped ReLU", x, y - clipped)]
        panels.append(Panel(f"{letter}: error of {name[0]}", "input", "error", error))
    equal = bool((responses[1][1] == responses[2][1]).all())
    rows: list[list[Cell]] = [
        [name, float((y - clipped).min()), float((y - clipped).max()), float((y - clipped).abs().mean())]
        for name, y in responses
    ]
    head = ["response", "smallest error", "largest error", "mean error, absolute"]
    notes = [
        f"The pre-charged neuron and the quantizer are {'equal' if equal else 'not equal'} at all {len(x)} inputs."
    ]
    return Findings(head, rows, panels, notes)


def _response(neuron: Neuron, x: torch.Tensor) -> torch.Tensor:
    """Return the sum of the spikes of settled neurons, times θ, for inputs that are charged over three steps."""
    spikes, _ = neuron(neuron.rest(torch.zeros_like(x)), x, None, (1 / 3, 1 / 3, 1 / 3, 0.0, 0.0, 0.0))
    total: torch.Tensor = spikes.sum(0) * neuron.threshold
    return total


def figure5(shelf: Shelf) -> Findings:
    """Return the loss of accuracy in conversion against time steps."""
    series: list[Series] = []
    rows: list[list[Cell]] = []
    for bits, trained in zip((2, 3), shelf.networks(Variant(2, "analog"), Variant(3, "analog")), strict=True):
        loss = [_percent(trained.qann - value) for value in trained.curve]
        steps = list(range(trained.charge_steps, len(loss) + 1))
        series.append(Series(f"{bits} bit, analog output", list(steps), [loss[t - 1] for t in steps]))
        rows.append([bits, trained.charge_steps, trained.settled(), loss[-1], len(loss)])
    panel = Panel("Loss of conversion", STEPS, "QANN - SNN (points)", series, log=True, bits=True)
    return Findings(["bits", "charge steps", "steps to within 0.1 points", "loss at the end", "steps"], rows, [panel])


def figure6(shelf: Shelf) -> Findings:
    """Return accuracy against time steps for each number of bits in all layers."""
    return _sweep(shelf, "Bits in all layers", {f"all layers {bits} bit": Variant(bits, bits) for bits in BITS})


def figure7(shelf: Shelf) -> Findings:
    """Return accuracy against time steps for each number of bits in hidden layers, with analog output."""
    variants = {f"hidden {bits} bit, output analog": Variant(bits, "analog") for bits in BITS}
    return _sweep(shelf, "Bits in hidden layers", variants)


def figure8(shelf: Shelf) -> Findings:
    """Return accuracy against time steps for each number of bits in the output layer."""
    variants = {f"hidden 2 bit, output {bits} bit": Variant(2, bits) for bits in BITS}
    return _sweep(shelf, "Bits in the output layer", variants)


def figure9(shelf: Shelf) -> Findings:
    """Return the rows and panels of figures 6, 7 and 8."""
    parts = [figure6(shelf), figure7(shelf), figure8(shelf)]
    rows = [row for part in parts for row in part.rows]
    return Findings(parts[0].head, rows, [panel for part in parts for panel in part.panels])


def _sweep(shelf: Shelf, title: str, variants: dict[str, Variant]) -> Findings:
    networks = dict(zip(variants, shelf.networks(*variants.values()), strict=True))
    rows: list[list[Cell]] = [
        [name, _percent(each.qann), each.charge_steps, each.settled(), _percent(each.curve[-1]), len(each.curve)]
        for name, each in networks.items()
    ]
    head = ["network", "QANN (%)", "charge steps", "steps to within 0.1 points", "SNN at the end (%)", "steps"]
    curves = [_curve(each, name) for name, each in networks.items()]
    return Findings(head, rows, [Panel(title, STEPS, PERCENT, curves, log=True)])


def _curve(trained: Trained, name: str, first: int = 1) -> Series:
    values = [_percent(value) for value in trained.curve]
    return Series(name, list(range(first, len(values) + 1)), values[first - 1 :])


def _drawn(name: str, x: torch.Tensor, y: torch.Tensor) -> Series:
    return Series(name, x.tolist(), y.tolist(), "steps")


def _percent(share: float) -> float:
    return round(100 * share, 4)


def _output(trained: Trained) -> str:
    output = trained.recipe.output
    return output if isinstance(output, str) else f"{output} bit"


def _data(trained: Trained) -> str:
    return str(trained.results["data"])


ITEMS = {
    item.name: item
    for item in (
        Item(
            "table3",
            "Accuracy before and after conversion",
            table3,
            "QFFS has its QANN's accuracy after 4 to 10 steps, other conversions need more.",
        ),
        Item(
            "table4",
            "Ablation",
            table4,
            "bare conversion is at chance; negative spikes with time to settle bring almost all back.",
        ),
        Item("fig1", "Accuracy against latency", figure1, "conversion becomes as fast as direct training."),
        Item(
            "fig3",
            "Occasional noise",
            figure3,
            "at 1 bit the SNN equals its QANN, from 2 bits on it is far below (ImageNet, VGG-16).",
        ),
        Item(
            "fig4",
            "Response of neuron and quantizer",
            figure4,
            "cap and pre-charge make the neuron's response the quantizer's.",
        ),
        Item(
            "fig5",
            "Loss of conversion against time steps",
            figure5,
            "no loss from 13 steps on, about 4 bits; other methods need 500 steps, 9 bits (ImageNet).",
        ),
        Item(
            "fig6",
            "Bits in all layers",
            figure6,
            "more bits give more accuracy and take more steps, about 7 at 2 bits (ImageNet, ResNet-50).",
        ),
        Item(
            "fig7",
            "Bits in hidden layers",
            figure7,
            "an analog output gains 4 points over one of 2 bits: 72.91 % after 5 steps with 2 bits, 74.36 % after 10 "
            "with 3 (ImageNet, ResNet-50).",
        ),
        Item(
            "fig8",
            "Bits in the output layer",
            figure8,
            "3 bits gain 1.49 points over 2 for one step more, 4 bits take twice the steps of 3 (ImageNet, ResNet-50).",
        ),
        Item("fig9", "Bits in all, in hidden and in output layers", figure9, "the same on VGG-16 (ImageNet)."),
    )
}
