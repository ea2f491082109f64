"""One process at a time writes to a folder, and a process that was killed has it no more."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qffs.errors import InvalidArgument, QffsError
from qffs.files import temporary, write_folder
from qffs.runs import folder
from qffs.runs.folder import reserved


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


HOLDER = """import sys, time
from pathlib import Path
from qffs.runs.folder import reserved
with reserved(Path(sys.argv[1]), "qffs train digits", beside=len(sys.argv) > 2):
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=[False, True])
def beside(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def holder(tmp_path: Path, beside: bool) -> Iterator[subprocess.Popen[str]]:
    """Another process that has reserved the folder ``run``."""
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), *(["beside"] if beside else [])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


def test_a_folder_belongs_to_one_process_until_it_is_killed(
    holder: subprocess.Popen[str], beside: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = (
        rf"run is in use by process {holder.pid} on .* since .* \(qffs train digits\): wait until it has ended, or name"
    )
    with pytest.raises(InvalidArgument, match=said), reserved(run, "", beside=beside):
        pytest.fail("two processes at once")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with reserved(run, "", beside=beside):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_was_not_there_before_is_removed_unless_something_was_written(tmp_path: Path) -> None:
    with reserved(tmp_path / "a" / "run", ""):
        pass
    assert names(tmp_path) == []
    with reserved(tmp_path / "a" / "run", ""):
        (tmp_path / "a" / "run" / "x").touch()
        temporary(tmp_path / "a" / "run" / "state.pt", "new").touch()
    with reserved(tmp_path / "a" / "run", ""):
        assert names(tmp_path / "a" / "run") == [".qffs.lock", "x"]
    assert names(tmp_path / "a" / "run") == ["x"]


def test_only_names_that_are_written_there_are_cleared(tmp_path: Path) -> None:
    mine = [temporary(tmp_path / name, version) for name in ("notes", "x") for version in ("new", "old")]
    for path in mine:
        path.mkdir()
    for name in folder.WRITTEN:
        temporary(tmp_path / name, "new").touch()
    temporary(tmp_path / "snn", "old").mkdir()
    with reserved(tmp_path, ""):
        assert names(tmp_path) == sorted([".qffs.lock", "snn", *(path.name for path in mine)])
    with reserved(tmp_path, "", written=["x"]):
        assert names(tmp_path) == sorted([".qffs.lock", "snn", "x", *(path.name for path in mine[:2])])


def test_a_worker_process_does_not_keep_the_folder_of_a_killed_run(tmp_path: Path) -> None:
    with reserved(tmp_path, ""):
        (handle,) = folder._handles
        worker = os.fork()
        if worker == 0:  # as a worker of a DataLoader that lives on
            try:
                os.fstat(handle)
            except OSError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 7
        with pytest.raises(InvalidArgument, match="is in use"), reserved(tmp_path, ""):
            pass


def test_a_lock_file_that_the_process_before_has_just_removed_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, left = folder.lock, [True]

    def late(handle: int) -> bool:
        if left.pop() if left else False:
            (tmp_path / folder.LOCK).unlink()
        return lock(handle)

    monkeypatch.setattr(folder, "lock", late)
    with reserved(tmp_path, ""), pytest.raises(InvalidArgument, match="is in use"), reserved(tmp_path, ""):
        pass


def test_without_locks_there_is_one_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    left = temporary(tmp_path / "y", "new")
    left.touch()
    with pytest.warns(UserWarning, match="cannot be locked: make sure that no other") as warned, reserved(tmp_path, ""):
        assert left.exists()  # perhaps that of another process
    assert len(warned) == 1
    write_folder(tmp_path / "out", lambda _: None)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QffsError, match=r"run cannot be written: "), reserved(tmp_path / "file" / "run", ""):
        pass


def test_the_root_of_the_file_system_is_no_folder_of_a_run(tmp_path: Path) -> None:
    for root in (Path("/"), Path("/tmp/..")):
        with pytest.raises(InvalidArgument, match="is the root of a file system"), reserved(root, ""):
            pytest.fail("files would be written to the root")


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_of_the_user_is_no_lock(beside: bool, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path, mine = tmp_path / (".run.qffs.lock" if beside else "run/.qffs.lock"), tmp_path / "mine"
    for target, there in ((mine, True), (mine, False), (tmp_path / "nothing", False)):
        mine.write_text("precious" if there else "")
        path.symlink_to(target)
        with (
            pytest.raises(InvalidArgument, match=r"qffs\.lock is a link, where"),
            reserved(tmp_path / "run", "", beside=beside),
        ):
            pytest.fail("a link was followed")
        assert mine.read_text() == ("precious" if there else "")
        path.unlink()
    assert not (tmp_path / "nothing").exists()
    for text in ("mine", "p", "processes are described here"):
        path.write_text(text)
        with (
            pytest.raises(InvalidArgument, match="is not the lock of a run"),
            reserved(tmp_path / "run", "", beside=beside),
        ):
            pytest.fail("a file of the user was replaced")
        assert path.read_text() == text
    path.unlink()
    os.mkfifo(path)
    with (
        pytest.raises(InvalidArgument, match="is not the lock of a run"),
        reserved(tmp_path / "run", "", beside=beside),
    ):
        pytest.fail("a pipe was replaced")
    path.unlink()
    for text in ("", "process 1 on vm since 2026 (qffs train)"):  # which a process left behind that was killed
        path.write_text(text)
        with reserved(tmp_path / "run", "", beside=beside):
            assert path.read_text().startswith(f"process {os.getpid()} on ")
        assert not path.exists()
