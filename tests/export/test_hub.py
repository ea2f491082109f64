"""Networks in the Hub's layout: a round trip through a Hub that is a folder here."""

from __future__ import annotations

import importlib
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
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
    qann = qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq")
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
        "| quantized |  | 97.55 |",
        "| spiking | 1 | 10.00 |",
        "| spiking | 2 | 20.00 |",
        "| spiking | 4 | 40.00 |",
        "| spiking | 6 | 60.00 |",
    ]
    assert "Charge schedule: 0.333333, 0.333333, 0.333333. Layers of neurons: 1." in body
    export.hub(networks[0], tmp_path / "made")  # over an earlier one; nothing is known of this
    card = (tmp_path / "made" / "README.md").read_text()
    assert "# network, quantized neural network\n\nMade with qffs.\n" in card
    assert "Measured" not in card


def test_nothing_else_is_written_over(networks: tuple[Network, Network], there: Path, tmp_path: Path) -> None:
    export.hub(networks[0], tmp_path / "made")
    contents = {
        "notes": {"notes.txt": "kept"},
        "bert": {"config.json": json.dumps({"model_type": "bert"}), "model.safetensors": "", "README.md": "# BERT"},
        "card": {"README.md": "# Mine"},
        "beside": {name: (tmp_path / "made" / name).read_bytes() for name in names(tmp_path / "made")} | {"a.txt": "a"},
        "edited": {"config.json": (tmp_path / "made" / "config.json").read_text(), "README.md": "# Mine"},
    }
    for folder, files in contents.items():
        (tmp_path / folder).mkdir()
        for name, content in files.items():
            (tmp_path / folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "file").write_text("kept")
    qffs.save(networks[0], tmp_path / "checkpoint")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in (*contents, "file", "checkpoint"):
        with pytest.raises(CheckpointError, match=f"{name} exists and holds something else"):
            export.hub(networks[0], tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} exists and holds something else"):
            export.pull("me/net", tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_interrupted_leaves_the_earlier_one(
    networks: tuple[Network, Network], there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.hub(networks[0], tmp_path / "made", ABOUT)
    export.push(tmp_path / "made", "me/net")
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importlib.import_module("qffs.export.hub"), "card", full)
    with pytest.raises(CheckpointError, match=r"could not be written to .*made: .*No space left"):
        export.hub(networks[1], tmp_path / "made", ABOUT)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(QffsError, match=r"me/net: .*No space left"):
        export.pull("me/net", tmp_path / "made")
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == before
    assert names(tmp_path) == {"there", "made"}


@pytest.mark.parametrize("error", [RuntimeError, ValueError, OSError, huggingface_hub.errors.HFValidationError])
def test_what_the_hub_says_is_told(
    error: type[Exception], networks: tuple[Network, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error("All connection\nattempts failed")

    monkeypatch.setattr(huggingface_hub, "create_repo", fails)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    export.hub(networks[0], tmp_path / "made")
    for act in (lambda: export.push(tmp_path / "made", "me/net"), lambda: export.pull("me/net", tmp_path / "got")):
        with pytest.raises(QffsError, match=r"^me/net: All connection attempts failed$"):
            act()
    assert names(tmp_path) == {"made"}


def test_links_and_other_files_are_not_taken(networks: tuple[Network, Network], there: Path, tmp_path: Path) -> None:
    export.hub(networks[0], tmp_path / "made")
    export.push(tmp_path / "made", "me/net")
    (tmp_path / "secret").write_text("secret")

    def linked(repo_id: str, *, local_dir: Path, **_: object) -> None:
        (Path(local_dir) / "README.md").symlink_to(tmp_path / "secret")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", linked)
        with pytest.raises(CheckpointError, match=r"me/net holds README\.md, which is not a file of a checkpoint"):
            export.pull("me/net", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_names_are_words_on_the_card(networks: tuple[Network, Network], tmp_path: Path) -> None:
    evil = {"model": "net\n# Free\n<script>alert(1)</script>[a](http://b)", "versions": None, "output": "analog"}
    export.hub(networks[0], tmp_path / "made", evil)
    card = (tmp_path / "made" / "README.md").read_text()
    assert "# net  Free scriptalert1/script[a]http://b, quantized neural network\n" in card
    assert not set("<>#") & set(card.split("# net", 1)[1].split(", quantized")[0])


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
