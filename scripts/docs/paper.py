"""Writes docs/paper.md from results/paper/*.json, and takes tables and figures in that `qffs paper` made.

python scripts/docs/paper.py add runs/paper table4 fig6   # results/paper/*.json, docs/paper/*.png, and the page
python scripts/docs/paper.py                              # the page alone
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT, PICTURES = ROOT / "results" / "paper", ROOT / "docs" / "paper"
ORDER = ("table3", "table4", "fig1", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9")

HEAD = """# The paper's tables and figures

Every table and figure of Li, Ma and Furber, "Quantization Framework for Fast Spiking Neural Networks" (2022), that
shows a measurement, made again by one command each from networks trained here. This page is written by
`python scripts/docs/paper.py` from `results/paper/*.json`, which `qffs paper` wrote.

What differs from the paper in all of them: the networks and data are smaller and training is shorter (a few epochs
instead of 40, as the commands say), because they were trained on two cores of a CPU, so that accuracies are lower and
steps fewer; CIFAR-10 is re-encoded as JPEG; a negative spike needs a potential below 0, not at 0, and quantizer and
pre-charge share an offset of 1/2 + 0.0001 ([why](../README.md#why-it-is-exact)). What is to be compared is the shape of
each result, not its height. `qffs paper ITEM RECIPE` makes each from any recipe, at full length too; `--jobs N` trains
N networks at once.
"""

HERE = {
    "table3": """the SNN has its QANN's accuracy after 7 steps with 2 bits and 11 with 3, and passes it by a point or
so on the way.""",
    "table4": """the story is there, and grows with the depth, because the errors of one layer are the next one's input.
Without negative spikes this SNN with 14 layers of neurons is 10 points below its QANN, not at chance; with 2 bits in
all layers, a ResNet-20 with 20 layers keeps 56.2 of 77.7 % (figure 3), and a ResNet-56 with 56 layers 28.4 of 77.8 %,
after 16 steps, of 500 images (`qffs train cifar10_resnet20 model=cifar_resnet56
data=cifar10:../shared/data/cifar10-jpeg.zip weights=../shared/data/cifar10_resnet56.safetensors bits=2 output=2
full_precision.epochs=0 full_precision.warmup_epochs=0 quantized.epochs=1 quantized.learning_rate=0.02
quantized.ema=0.99 quantized.distillation=0 quantized.temperature=1 candidates=[] choose_at=null held_out=0
charge_steps=null steps=16 test_images=2000 -o runs/cifar10_resnet56`, then `qffs noise runs/cifar10_resnet56/snn
--data cifar10:../shared/data/cifar10-jpeg.zip --images 500 --steps 16`). There negative spikes need their time too:
read after 3 steps it has 40.0 %, after 16 all 77.8 %.""",
    "fig1": "ours, after one epoch with quantized activations, end lower than what is published, and as early.",
    "fig3": """the same, from 2 bits on some 20 points below. At 1 bit 2 of 2,000 images differ, because sums are
rounded otherwise once batch norm is folded.""",
    "fig4": "the same.",
    "fig5": "no loss from 7 steps on with 2 bits, from 11 with 3.",
    "fig6": "the same: 7 steps at 2 bits.",
    "fig7": "the same: 3.5 points more than with 2 bits in all layers, which take as many steps here.",
    "fig8": "the same for 3 bits, 2.3 points for no step more; 4 and 5 bits gain a point, and take 2 and 5 steps more.",
    "fig9": """the same: an analog output gains 2 points; one of 3 bits gains 1.8 for 2 steps more, and one of 4 bits
another point for another 2.""",
}
"""What was found here beside it: how it differs, and why."""


def add(folder: Path, names: list[str]) -> None:
    """Take what `qffs paper` wrote to a folder into the repository."""
    for path in (KEPT, PICTURES):
        path.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(folder / f"{name}.json", KEPT / f"{name}.json")
        if (folder / f"{name}.png").exists():
            shutil.copy(folder / f"{name}.png", PICTURES / f"{name}.png")


def kept() -> list[dict[str, Any]]:
    """What was made, in the order of the paper."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in KEPT.glob("*.json")}
    return [found[name] for name in ORDER if name in found]


def page(items: list[dict[str, Any]]) -> str:
    """The whole page."""
    missing = [name for name in ORDER if name not in {item["item"] for item in items}]
    told = f"\nNot made yet: {', '.join(missing)}.\n" if missing else ""
    return "\n".join([HEAD + told, *(section(item) for item in items)])


def section(item: dict[str, Any]) -> str:
    """One table or figure: what the paper found, what was found here, how."""
    run, results = item["run"], item["recipe"]
    number = item["item"].replace("table", "Table ").replace("fig", "Figure ")
    parts = [f"## {number}: {item['title']}\n", f"Paper: {item['paper']}  \nHere: {HERE[item['item']]}\n"]
    if item["panels"]:
        parts.append(f"![{item['title']}](paper/{item['item']}.png)\n")
    if item["rows"]:
        parts += [table(item["head"], item["rows"]), ""]
    parts += [f"{note}\n" for note in item["notes"]]
    where = f"{results['model']}, {run['device']}, {run['threads']} threads, commit {run['commit']}"
    seconds = run["training_seconds"]
    taken = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    trained = f"; its networks took {taken} to train and measure" if seconds else ""
    parts.append(f"`{run['command']}`  \n{where}{trained}.\n")
    return "\n".join(parts)


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
        add(Path(sys.argv[2]), sys.argv[3:])
    (ROOT / "docs" / "paper.md").write_text(page(kept()), encoding="utf-8")
