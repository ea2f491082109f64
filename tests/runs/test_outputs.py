"""What a command writes outside of a run replaces nothing of a run, and nothing of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from qffs.errors import InvalidArgument
from qffs.runs.export import pull
from qffs.runs.folder import WRITTEN, reserved
from qffs.runs.outputs import check_owner, check_set


@pytest.mark.parametrize("mark", ["results.json", "state.pt", ".qffs.lock"])
def test_what_a_run_writes_belongs_to_it(mark: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "link").symlink_to(run)
    for name in WRITTEN:
        check_owner(run / name)
    (run / mark).touch()
    for name in WRITTEN:
        for folder in (run, tmp_path / "link"):
            with pytest.raises(InvalidArgument, match=rf"{name} belongs to the run in {run}: name another output"):
                check_owner(folder / name)
    check_owner(run / "hub")
    check_owner(run)


def test_what_lies_in_a_checkpoint_of_a_run_belongs_to_it_too(tmp_path: Path) -> None:
    with reserved(tmp_path, "qffs train"), pytest.raises(InvalidArgument, match="belongs to the run in"):
        check_owner(tmp_path / "snn" / "x.onnx")  # the checkpoint is not there yet
    (tmp_path / "results.json").touch()
    check_owner(tmp_path / "snn" / "x.onnx")  # perhaps the folder of a user
    (tmp_path / "snn").mkdir()
    (tmp_path / "snn" / "config.json").touch()
    with pytest.raises(InvalidArgument, match="belongs to the run in"):
        check_owner(tmp_path / "snn" / "folder" / "x.onnx")


def test_nothing_is_downloaded_into_a_run(tmp_path: Path) -> None:
    with reserved(tmp_path, "qffs train"), pytest.raises(InvalidArgument, match="snn belongs to the run in"):
        pull("me/net", tmp_path / "snn")


def test_figures_may_be_replaced_only_beside_their_results(tmp_path: Path) -> None:
    path = tmp_path / "fig.json"
    assert check_set(path, "qffs paper", b"item") == ("fig.json", "fig.png", "fig.svg")
    (tmp_path / "fig.svg").write_text("mine")
    with pytest.raises(InvalidArgument, match=r"fig\.svg exists and is not a file of qffs paper"):
        check_set(path, "qffs paper", b"item")
    path.write_text('{"mine": 1}')
    with pytest.raises(InvalidArgument, match=r"fig\.json exists and is not a file of qffs paper"):
        check_set(path, "qffs paper", b"item")
    path.write_text('{\n  "item": "fig"}')
    check_set(path, "qffs paper", b"item")
