"""Add a trained network to the library from a finished run, and write docs/networks.md from the cards.

    python scripts/docs/networks.py add runs/digits digits-2bit    # the quantized network of a run, and write the page
    python scripts/docs/networks.py add runs/digits digits         # its network in full precision
    python scripts/docs/networks.py                                # write the page

What no run tells, such as the license, is in `ENTRIES`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from markdown_table import table
from torch import fx

from qffs.models import trained
from qffs.models.checkpoint import CONFIG, load, save
from qffs.models.weights import WEIGHTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "networks.md"

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COLORS = (
    "RGB images, 3 x 32 x 32, divided by 255, less (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225) by channel"
)


class Entry(NamedTuple):
    """What a card says and no run tells; ``full_precision``: the name of the network that was quantized."""

    title: str
    full_precision: str | None
    input: str
    classes: list[str]
    license: str
    copyright: str
    source: str


def digits(title: str, full_precision: str | None = None) -> Entry:
    """Return the entry of a network for the digits, which was trained here."""
    inputs, source = "images in gray, 1 x 8 x 8, values from 0 to 16 divided by 16", "trained from random weights"
    return Entry(title, full_precision, inputs, list("0123456789"), "Apache-2.0", "as qffs", source)


def resnet20(title: str, full_precision: str | None = "cifar10-resnet20") -> Entry:
    """Return the entry of a ResNet-20, or a deeper one, that began with the published weights."""
    holder = "Copyright (c) 2018 Yerlan Idelbayev"
    weights = "weights of akamaster/pytorch_resnet_cifar10 (He, Zhang, Ren, Sun 2016, shortcuts of option A)"
    return Entry(title, full_precision, COLORS, CLASSES, "BSD-2-Clause", holder, weights)


def resnet8(title: str, full_precision: str | None = "cifar10-resnet8") -> Entry:
    """Return the entry of a ResNet-8 that began with the weights of MLPerf Tiny."""
    weights = "weights of mlcommons/tiny, image classification (Banbury et al., MLPerf Tiny Benchmark, 2021)"
    return Entry(title, full_precision, COLORS, CLASSES, "Apache-2.0", "Copyright MLCommons", weights)


ENTRIES = {
    "digits": digits("network of two convolutions"),
    "digits-2bit": digits("network of two convolutions, 2 bits", "digits"),
    "cifar10-resnet20": resnet20("ResNet-20", None),
    "cifar10-resnet56": resnet20("ResNet-56", None),
    "cifar10-resnet20-2bit": resnet20("ResNet-20, 2 bits"),
    "cifar10-resnet20-3bit": resnet20("ResNet-20, 3 bits"),
    "cifar10-resnet20-2bit-output3": resnet20("ResNet-20, 2 bits, spiking output of 3 bits"),
    "cifar10-resnet8": resnet8("MLPerf Tiny's ResNet-8", None),
    "cifar10-resnet8-2bit": resnet8("MLPerf Tiny's ResNet-8, 2 bits"),
}

HEAD = """# Networks that come trained

These networks are part of the package. Each name can be given wherever a command or `qffs.load` takes a network:

```sh
qffs networks                                                      # list them
qffs networks cifar10-resnet20-2bit                                # the card of one
qffs simulate cifar10-resnet20-2bit --data cifar10:PATH            # measure it again
qffs export cifar10-resnet20-2bit --to onnx -o resnet20.onnx
qffs quantize cifar10-resnet20 --data cifar10:PATH bits=3 -o qann  # from a network in full precision
```

```python
import torch
import qffs

snn = qffs.load("digits-2bit").network  # the spiking network
qann = qffs.load("digits-2bit", kind="qann").network  # the quantized network from which it is converted
x = torch.rand(2, 1, 8, 8)
print(snn(x, steps=8)[-1].argmax(-1), qann(x).argmax(-1))
```

Where the current folder has a folder of that name, the name means that folder. When a network is loaded, its files are
checked against the SHA-256 hashes on its card. FP is the network in full precision, QANN the quantized one, and the
spiking network is read after T steps; all are shares of all test images in percent, which were read once, at the end of
the run that made the network. `equal` is the share that the spiking network classifies as the quantized one does. This
page is written by `python scripts/docs/networks.py` from the cards.
"""


def add(run: Path, name: str) -> None:
    """Copy the network of a finished run into the library under a name, with its card."""
    entry, folder = ENTRIES[name], trained.FOLDER / name
    kind = "float" if entry.full_precision is None else "qann"
    stored, text = load(run / kind), trained.FOLDER / f"{entry.license}.txt"
    notes = {"license": entry.license, "copyright": entry.copyright, "source": entry.source}
    notes |= {"license_text": text.read_text(encoding="utf-8")} if text.exists() else {}
    assert isinstance(stored.network, fx.GraphModule)
    shutil.rmtree(folder, ignore_errors=True)
    save(stored.network, folder, stored.about | notes)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    if kind == "float":
        results = {key: results[key] for key in ("model", "data", "images", "full_precision", "seed")}
    hashes = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in (CONFIG, WEIGHTS)}
    origin = json.loads((run / "run.json").read_text(encoding="utf-8"))
    card = {**entry._asdict(), "kind": kind, "sha256": hashes, "run": origin, "results": without_layers(results)}
    (folder / trained.CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def without_layers(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without what is long: the spikes by layer."""
    return {key: value for key, value in results.items() if key != "layers"}


def page(cards: dict[str, dict[str, Any]]) -> str:
    """Return the whole page."""
    head = ["name", "network", "data", "FP", "QANN", "T = 2", "T = 4", "T = 8", "equal at T = 8", "spikes per image"]
    return "\n".join([HEAD, table(head, [row(*each) for each in cards.items()]), "", *map(text, cards, cards.values())])


def row(name: str, card: dict[str, Any]) -> list[Any]:
    """Return the row of a network: its accuracies in percent."""
    results = card["results"]
    steps = {each["steps"]: each for each in results.get("snn", ())}
    full, qann = (100 * results[part]["accuracy"] if part in results else None for part in ("full_precision", "qann"))
    snn = [100 * steps[t]["accuracy"] if t in steps else None for t in (2, 4, 8)]
    equal = 100 * steps[8]["agreement"] if 8 in steps else None
    spikes = f"{steps[8]['spikes_per_image']:,.0f}" if 8 in steps else None
    return [f"`{name}`", card["title"], results["data"], full, qann, *snn, equal, spikes]


def text(name: str, card: dict[str, Any]) -> str:
    """Return the section of a network: what it takes, where it comes from, and how it was made."""
    run, results = card["run"], card["results"]
    lines = [f"{key}: {card[key]}" for key in ("input", "license", "copyright", "source")]
    lines.append(f"made by `{run['command']}`, seed {results['seed']}")
    lines.append(f"on {run['device']}, {run['seconds'] / 60:.1f} min, commit {run['commit']}")
    return "\n".join([f"## {name}\n", *(f"- {line}" for line in lines), ""])


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["add"]:
        add(Path(arguments[1]), arguments[2])
    PAGE.write_text(page({name: trained.card(name) for name in trained.names()}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
