"""Benchmarks run and write what they measured; no test looks at a time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qffs
from helpers.places import ROOT
from qffs.data import load
from qffs.models import build

BENCHMARKS = ROOT / "benchmarks"
RIVALS = {
    "SpikingJelly, step by step": "spikingjelly",
    "SpikingJelly, layer by layer": "spikingjelly",
    "snnTorch": "snntorch",
}


@pytest.fixture(scope="module")
def qann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    data = load("digits")
    x = data.normalize(data.train.read(torch.arange(64)))
    folder = tmp_path_factory.mktemp("benchmark") / "qann"
    qffs.save(qffs.calibrate(qffs.quantize(build("digits_net").eval(), 2, example=x), [x], "lsq"), folder)
    return folder


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("device", [pytest.param(each, marks=pytest.mark.slow) for each in ("cpu", "cuda")])
def test_simulation_is_compared_with_whatever_is_installed(qann: Path, tmp_path: Path, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        refused = run("simulate.py", qann, "--data", "digits", "--device", device)
        assert (refused.returncode, refused.stderr.rpartition(": ")[2]) == (2, "PyTorch finds no GPU here\n")
        pytest.skip("there is no GPU")
    few = ("--data", "digits", "--steps", 3, "--batch", 4, "--turns", 1, "--images", 8, "--device", device)
    done = run("simulate.py", qann, *few, "--json", tmp_path / "simulate.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "simulate.json").read_text())["networks"][str(qann)]
    (ran,) = found["runs"]
    installed = {name for name, package in RIVALS.items() if importlib.util.find_spec(package) is not None}
    half = {"network, bfloat16", "network, bfloat16, CUDA graph", "simulation, bfloat16"} if device == "cuda" else set()
    assert set(ran["ratios"]) == {"network", "simulation", "simulation, exact"} | installed | half
    for name in set(RIVALS) - installed:
        assert f"{name} is skipped: {RIVALS[name]} is not installed" in done.stderr
    differing = found["predictions"]["differing"]
    assert differing["simulation, exact and reference in float64"] == [0, 0, 0]
    assert all(len(counts) == 3 for counts in differing.values())


@pytest.mark.slow
def test_two_trees_take_turns(qann: Path, tmp_path: Path) -> None:
    few = (qann, "--data", "digits", "--steps", 3, "--batch", 4, "--turns", 2)
    done = run("trees.py", ROOT, *few, "--json", tmp_path / "trees.json")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "trees.json").read_text())["comparisons"]
    assert case["equal"] is True
    assert {name: len(each) for name, each in case["seconds"].items()} == {"this tree": 2, "the other tree": 2}
    low, high = case["ratio"]["quartiles"]
    assert 0 < low <= case["ratio"]["median"] <= high
    refused = run("trees.py", tmp_path, *few)
    assert (refused.returncode, refused.stderr.rpartition(": ")[2]) == (2, f"there is no src/qffs in {tmp_path}\n")


@pytest.mark.slow
def test_memory_is_measured(qann: Path, tmp_path: Path) -> None:
    few = ("--data", "digits", "--steps", 3, "--batch", 4, "--memory")
    done = run("simulate.py", qann, *few, "--json", tmp_path / "memory.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "memory.json").read_text())["networks"][str(qann)]
    assert found["simulation"]["allocated"] > found["network"]["allocated"] / 10 > 0
    assert found["simulation"]["levels"] == 3 * 4 * 32 * 8 * 8
