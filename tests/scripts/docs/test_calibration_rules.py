"""The second part of docs/choosing.md says what results/calibration holds, and no test image is read for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from page_parts import with_part
from real.subject import Subject
from torch import nn

import qffs
from helpers import scripted
from qffs.data import Images
from qffs.errors import QffsError
from qffs.train.calibrate import METHODS


@pytest.fixture(scope="module")
def script() -> Any:
    return scripted.script("calibration_rules")


def test_the_part_of_the_page_is_that_of_the_results(script: Any) -> None:
    page, part = Path(script.PAGE).read_text(encoding="utf-8"), script.part(script.read())
    assert page == (with_part(page, part) if part else page)
    assert (script.HEAD.partition("\n")[0] in page) == bool(part)


def test_each_rule_predicts_the_images_that_did_not_calibrate(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    pixels = torch.randint(0, 256, (4 * script.BATCH, 3, 6, 6), dtype=torch.uint8)
    test = Images(pixels[:1], torch.zeros(1, dtype=torch.int64))
    subject = Subject(network, "any", pixels, test, lambda images: images.float() / 255)
    seen: list[int] = []
    real = qffs.calibrate

    def calibrate(qann: nn.Module, batches: Any, method: str) -> nn.Module:
        seen.append(sum(map(len, batches)))
        return real(qann, batches, method)

    monkeypatch.setattr(qffs, "calibrate", calibrate)
    rows = script.measured(subject)
    assert [(row["bits"], row["method"]) for row in rows] == [(bits, m) for bits in script.BITS for m in METHODS]
    assert set(seen) == {2 * script.BATCH}
    assert all(0 <= row["agreement"] <= 1 and row["error"] > 0 for row in rows)
    run = {"command": "it", "device": "a machine", "threads": 1, "commit": "abc"}
    text = script.part([{"network": "cat", "images": 128, "rows": rows, "run": run}])
    first = rows[0]
    assert f"| cat | 2 | {100 * first['agreement']:.1f} ({100 * first['error']:.1f}) |" in text
    assert "- **cat**: `it`, 128 images, a machine, 1 threads, commit abc" in text


def test_what_is_missing_is_skipped_and_detectors_are_refused(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: object) -> None:
        raise QffsError("there is no file net.safetensors")

    test = Images(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    detector = Subject(nn.Identity(), "any", torch.zeros(1), test, nn.Identity(), ("boxes",))
    monkeypatch.setattr(script, "RESULTS", tmp_path / "calibration")
    monkeypatch.setattr(script, "NETWORKS", {"gone": missing, "eye": lambda _: detector})
    script.main(["measure", "gone"])
    assert capsys.readouterr().err == "gone is skipped: there is no file net.safetensors\n"
    with pytest.raises(SystemExit):
        script.main(["measure", "eye"])
    assert "eye is a detector" in capsys.readouterr().err
    assert list((tmp_path / "calibration").iterdir()) == []
