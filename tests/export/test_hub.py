"""Networks in the Hub's layout: a round trip through a Hub that is a folder here."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn

import qffs
from qffs import export
from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.export.target import Network

ABOUT = {"model": "digits_net", "data": "digits", "bits": 2, "output": "analog", "versions": {"qffs": "1.2"}}
RESULTS = {
    "data": "digits",
    "images": 1449,
    "full_precision": {"accuracy": 0.99},
    "qann": {"accuracy": 0.9755},
    "snn": [{"steps": t, "accuracy": t / 10} for t in range(1, 7)],
}


@pytest.fixture
def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    qann = qffs.calibrate(qffs.quantize(model, 2, example=x), [x])
    return qann, qffs.to_spiking(qann)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub, as a folder of repositories."""
    there = tmp_path / "there"

    def create_repo(repository: str, *, private: bool, exist_ok: bool) -> str:
        (there / repository).mkdir(parents=True, exist_ok=exist_ok)
        (there / repository / "private").write_text(str(private))
        return f"https://hub/{repository}"

    def upload_folder(*, repo_id: str, folder_path: str, allow_patterns: list[str]) -> None:
        for name in allow_patterns:
            shutil.copy(Path(folder_path) / name, there / repo_id / name)

    def snapshot_download(repo_id: str, *, revision: str | None, local_dir: str, allow_patterns: list[str]) -> str:
        if not (there / repo_id).exists():
            raise huggingface_hub.errors.HFValidationError(f"no {repo_id}\nat {revision}")
        (Path(local_dir) / ".cache").mkdir()
        for name in allow_patterns:
            if (there / repo_id / name).exists():
                shutil.copy(there / repo_id / name, Path(local_dir) / name)
        return local_dir

    for each in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, each.__name__, each)
    return there


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("spiking", [True, False])
def test_a_network_comes_back(
    spiking: bool, networks: tuple[Network, Network], there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = networks[spiking], torch.randn(4, 3)
    written = export.hub(network, tmp_path / "out" / "made", ABOUT)
    assert (written.path, written.kind) == (tmp_path / "out" / "made", "snn" if spiking else "qann")
    assert export.push(written.path, "me/net") == "https://hub/me/net"
    assert names(there / "me/net") == {"README.md", "config.json", "model.safetensors", "private"}
    assert (there / "me/net/private").read_text() == "False"
    (there / "me/net/evil.py").write_text("raise SystemExit")
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    loaded = export.pull("me/net", tmp_path / "got")
    assert names(tmp_path / "got") == {"README.md", "config.json", "model.safetensors"}
    assert loaded.about == ABOUT
    given: dict[str, Any] = {"steps": 8} if spiking else {}
    with torch.no_grad():
        assert torch.equal(loaded.network(x, **given), network(x, **given))
        assert torch.equal(qffs.load(tmp_path / "got").network(x, **given), network(x, **given))
    assert names(tmp_path) == {"there", "out", "got"}
    export.pull("me/net", tmp_path / "got", revision="main")  # over an earlier one


def test_the_card_shows_what_was_measured(networks: tuple[Network, Network], tmp_path: Path) -> None:
    export.hub(networks[1], tmp_path / "made", ABOUT, RESULTS)
    card = (tmp_path / "made" / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert "library_name: qffs" in head
    assert "- spiking-neural-network" in head
    assert "# digits_net, spiking neural network\n\nMade with qffs 1.2 on digits: 2 bits in hidden layers" in body
    assert "Measured on 1,449 test images of digits:" in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert rows == [
        "| network | time steps | accuracy (%) |",
        "| --- | ---: | ---: |",
        "| full precision |  | 99.00 |",
        "| quantised |  | 97.55 |",
        "| spiking | 1 | 10.00 |",
        "| spiking | 2 | 20.00 |",
        "| spiking | 4 | 40.00 |",
        "| spiking | 6 | 60.00 |",
    ]
    assert "Charge schedule: 0.333333, 0.333333, 0.333333. Layers of neurons: 1." in body
    export.hub(networks[0], tmp_path / "made")  # over an earlier one; nothing is known of this
    card = (tmp_path / "made" / "README.md").read_text()
    assert "# network, quantised neural network\n\nMade with qffs.\n" in card
    assert "Measured" not in card


def test_nothing_else_is_written_over(networks: tuple[Network, Network], there: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for name in ("mine", "file"):
        with pytest.raises(CheckpointError, match=f"{name} exists and holds something else"):
            export.hub(networks[0], tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} exists and holds something else"):
            export.pull("me/net", tmp_path / name)
    assert names(tmp_path / "mine") == {"notes.txt"}


def test_what_is_no_network_is_neither_shared_nor_kept(there: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is not a checkpoint"):
        export.push(tmp_path / "nothing", "me/net")
    assert not there.exists()
    (there / "me/other").mkdir(parents=True)
    (there / "me/other/config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        CheckpointError, match=r"^me/other/config\.json is not a checkpoint of qffs: it lacks about, format"
    ):
        export.pull("me/other", tmp_path / "got")
    assert names(tmp_path) == {"there"}
    with pytest.raises(QffsError, match=r"^me/none: no me/none at v2$"):
        export.pull("me/none", tmp_path / "got", "v2")


def test_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidArgument, match=r"huggingface_hub, which is not installed: pip install 'qffs\[hub\]'"):
        export.pull("me/net", tmp_path)
