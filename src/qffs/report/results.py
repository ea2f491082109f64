"""Measurements and plans as plain data: the parts of results.json; and what to say about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qffs.files import Results

if TYPE_CHECKING:  # importing them would load the code of all measurements
    from qffs.graph.plan import Plan
    from qffs.measurement.accuracy import Measurement
    from qffs.measurement.activity import Activity
    from qffs.measurement.energy import Cost
    from qffs.measurement.noise import Noise


LOST = 0.03
"""The accuracy that a quantized network may lose; where it loses more, there is advice."""


def by_step(measured: Measurement) -> list[Results]:
    """Return one entry per step: ``steps``, ``accuracy``, ``spikes_per_image``, and ``agreement`` if measured."""
    rows: list[Results] = []
    for index, spikes in enumerate(measured.spikes_per_image):
        row: Results = {"steps": index + 1, "accuracy": measured.accuracy[index], "spikes_per_image": spikes}
        if measured.agreement is not None:
            row["agreement"] = measured.agreement[index]
        rows.append(row)
    return rows


def by_layer(activity: Sequence[Activity]) -> list[Results]:
    """Return one entry per layer of neurons: ``positive`` and ``negative`` spikes by step, summed over all images."""
    return [
        {"layer": layer.layer, "positive": list(layer.positive), "negative": list(layer.negative)} for layer in activity
    ]


def of_noise(noise: Noise) -> Results:
    """Return ``steps``, ``qann``, ``remedies``, and ``noise`` with one entry per layer."""
    return {
        "steps": noise.steps,
        "qann": {"accuracy": noise.qann_accuracy},
        "remedies": [dataclasses.asdict(each) for each in noise.remedies],
        "noise": [dataclasses.asdict(each) for each in noise.layers],
    }


def of_cost(cost: Cost) -> Results:
    """Return spikes, operations, energy and sent bits per image; ``synapses`` by operator; ``layers`` by layer."""
    positive, negative = cost.spikes
    return {
        "steps": len(cost.activity[0].positive),
        "charge_steps": cost.charge_steps,
        "spikes": {"positive": positive, "negative": negative},
        "operations": cost.operations,
        "energy_pj": cost.energy_pj,
        "constants": dataclasses.asdict(cost.energy),
        "bits_sent": cost.bits_sent,
        "synapses": [dataclasses.asdict(each) for each in cost.synapses],
        "units": [dataclasses.asdict(each) for each in cost.units],
        "layers": by_layer(cost.activity),
        "uncounted": list(cost.uncounted),
    }


def plan_rows(plan: Plan) -> list[Results]:
    """Return one entry per operator, with the fields of its row in the plan."""
    return [dataclasses.asdict(row) for row in plan.rows]


def advice_on_training(results: Results) -> str:
    """Return a sentence on a quantized network that loses more than `LOST` of the accuracy; else an empty text.

    >>> advice_on_training({"full_precision": {"accuracy": 0.9}, "qann": {"accuracy": 0.85}})
    'the quantized network loses 5.0 points: train it for more epochs (quantized.epochs)'
    """
    lost = loss_of(results["full_precision"]["accuracy"], results["qann"]["accuracy"])
    step = "train it for more epochs (quantized.epochs)"
    return f"the quantized network loses {100 * lost:.1f} points: {step}" if lost else ""


def loss_of(before: float, after: float) -> float:
    """Return how much accuracy is lost, from 0 to 1; 0 where it is no more than `LOST`, but for rounding."""
    return before - after if before - after > LOST + 1e-9 else 0.0
