"""The second part of docs/models.md says what results/real holds, and every network can be loaded."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from page_parts import with_part
from real import NETWORKS
from real.subject import Choice

from helpers import scripted
from qffs.errors import QffsError

RUN = {"command": "python it", "device": "a machine", "threads": 1, "seconds": 90, "commit": "abc"}
COUNTS = {"calibration_images": 512, "energy_images": 16, "verified_images": 4, "shape": [3, 8, 9]}
ABOUT = {"seed": 3, "precision": "float32", "run": RUN | {"versions": {"torch": "2"}}} | COUNTS
ENERGY = {"energy_pj": {"full precision": 8e6, "QANN": 4e6, "SNN": 2e6}}
OTHERS = [name for name in NETWORKS if name != "blazeface"]


@pytest.fixture(scope="module")
def script() -> Any:
    return scripted.script("real_networks")


def test_the_part_of_the_page_is_that_of_the_results(script: Any) -> None:
    page, part = script.PAGE.read_text(encoding="utf-8"), script.part(script.rows())
    assert page == (with_part(page, part) if part else page)
    assert ("# Networks with published weights\n" in page) == bool(part)
    assert {path.stem for path in script.RESULTS.glob("*.json")} <= set(NETWORKS)
    for row in script.rows():
        assert not str(row["run"]["commit"]).endswith("-dirty")


def test_each_script_replaces_its_own_part_of_the_page(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, page = scripted.script("models"), tmp_path / "models.md"
    heading = models.HEAD.partition("\n")[0]
    page.write_text(f"{heading}\n\nold\n", encoding="utf-8")
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "rows", list)
    script.main([])
    assert page.read_text(encoding="utf-8") == f"{heading}\n\nold\n"
    monkeypatch.setattr(script, "rows", lambda: [classifier("cat")])
    monkeypatch.setattr(script, "classifiers", lambda measurements: "a table")
    script.main([])
    assert page.read_text(encoding="utf-8").startswith(f"{heading}\n\nold\n\n{script.HEAD}")
    monkeypatch.setattr(models, "names", list)
    monkeypatch.setattr(models, "document", lambda rows: f"{heading}\n\nnew\n")
    models.main([], tmp_path / "models.jsonl", page)
    part = script.part([classifier("cat")])
    assert page.read_text(encoding="utf-8") == f"{heading}\n\nnew\n\n{part}"


def classifier(network: str, *quantized: dict[str, Any]) -> dict[str, Any]:
    about = {"network": network, "data": "Pets", "images": 1000, "outputs": [], "full_precision": {"accuracy": 0.9}}
    return ABOUT | about | {"quantized": list(quantized)}


def test_classifiers_are_told_in_a_row_for_each_number_of_bits(script: Any) -> None:
    snn = [{"steps": t, "accuracy": t / 100, "agreement": t / 50, "spikes_per_image": 1000.0 * t} for t in range(1, 11)]
    converted = {"bits": 2, "qann": {"accuracy": 0.8}, "settled": 10, "snn": snn} | ENERGY
    text = script.part([classifier("cat", converted, {"bits": 3, "reason": "NotConvertible: no"}), classifier("dog")])
    assert "## Pets\n" in text
    # After the last step that was measured nothing changes: T = 16 is what it is after 10.
    shown = "80.00 | 4.00 | 8.00 | 10.00 | 10.00 | 16.00 | 20.00 | 10 | 10,000 | 8.0 and 2.0 uJ | 0.25 |"
    assert f"| cat | 1000 | 90.00 | 2 | 80.00 | {shown}" in text  # without a reconstruction, it is only calibrated
    assert "| cat | 1000 | 90.00 | 3 | NotConvertible: no |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    run = "512 for calibration, by LSQ's rule, 16 for energy, 4 compared neuron by neuron, seed 3, float32, a machine"
    assert f"- **cat**: `python it`  \n  1,000 images of 8 x 9, {run}, 1 thread, torch 2, 90 s, commit abc" in text


def test_a_reconstruction_is_told_before_and_after_and_with_its_time(script: Any) -> None:
    snn = [{"steps": 1, "accuracy": 0.7, "agreement": 1.0, "spikes_per_image": 1000.0}]
    made = {"method": "output", "calibration_seconds": 12.3, "steps": 1000, "reconstruction_seconds": 90.0}
    told = {"bits": 2, "calibrated": {"accuracy": 0.6}, "qann": {"accuracy": 0.7}, "settled": 1, "snn": snn} | made
    text = script.part([classifier("cat", told | ENERGY, told | ENERGY | {"reconstruction_seconds": 60.0})])
    assert "| cat | 1000 | 90.00 | 2 | 60.00 | 70.00 | 70.00 |" in text
    assert "by the method 'output' in 12 s, 1,000 steps of reconstruction in 1.5 min, 16 for energy" in text
    text = script.part([classifier("cat", told | ENERGY | {"bfloat16": True})])
    assert "1,000 steps of reconstruction in bfloat16 in 1.5 min" in text


def test_detectors_are_told_by_output(script: Any) -> None:
    outputs = [
        {"output": "boxes", "cosine": 0.5, "difference": 1.0, "size": 10.0},
        {"output": "scores", "cosine": 0.25, "difference": 0.125, "size": 2.0},
    ]
    converted = {"bits": 2, "qann": outputs, "equal": 1.0, "equal_from": 9, "settled": 10, "spikes_per_image": 1234.5}
    counts = ((4, 7, 5), (20, 8, 6))
    boxes = [{"steps": t, "full_precision": 9, "snn": snn, "same": same} for t, snn, same in counts]
    converted |= {"boxes": boxes}
    about = {"network": "eye", "data": "Pictures", "images": 20, "outputs": ["boxes", "scores"]}
    never = converted | {"bits": 3, "equal": 0.75}
    refused = {"bits": 4, "reason": "X"}
    text = script.part([ABOUT | about | {"quantized": [converted | ENERGY, never | ENERGY, refused]}])
    shown = "0.500, 0.250 | 10.0 %, 6.2 %"
    assert (
        f"| eye | 20 | boxes, scores | 2 | {shown} | 9 | 10 | 1,234 | 8.0 and 2.0 uJ | 0.25 | 9 | 7 | 5 | 8 | 6 |"
        in text
    )
    assert f"| eye | 20 | boxes, scores | 3 | {shown} | on 75.00 % of the images only | 10 |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "There are no labels here" in text


def test_results_are_written_and_what_is_missing_is_skipped_with_a_sentence(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(choice: Choice) -> None:
        raise QffsError("there is no file net.safetensors")

    def measured(subject: Choice, *others: Any) -> dict[str, Any]:
        return {"images": subject.images, "asked": [*others[:2], list(astuple(others[2])), str(others[3])]}

    monkeypatch.setattr(script, "RESULTS", tmp_path / "real")
    monkeypatch.setattr(script, "NETWORKS", {"gone": missing, "net": lambda choice: choice})
    monkeypatch.setattr(
        script,
        "measured",
        measured,
    )
    asked = ["--images", "7", "--bits", "2", "4", "--seed", "5", "--precision", "float64", "--steps", "9", "--bfloat16"]
    script.main(["measure", *asked, "--pictures", str(tmp_path)])
    assert capsys.readouterr().err == "gone is skipped: there is no file net.safetensors\n"
    (path,) = (tmp_path / "real").iterdir()
    results = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "net.json"
    assert results["run"].pop("seconds") >= 0
    assert results["run"]["command"] == f"python scripts/docs/real_networks.py measure net {' '.join(asked)}"
    options = [[2, 4], "float64", [9, True], str(tmp_path / "net")]
    assert {"network": "net", "seed": 5, "images": 7, "asked": options}.items() <= results.items()
    with pytest.raises(SystemExit):
        script.main(["measure", "other"])
    assert "there is no network 'other'; there are gone, net" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["blazeface", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_network_loads_with_its_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("real.subject.CALIBRATION_IMAGES", 3)
    try:
        subject = NETWORKS[name](Choice(images=2))
    except QffsError as error:
        if not any(words in str(error) for words in ("there is no", "does not exist", "is not installed")):
            raise
        pytest.skip(str(error))
    assert len(subject.test) == 2
    assert len(subject.calibration) == 3
    pixels = subject.test.read(torch.tensor([0, 1]))
    assert not any(torch.equal(one, other) for one in pixels for other in subject.calibration)
    x = subject.normalize(pixels)
    assert float(x.min()) < float(x.max()) < 3
    with torch.no_grad():
        outputs = subject.network(x)
    if subject.outputs:
        assert [len(each) for each in outputs] == len(subject.outputs) * [2]
    else:
        assert outputs.shape == (2, 10 if "CIFAR" in subject.data else 1000)
        assert int(subject.test.labels.max()) < outputs.shape[1]
