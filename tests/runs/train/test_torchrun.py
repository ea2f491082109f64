"""The command line under ``torchrun``: the same run, written once; what fails, ends; scripts that can be read."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.places import ROOT
from processes import two_processes
from processes.two_processes import launched

WATCHED, STOPPED = (ROOT / "tests" / "processes" / f"{what}_cli.py" for what in ("watched", "stopped"))


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    ended = launched(two_processes.__file__, tmp_path, "fail")
    assert ended.returncode != 0
    assert "process 1 fails" in ended.stderr
    assert not list(tmp_path.iterdir())


RECIPE = """
data: digits
device: cpu
channels_last: false
bits: 8
charge_steps: 4
steps: 8
full_precision: {epochs: 1, learning_rate: 0.01, batch_size: 200}
quantized: {epochs: 1, learning_rate: 0.001, batch_size: 200}
"""
"""Where float32 stays near: few steps, fine levels, and no channels last, whose sums PyTorch rounds more on CPUs."""


@pytest.mark.slow
def test_the_command_line_gives_the_same_run_and_writes_it_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "notes").mkdir()
    told = {}
    for count in (1, 2):
        command = [WATCHED, tmp_path / "notes", "train", tmp_path / "recipe.yaml", "--output", tmp_path / str(count)]
        ended = launched(*command, processes=count)
        assert ended.returncode == 0, ended.stderr
        told[count] = ended.stdout
    one, two = tmp_path / "1", tmp_path / "2"
    assert files(one) == files(two)
    assert told[2].count("Wrote") == 1 == told[1].count("Wrote")
    notes = [(tmp_path / "notes" / name).read_text() for name in ("alone", "0", "1")]
    written = [re.sub(r"\b[0-9a-f]{16}\b", "TOKEN", each).split() for each in notes]  # of temporary names
    assert written[0] == written[1]
    assert written[1].count("results.json") == 1
    assert written[2] == []

    # float32: what differs by rounding is taken for another side of a ReLU or another level now and then; measured
    # were 3e-7 and, in the second stage, 2e-4, of values around 1.
    for name, tolerance in (("float", 1e-4), ("qann", 5e-3)):
        expected, found = (load_file(folder / name / "model.safetensors") for folder in (one, two))
        assert list(found) == list(expected)
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=tolerance, atol=tolerance)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    for kind in ("full_precision", "qann"):
        assert results[0][kind]["accuracy"] == pytest.approx(results[1][kind]["accuracy"], abs=0.01)  # 4 images of 449


@pytest.mark.slow
def test_a_run_that_its_launcher_stopped_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [STOPPED, "3", "train", tmp_path / "recipe.yaml", "--output", tmp_path / "run"]
    stopped = launched(*command, "--save-every", "1000")
    assert "qffs: stopped by SIGTERM at full precision, epoch 1, step " in stopped.stderr
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert 3 <= state["step"] < 7
    command[1] = "0"
    assert launched(*command, "--resume", processes=1).returncode == 0
    command[-1] = tmp_path / "whole"
    assert launched(*command, processes=1).returncode == 0
    whole, run = (load_file(tmp_path / name / "float" / "model.safetensors") for name in ("whole", "run"))
    for key, expected in whole.items():
        torch.testing.assert_close(run[key], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_one_process_says_what_failed_and_the_others_no_more(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [STOPPED, "0", "train", tmp_path / "recipe.yaml", "--output", tmp_path / "run", "--save-every", "0"]
    ended = launched(*command, limit=few_bytes)
    assert ended.returncode == 1
    assert "qffs: the state of the run could not be written: File too large" in ended.stderr
    told = ended.stderr.split("failed (exitcode")[0]  # then torchrun itself tells of it
    assert "Traceback" not in told, told


def few_bytes() -> None:
    """Files of a tenth of the size of the state: what writes more is told so, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_scripts_and_manifests_of_the_document_can_be_read() -> None:
    text = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    manifests = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    machine = manifests[0]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    for container in (machine, manifests[1]["spec"]["trainer"]):
        assert container["command"][:4] == ["torchrun", "-m", "qffs", "train"]
        assert container["args"] == ["--output", "/data/runs/first", "--resume"]
