"""Results as plain data, and files that are complete or not there."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qffs.errors import QffsError
from qffs.graph.plan import Plan
from qffs.measure import Activity, Cost, Measurement, Noise

Results = dict[str, Any]


def by_step(measured: Measurement) -> list[Results]:
    """One entry a step: ``steps``, ``accuracy``, ``spikes_per_image``, and ``agreement`` where it was measured."""
    rows: list[Results] = []
    for index, spikes in enumerate(measured.spikes_per_image):
        row: Results = {"steps": index + 1, "accuracy": measured.accuracy[index], "spikes_per_image": spikes}
        if measured.agreement is not None:
            row["agreement"] = measured.agreement[index]
        rows.append(row)
    return rows


def by_layer(activity: Sequence[Activity]) -> list[Results]:
    """One entry a layer of neurons: its ``positive`` and ``negative`` spikes by step, summed over all images."""
    return [
        {"layer": layer.layer, "positive": list(layer.positive), "negative": list(layer.negative)} for layer in activity
    ]


def of_noise(found: Noise) -> Results:
    """``steps``, ``qann``, ``remedies`` and, by layer, ``noise``."""
    return {
        "steps": found.steps,
        "qann": {"accuracy": found.qann_accuracy},
        "remedies": [dataclasses.asdict(each) for each in found.remedies],
        "noise": [dataclasses.asdict(each) for each in found.layers],
    }


def of_cost(found: Cost) -> Results:
    """All of an image: spikes, operations, energy and bits sent; by operator, ``synapses``; by layer, ``layers``."""
    positive, negative = found.spikes
    return {
        "steps": len(found.activity[0].positive),
        "charge_steps": found.charge_steps,
        "spikes": {"positive": positive, "negative": negative},
        "operations": found.operations,
        "energy_pj": found.energy_pj,
        "constants": dataclasses.asdict(found.energy),
        "bits_sent": found.bits_sent,
        "synapses": [dataclasses.asdict(each) for each in found.synapses],
        "units": [dataclasses.asdict(each) for each in found.units],
        "layers": by_layer(found.activity),
        "uncounted": list(found.uncounted),
    }


def plan_rows(plan: Plan) -> list[Results]:
    """One entry a call, with the fields of its row."""
    return [dataclasses.asdict(row) for row in plan.rows]


def to_json(results: Results | list[Results]) -> str:
    """The text of results.json: the same results give the same text."""
    return json.dumps(results, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> Path:
    """`write` a text file."""
    return write(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def write(path: Path, write_to: Callable[[Path], object]) -> Path:
    """Let ``write_to`` write a file beside ``path`` and put it in place whole; raises `QffsError` where it cannot."""
    fresh = path.with_name(f".{path.name}.new{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to(fresh)
        with fresh.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise QffsError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return path
