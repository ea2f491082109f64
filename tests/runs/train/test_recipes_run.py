"""Every recipe runs from its first line to its results, on a few small pictures and a few steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from helpers.pictures import make_folder, picture
from helpers.slow import slow_but
from qffs.models import find as sources
from qffs.models import libraries
from qffs.recipes import names, read
from qffs.runs.train import train

CLASSES = 10
FEW = ["batch_size=10", "warmup_epochs=0", "learning_rate=1e-3"]
SHORT = [f"{stage}.{change}" for stage in ("full_precision", "quantized") for change in FEW]
SHORT += ["full_precision.epochs=8", "quantized.epochs=1"]  # fewer, and running statistics would still be far off
SHORT += ["weights=null", "teacher_weights=null", "workers=0", "steps=4", "device=cpu", "calibration_images=10"]
SMALL = [
    "size=32",
    "model_arguments.num_classes=10",
    "augmentation=[{RandomResizedCrop: {size: [32, 32]}}, {RandomHorizontalFlip: {p: 0.5}}]",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 32 x 32 pixels in ImageNet's layout, each class of its own brightness."""
    files = {
        f"{part}/n{label:08}/{number}.JPEG": picture((25 * label, number, 99), (32, 32), "JPEG")
        for part, count in (("train", 3), ("val", 1))
        for label in range(CLASSES)
        for number in range(count)
    }
    return make_folder(tmp_path_factory.mktemp("pictures"), files)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG with a quarter of its channels, and 16 units instead of 4,096: else a minute and 3 GB to write."""

    def find(*arguments: Any, **more: Any) -> sources.Source:
        source = whole(*arguments, **more)
        head = getattr(source.network, "classifier", None)
        if isinstance(head, nn.Sequential) and head[0].out_features == 4096:
            head[0], head[3], head[6] = nn.Linear(128 * 7 * 7, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)
        return source

    if importlib.util.find_spec("torchvision") is not None:
        vgg = libraries.vision("torchvision.models").vgg
        channels = [each if each == "M" else int(each) // 4 for each in vgg.cfgs["D"]]
        monkeypatch.setitem(vgg.cfgs, "D", channels)
    whole = sources.find
    monkeypatch.setattr(sources, "find", find)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", slow_but(names(), "digits"))
def test_a_recipe_runs(name: str, pictures: Path, tmp_path: Path) -> None:
    if name.startswith("imagenet") and importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    if name == "digits":
        changes = ["full_precision.batch_size=200"]
    elif name.startswith("cifar10"):
        changes = [f"data=cifar10:{pictures}", "held_out=0.1"] + ["model_arguments.width=4"] * ("resnet20" not in name)
    else:
        changes = [f"data=images:{pictures}", *SMALL]
        changes += ["model_arguments.width_per_group=8"] * ("resnet50" in name)  # an eighth of what is inside blocks
    results = train(read(name, [*SHORT, *changes]), tmp_path, progress=False)
    assert results["images"] == (449 if name == "digits" else CLASSES)
    assert [row["steps"] for row in results["snn"]] == [1, 2, 3, 4]
    assert [len(results[part]["epochs"]) for part in ("full_precision", "qann")] == [8, 1]
    assert results["verified"]["settled"] > 0
    assert len(results["charge_choices"]) == len(read(name).candidates)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
