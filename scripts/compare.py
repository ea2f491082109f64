"""Writes docs/compare.md from results/compare/*.json, and takes comparisons in that `qffs compare` made.

python scripts/compare.py add runs/compare digits   # results/compare/digits.json, docs/compare/digits.png, and the page
python scripts/compare.py                           # the page alone
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT, PICTURES, PAGE = ROOT / "results" / "compare", ROOT / "docs" / "compare", ROOT / "docs" / "compare.md"

HEAD = """# Methods, beside each other

`qffs compare RECIPE` runs every method of `qffs methods` on one network: the same weights to begin with, data, test
images and epochs of training for each, the same neurons and graph underneath. Latency counts every step that a
prediction needs, those of a first run too. An empty cell is a latency that a method does not have. "Its ANN" is the
network that a method trained, with its own activations, before it spikes; what a method must reach as T grows. Rate
codes need average pooling, and so the networks here have it (`model_arguments={pooling: average}`); where a network
pools the largest, all methods take the largest of counts.

This page is written by `python scripts/compare.py` from `results/compare/*.json`, which `qffs compare` wrote.
"""


def add(folder: Path, name: str) -> None:
    """Take what `qffs compare` wrote to a folder into the repository."""
    for path in (KEPT, PICTURES):
        path.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "compare.json", KEPT / f"{name}.json")
    shutil.copy(folder / "compare.png", PICTURES / f"{name}.png")


def kept() -> dict[str, dict[str, Any]]:
    """What was compared, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))}


def page(comparisons: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    from qffs.jobs.comparing import findings, title
    from qffs.paper.published import TABLE_3

    parts = [HEAD, methods()]
    for name, results in comparisons.items():
        found, run = findings(results), results["run"]
        parts.append(f"## {title(results)}\n\n![accuracy by latency and by spikes](compare/{name}.png)\n")
        full = f"Full precision: {100 * results['full_precision']['accuracy']:.2f} %."
        parts.append(f"{table(found.head, found.rows)}\n\n{full}\n")
        seconds = run["seconds"]
        taken = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        parts.append(
            f"`{run['command']}`  \n{run['device']}, {run['threads']} threads, commit {run['commit']}, {taken}.\n"
        )
    published = [[each.method, each.data, each.network, each.ann, each.snn, each.steps] for each in TABLE_3]
    head = ["method", "data", "network", "its ANN", "SNN", "steps"]
    parts.append(
        f"## Published\n\nWhat Li, Ma and Furber (2022) quote, not measured here:\n\n{table(head, published)}\n"
    )
    return "\n".join(parts)


def methods() -> str:
    """All methods, and what is otherwise here."""
    from qffs.baselines import METHODS

    rows = [[each.name, each.source, each.activation.name, each.says, each.notes] for each in METHODS.values()]
    return table(["method", "source", "trained with", "what it does", "otherwise here"], rows) + "\n"


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Rows as Markdown, numbers to the right."""
    marks = ["---" if isinstance(cell, str) else "---:" for cell in rows[0]]
    lines = [head, marks, *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: object) -> str:
    """A cell; numbers that are no whole ones with two decimals."""
    return "" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv[2]), sys.argv[3])
    PAGE.write_text(page(kept()), encoding="utf-8")
