"""A comparison of methods, each on the same network, data and epochs of training."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from qffs.errors import Diverged, InvalidArgument
from qffs.files import Results, to_json, write, write_text
from qffs.method import MAX_STEPS
from qffs.recipes.recipe import Recipe
from qffs.report.plots import draw
from qffs.runs.folder import reserved
from qffs.runs.inputs import device_of
from qffs.runs.outputs import check_set
from qffs.runs.provenance import command, provenance
from qffs.studies.compare_cache import seconds_of
from qffs.studies.compare_findings import findings, title
from qffs.studies.compare_seed import SeedComparison, left_out
from qffs.studies.methods import METHODS, Activation, Method
from qffs.studies.methods.quantized import BITS, HIGHEST
from qffs.train.state import Interruption

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)


def compare(
    recipe: Recipe,
    folder: Path,
    methods: Sequence[str] = (),
    steps: Sequence[int] = STEPS,
    *,
    seeds: int = 1,
    progress: bool = True,
) -> Results:
    """Compare methods of `qffs.studies.methods.METHODS`, by default all, on the network and data of a recipe.

    The network is trained once in full precision, as the recipe says. From there a copy with the activations of each
    method is trained for the recipe's quantized epochs; methods that share activations share the copy. steps: the
    latencies T that are measured; steps before a read-out count too. seeds: how many times the comparison is repeated,
    with the recipe's seed and those after it. Writes ``compare.json``, ``compare.png`` and ``compare.svg`` to the
    folder, and returns the results with their table and panels. A comparison that was stopped continues with the same
    arguments and repeats no measurement. No image is held out, because nothing is chosen.

    Raises `InvalidArgument` if there is no such method, if a latency or the number of seeds is no whole number of at
    least 1, if the recipe has bits or outputs that methods are not compared with, or if a library that a method needs
    is not installed; `NotConvertible` if a method cannot train the network. If no method was named, these methods are
    left out instead. A method whose training diverges is always left out.
    """
    compared, latencies = _methods(methods), _latencies(steps)
    _check(recipe, folder, seeds)
    written = check_set(folder / "compare.json", "qffs compare", b"methods", b"latencies")
    with reserved(folder, command(sys.argv), written=written):
        return _compare(recipe, folder, methods, compared, latencies, seeds=seeds, progress=progress)


def _compare(
    recipe: Recipe,
    folder: Path,
    named: Sequence[str],
    compared: Sequence[Method],
    latencies: list[int],
    *,
    seeds: int,
    progress: bool,
) -> Results:
    """Compare methods as `compare` does, with checked arguments; named: the names that the user gave."""
    recipe = recipe.model_copy(update={"held_out": 0.0, "candidates": [], "choose_at": None})
    start, interruption = time.monotonic(), Interruption("; the same command continues")
    results: Results = {}
    excluded: list[Results] = []
    by_seed: list[list[Results]] = []
    reused: list[Results] = []
    with interruption.watching(), ExitStack() as threads:
        for seed in range(recipe.seed, recipe.seed + seeds):
            comparison = SeedComparison(
                recipe, seed, folder, latencies=latencies, interruption=interruption, progress=progress
            )
            if not results:
                excluded = comparison.unusable(compared, named=bool(named))
                results = comparison.about | {"full_precision": {"by_seed": []}}
                threads.enter_context(comparison.inputs.threads(recipe.full_precision, recipe.quantized))
            results["full_precision"]["by_seed"].append(comparison.trained())
            by_seed.append(list(_rows(comparison, compared, excluded)))
            reused += comparison.cache.reused_rows
        run = provenance(device_of(recipe.device), time.monotonic() - start + seconds_of(reused))
    results["seeds"] = list(range(recipe.seed, recipe.seed + seeds))
    results["full_precision"]["accuracy"] = statistics.fmean(results["full_precision"]["by_seed"])
    results["left_out"] = excluded
    results["methods"] = list(_mean_rows(by_seed, {each["method"] for each in excluded}))
    results["run"] = run
    return results | _write(results, folder)


def _rows(comparison: SeedComparison, methods: Sequence[Method], excluded: list[Results]) -> Iterator[Results]:
    """Yield the row of each method with one seed; add methods whose training diverges to ``excluded``."""
    for activation, group in _by_activation(methods):
        usable = [method for method in group if method.name not in {each["method"] for each in excluded}]
        try:
            yield from comparison.rows(activation, usable)
        except Diverged as error:
            excluded += [left_out(method, error) for method in usable]


def _write(results: Results, folder: Path) -> Results:
    """Write the results and their panels to the folder, and return the table and the panels as plain data."""
    measured = findings(results)
    for suffix in ("png", "svg"):  # figures are never beside the results of another comparison
        (folder / f"compare.{suffix}").unlink(missing_ok=True)
    write_text(folder / "compare.json", to_json(results))
    for suffix in ("png", "svg"):
        write(folder / f"compare.{suffix}", lambda path: draw(measured, title(results), path))
    return dataclasses.asdict(measured)


def _check(recipe: Recipe, folder: Path, seeds: int) -> None:
    """Raise `InvalidArgument` if a recipe sets a value that methods decide, or if the folder is a file."""
    differs = {
        "bits": recipe.bits != BITS,
        "output": recipe.output != "analog",
        "per_channel": recipe.per_channel,
        "charge_steps": recipe.charge_steps is not None,
    }
    if keys := [key for key, different in differs.items() if different]:
        raise InvalidArgument(
            f"methods are compared with {BITS} bits if they quantize, one step size per layer, an analog output and "
            f"{HIGHEST} charge steps: leave out {', '.join(keys)}"
        )
    if not isinstance(seeds, int) or seeds < 1:
        raise InvalidArgument(f"the number of seeds must be a whole number of at least 1, not {seeds!r}")
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file, where a folder is to be written: name another output")


def _methods(names: Sequence[str]) -> list[Method]:
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InvalidArgument(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names or METHODS)]


def _latencies(steps: Sequence[int]) -> list[int]:
    if not steps or not all(isinstance(step, int) and 1 <= step <= MAX_STEPS for step in steps):
        raise InvalidArgument(
            f"latencies must be whole numbers of at least 1, at most {MAX_STEPS:,}, not {list(steps)}"
        )
    return sorted(set(steps))


def _by_activation(methods: Sequence[Method]) -> Iterator[tuple[Activation, list[Method]]]:
    for activation in {method.activation.name: method.activation for method in methods}.values():
        yield activation, [method for method in methods if method.activation.name == activation.name]


def _mean_rows(by_seed: Sequence[Sequence[Results]], excluded: set[str]) -> Iterator[Results]:
    """Yield one row per method over all seeds, in the order of `METHODS`, without the excluded methods."""
    for name in METHODS:
        rows = [row for seed in by_seed for row in seed if row["method"] == name]
        if rows and name not in excluded:
            yield _mean_row(rows)


def _mean_row(rows: Sequence[Results]) -> Results:
    """Return the row of a method over all seeds: means, and standard deviations if there are several seeds."""

    def spread(values: Sequence[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    points = []
    for of_seeds in zip(*(row["by_latency"] for row in rows), strict=True):
        means = {key: statistics.fmean(point[key] for point in of_seeds) for key in ("accuracy", "spikes", "energy_pj")}
        deviation = spread([point["accuracy"] for point in of_seeds])
        points.append({"latency": of_seeds[0]["latency"], **means, "spread": deviation})
    trained = [row["trained_accuracy"] for row in rows]
    return {
        **{key: rows[0][key] for key in ("method", "title", "source", "notes", "activation")},
        "trained_accuracy": statistics.fmean(trained),
        "trained_spread": spread(trained),
        **{key: sum(row[key] for row in rows) for key in ("training_seconds", "seconds")},
        "by_latency": points,
        "by_seed": list(rows) if len(rows) > 1 else [],
    }
