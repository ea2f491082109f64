"""Measure the time of a simulation in this source tree over that in another one, such as the commit before a change.

    git worktree add ../before COMMIT
    python benchmarks/trees.py ../before runs/cifar10_resnet20/qann --data cifar10:PATH --json trees.json

Each tree runs in a process of its own, with the same checkpoint and the same images. The processes take turns: one run
of the other tree, one of this one, then one of this tree and one of the other, so that whatever else the machine does
meets both. A ratio is the time of this tree over that of the other in the same turn; the median over the turns is
printed, with the quartiles. The outputs of both are compared. Without a checkpoint the other tree could read, write it
with the other tree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from machine import processor
from rich.console import Console
from rich.table import Table

THIS, OTHER = "this tree", "the other tree"


class Runner:
    """A process that loads a network with the package of one source tree, and runs it when it is asked to."""

    def __init__(self, tree: Path, qann: str, images: Path, steps: int, backend: str | None) -> None:
        command = [sys.executable, __file__, "--runner", str(tree / "src"), qann, str(images), str(steps)]
        environment = os.environ | {"PYTHONPATH": str(tree / "src")}
        self._process = subprocess.Popen(
            [*command, *([backend] if backend else [])],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, question: str) -> Any:
        """Return the answer to a question: the seconds of one "run", or the "output" as a nested list."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a process ended early; what it wrote stands above")
        return json.loads(answer)


def run(source: str, qann: str, images: str, steps: str, backend: str | None = None) -> None:
    """Answer questions on standard input, as a process of `Runner`."""
    import qffs

    assert Path(qffs.__path__[0]).is_relative_to(Path(source).resolve()), f"{qffs.__path__[0]} is not in {source}"
    snn = qffs.to_spiking(qffs.load(qann, "qann").network).to(memory_format=torch.channels_last)
    call = getattr(snn, "readout", snn)  # what the fast simulation was called before it had one name
    x, options = torch.load(images), {} if backend is None else {"backend": backend}
    with torch.no_grad():
        for question in sys.stdin:
            start = time.perf_counter()
            output = call(x, steps=int(steps), **options)
            seconds = time.perf_counter() - start
            print(json.dumps(seconds if question.strip() == "run" else output.tolist()), flush=True)


def measured(runners: dict[str, Runner], turns: int) -> dict[str, Any]:
    """Return the seconds of both trees in each turn, their ratios, and whether their outputs are equal."""
    outputs = [runner.ask("output") for runner in runners.values()]
    for runner in runners.values():
        runner.ask("run")  # not counted
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(turns):
        for name in list(runners)[:: 1 if turn % 2 else -1]:
            seconds[name].append(runners[name].ask("run"))
    ratios = [this / other for this, other in zip(seconds[THIS], seconds[OTHER], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4) if turns > 1 else ratios * 3
    return {
        "seconds": seconds,
        "ratio": {"median": median, "quartiles": [low, high]},
        "equal": outputs[0] == outputs[1],
    }


def main() -> None:
    from qffs.data import load
    from qffs.progress import track

    parser = argparse.ArgumentParser(description="Time of a simulation in this tree over that in another tree.")
    parser.add_argument("other", type=Path, help="the other source tree, with src/qffs in it")
    parser.add_argument("qann", nargs="+", help="folders of quantized networks")
    parser.add_argument("--data", required=True, help="the data of the networks, as for qffs simulate")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--backend", help="the back end of both; by default what each chooses")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    arguments = parser.parse_args()
    trees = {THIS: Path(__file__).resolve().parents[1], OTHER: arguments.other.resolve()}
    if not (trees[OTHER] / "src" / "qffs").is_dir():
        parser.error(f"there is no src/qffs in {arguments.other}")
    data, results = load(arguments.data, None, in_memory_gib=0), []
    cases = [(qann, batch, steps) for qann in arguments.qann for batch in arguments.batch for steps in arguments.steps]
    with tempfile.TemporaryDirectory() as folder, track("comparisons", len(cases), "cases") as bar:
        for qann, batch, steps in cases:
            x = data.normalize(data.test.read(torch.linspace(0, len(data.test) - 1, batch).long()))
            images = Path(folder) / "images.pt"
            torch.save(x.contiguous(memory_format=torch.channels_last), images)
            with ExitStack() as stack:
                runners = {
                    name: stack.enter_context(Runner(tree, qann, images, steps, arguments.backend))
                    for name, tree in trees.items()
                }
                case = measured(runners, arguments.turns)
            results.append({"network": qann, "images": batch, "steps": steps, **case})
            bar.advance(1, note=f"{qann}, T = {steps}")
    table = Table(title=f"{arguments.turns} turns, {processor()}, torch {torch.__version__}")
    for heading in ("network", "images", "T", "ms", "over the other tree", "quartiles", "outputs"):
        table.add_column(heading)
    for each in results:
        low, high = each["ratio"]["quartiles"]
        milliseconds = f"{1e3 * statistics.median(each['seconds'][THIS]):.1f}"
        equal = "equal" if each["equal"] else "differ"
        row = (str(each["images"]), str(each["steps"]), milliseconds, f"{each['ratio']['median']:.3f}")
        table.add_row(each["network"], *row, f"{low:.3f} to {high:.3f}", equal)
    Console(width=150).print(table)
    if arguments.json:
        about = {"command": " ".join(["python", *sys.argv]), "device": processor(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps(about | {"comparisons": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runner"]:
        run(*sys.argv[2:])
    else:
        main()
