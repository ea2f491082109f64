"""Write docs/paper.md from results/paper/*.json, and add tables and figures that `qffs paper` made.

python scripts/docs/paper.py add runs/paper table4 fig6   # results/paper/*.json, docs/paper/*.png, and the page
python scripts/docs/paper.py                              # write the page only
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from markdown_table import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PICTURES = ROOT / "results" / "paper", ROOT / "docs" / "paper"
ORDER = ("table3", "table4", "fig1", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9")

HEAD = """# The paper's tables and figures

This page has every table and figure of Li, Ma and Furber, "Quantization Framework for Fast Spiking Neural Networks"
(2022), that shows a measurement. One command makes each of them again, from networks trained here. The page is written
by `python scripts/docs/paper.py` from `results/paper/*.json`, which `qffs paper` wrote. Older commands have the key
`quantised`, which is `quantized` today; both are read.

All of them differ from the paper in these points. The networks and data are smaller, and training is shorter (a few
epochs instead of 40, as the commands say), because the networks were trained on two cores of a CPU; so accuracies are
lower and steps fewer. CIFAR-10 is re-encoded as JPEG. A negative spike needs a potential below 0, not at 0. Quantizer
and pre-charge share an offset of 1/2 + 0.0001 ([why](../README.md#why-it-is-exact)). Compare the shape of each result,
not its height. `qffs paper ITEM RECIPE` makes each item from any recipe, also with full training; `--jobs N` trains N
networks at once.
"""

HERE = {
    "table3": """the SNN has its QANN's accuracy after 7 steps with 2 bits and 11 with 3, and before that is
about a point above it for some steps.""",
    "table4": """the same effect, which grows with depth, because the errors of one layer are the input of the next.
Without negative spikes this SNN with 14 layers of neurons is 10 points below its QANN, not at chance. With 2 bits in
all layers, a ResNet-20 with 20 layers has 56.2 instead of 77.7 % (figure 3), and a ResNet-56 with 56 layers 28.4
instead of 77.8 %, after 16 steps, on 500 images (`qffs train cifar10_resnet20 model=cifar_resnet56
data=cifar10:../shared/data/cifar10-jpeg.zip weights=../shared/data/cifar10_resnet56.safetensors bits=2 output=2
full_precision.epochs=0 full_precision.warmup_epochs=0 quantized.epochs=1 quantized.learning_rate=0.02
quantized.ema=0.99 quantized.distillation=0 quantized.temperature=1 candidates=[] choose_at=null held_out=0
charge_steps=null steps=16 test_images=2000 -o runs/cifar10_resnet56`, then `qffs noise runs/cifar10_resnet56/snn
--data cifar10:../shared/data/cifar10-jpeg.zip --images 500 --steps 16`). There negative spikes need
time too: the SNN has 40.0 % after 3 steps, and 77.8 % after 16.""",
    "fig1": "our networks, after one epoch with quantized activations, end lower than published ones, and as early.",
    "fig3": """the same; from 2 bits on the SNN is about 20 points below. At 1 bit, 2 of 2,000 images differ, because
sums are rounded differently after batch norm is folded.""",
    "fig4": "the same.",
    "fig5": "no loss from 7 steps on with 2 bits, from 11 with 3.",
    "fig6": "the same: 7 steps at 2 bits.",
    "fig7": "the same: 3.5 points more than with 2 bits in all layers, which take as many steps here.",
    "fig8": "the same for 3 bits, 2.3 points for no further step; 4 and 5 bits gain a point for 2 and 5 more steps.",
    "fig9": """the same: an analog output gains 2 points; one of 3 bits gains 1.8 for 2 further steps, and one of 4 bits
another point for another 2.""",
}
"""The results here beside the paper's: how they differ, and why."""


def add(folder: Path, names: list[str]) -> None:
    """Copy the results that `qffs paper` wrote to a folder into the repository."""
    for path in (RESULTS, PICTURES):
        path.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(folder / f"{name}.json", RESULTS / f"{name}.json")
        if (folder / f"{name}.png").exists():
            shutil.copy(folder / f"{name}.png", PICTURES / f"{name}.png")


def items() -> list[dict[str, Any]]:
    """Return the results of all tables and figures, in the order of the paper."""
    by_name = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    return [by_name[name] for name in ORDER if name in by_name]


def page(results: list[dict[str, Any]]) -> str:
    """Return the whole page, from the results of tables and figures."""
    missing = [name for name in ORDER if name not in {item["item"] for item in results}]
    note = f"\nNot made yet: {', '.join(missing)}.\n" if missing else ""
    return "\n".join([HEAD + note, *(section(item) for item in results)])


def section(item: dict[str, Any]) -> str:
    """Return the section of one table or figure: the paper's result, the result here, and the command."""
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
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    trained = f"; its networks took {duration} to train and measure" if seconds else ""
    parts.append(f"`{run['command']}`  \n{where}{trained}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv[2]), sys.argv[3:])
    (ROOT / "docs" / "paper.md").write_text(page(items()), encoding="utf-8")
