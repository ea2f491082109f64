"""`qffs export`, and what it refuses before it writes."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import qffs
from qffs import export
from qffs.cli.export import PROFILES as PROFILED
from qffs.cli.export import TARGETS as NAMED
from qffs.data import load as load_data
from qffs.errors import InvalidArgument
from qffs.export import TARGETS
from qffs.export.nir.write import PROFILES
from qffs.runs.export import _check_output
from qffs.runs.export import export as run_export


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, as far as exports read it."""
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    qann = qffs.calibrate(
        qffs.quantize(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), 2, example=x), [x], "lsq"
    )
    qffs.save(qann, tmp_path / "run" / "qann", {"model": "small"})
    qffs.save(qffs.to_spiking(qann), tmp_path / "run" / "snn", {"model": "small"})
    results = {
        "model": "small",
        "layers": [],
        "data": "noise",
        "images": 8,
        "full_precision": {"accuracy": 0.5},
        "qann": {"accuracy": 0.25},
    }
    results |= {"snn": [{"steps": 1, "accuracy": 0.125, "spikes_per_image": 3.0}], "charge_schedule": [1 / 3] * 3}
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    return tmp_path / "run"


@pytest.mark.slow
def test_a_checkpoint_is_written_for_every_target(run: Path, tmp_path: Path) -> None:
    for name, target in TARGETS.items():
        for kind in ("snn", "qann"):
            output = tmp_path / "out" / f"{kind}.{name}"
            if kind not in target.kinds:
                with pytest.raises(InvalidArgument, match=f"{name} takes a network of kind snn, not qann"):
                    run_export(run / kind, name, output, progress=False)
                continue
            said = run_export(run / kind, name, output, progress=False)
            assert output.is_dir() == target.folder
            assert output.exists()
            assert said["path"] == str(output)
            assert said["kind"] == kind
            steps = {"nir": 32} | dict.fromkeys(("brian2", "pynn", "nir-exact", "pt2", "onnx"), 8)
            assert said["steps"] == (steps.get(name) if kind == "snn" else None)
            json.dumps(said)
            _check_output(target, output, run / kind)  # it may be replaced by the next export
    card = (tmp_path / "out" / "snn.hub" / "README.md").read_text()
    assert "| spiking | 1 | 12.50 |" in card


@pytest.mark.parametrize("damage", ["other schedule", "another name", "no accuracy", "no JSON"])
def test_the_card_shows_no_results_of_others(damage: str, run: Path, tmp_path: Path) -> None:
    path = run / "results.json"
    results, checkpoint = json.loads(path.read_text()), run / "snn"
    if damage == "other schedule":
        results["charge_schedule"] = [1.0]
    if damage == "no accuracy":
        results["qann"] = {}
    path.write_text("{" if damage == "no JSON" else json.dumps(results))
    if damage == "another name":
        checkpoint = checkpoint.rename(run / "other")
    run_export(checkpoint, "hub", tmp_path / "hub", progress=False)
    assert "Measured" not in (tmp_path / "hub" / "README.md").read_text()


def test_what_cannot_be_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"there is no target 'caffe'; there are {', '.join(TARGETS)}"):
        run_export(run / "snn", "caffe", tmp_path / "out")
    for name, option in (("hub", "steps"), ("spikingjelly", "steps"), ("brian2", "profile"), ("onnx", "data")):
        with pytest.raises(InvalidArgument, match=f"{name} takes no --{option}: leave it out"):
            run_export(run / "snn", name, tmp_path / "out", **{option: 8 if option == "steps" else "digits"})
    with pytest.raises(InvalidArgument, match="--size and --images choose from --data: name --data too"):
        run_export(run / "snn", "nir", tmp_path / "out", images=3)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match=r"onnx writes a file, but .*folder is not a file"):
        run_export(run / "snn", "onnx", tmp_path / "folder")
    with pytest.raises(InvalidArgument, match=r"hub writes a folder, but .*file is not a folder"):
        run_export(run / "snn", "hub", tmp_path / "file")
    with pytest.raises(InvalidArgument, match="snn is the checkpoint itself: name another output"):
        run_export(run / "snn", "hub", run / "snn")
    for name, output in (("hub", "float"), ("hub", "snn/x"), ("onnx", "noise.json"), ("pt2", "snn/x.pt2")):
        with pytest.raises(InvalidArgument, match=f"{output} belongs to the run in .*run: name another output"):
            run_export(run / "qann", name, run / output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.folder])
def test_only_an_export_of_the_same_target_is_replaced(name: str, run: Path, tmp_path: Path) -> None:
    network = qffs.load(run / "qann").network
    mine = {
        "thesis.txt": b"years of work on qffs, with spikingjelly, snntorch and archive_format",
        "qffs.onnx": b"\x08\x0a of another program",
        "data.h5": b"\x89HDF\r\n\x1a\n of another program",
    }
    for file, content in mine.items():
        (tmp_path / file).write_bytes(content)
    torch.save(network, tmp_path / "network.pt")
    link = tmp_path / "link.pt2"
    link.symlink_to(run / "snn" / "model.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for output in [path for path in tmp_path.iterdir() if path.is_file() and path != link]:
        said = f"{output.name} exists and is not a file of qffs export --to {name}: it is not replaced"
        with pytest.raises(InvalidArgument, match=re.escape(said)):
            run_export(run / "snn", name, output, progress=False)
    for output in (link, run / "snn" / "model.safetensors"):
        with pytest.raises(
            InvalidArgument, match=f"{output.name} lies inside the checkpoint .*snn: name another output"
        ):
            run_export(run / "snn", name, output, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_of_a_circuit_is_replaced_only_by_a_circuit(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "network.npz").write_bytes(b"PK of another program")
    with pytest.raises(InvalidArgument, match=r"network\.npz exists and is not a file of an export"):
        run_export(run / "snn", "brian2", tmp_path / "mine", progress=False)
    for target in ("brian2", "pynn"):
        run_export(run / "snn", target, tmp_path / "circuit", progress=False)


def test_the_command_line_names_every_target() -> None:
    assert re.findall(r"[\w-]+", NAMED.replace(" or ", ", ")) == list(TARGETS)
    assert re.findall(r"\w+", PROFILED.replace(" or ", ", ")) == list(PROFILES)


@pytest.mark.slow
def test_on_the_command_line(command_line: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    given = ("export", run / "snn", "--to", "onnx", "-o", "a.onnx", "--steps")
    said = command_line(*given, 6)
    assert (said.code, said.err) == (0, "")
    assert re.fullmatch(
        r"Wrote the snn, 6 steps to a\.onnx; read again and run, its outputs differ by \S+ at most\.\n", said.out
    )
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape[0] == 6
    assert json.loads(command_line(*given, 6, "--json").out)["steps"] == 6
    said = command_line(*given, 2)
    assert said.code == 2
    assert said.err == "qffs: a run needs at least as many steps as the 3 charge steps of its schedule, not 2\n"


def test_images_are_what_is_tried(command_line: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    digits = load_data("digits")
    x = digits.normalize(digits.test.images)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    qffs.save(qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x[:2]), [x], "lsq")), tmp_path / "snn")
    run_export(tmp_path / "snn", "brian2", tmp_path / "brian2", data="digits", images=5, progress=False)
    with np.load(tmp_path / "brian2" / "network.npz") as file:
        assert np.array_equal(file["input 0/examples"], x[[0, 112, 224, 336, 448]].double().numpy())
    written = run_export(
        tmp_path / "snn", "nir", tmp_path / "a.nir", steps=4, profile="norse", data="digits", progress=False
    )
    known = json.loads(nir.read(tmp_path / "a.nir").metadata["qffs"])
    assert (known["inputs"], known["profile"]) == (100, "norse")
    assert known["measured"][-1].keys() == {"steps", "error", "agreement", "accuracy"}
    assert written["note"].startswith("An approximation: of 100 inputs ")
    said = command_line("export", "snn", "--to", "nir", "-o", "b.nir", "--data", "digits", "--images", 7)
    assert said.code == 0
    assert said.out.startswith("Wrote the snn, 32 steps to b.nir.\nAn approximation: of 7 inputs ")


def test_no_module_hides_what_is_exported() -> None:
    for module in pkgutil.iter_modules(export.__path__):
        if module.name != "scripts":
            importlib.import_module(f"qffs.export.{module.name}")
    assert not [name for name in export.__all__ if inspect.ismodule(getattr(export, name))]
