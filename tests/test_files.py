"""Files and folders: temporary names that nothing else has, locks, and what may be replaced."""

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

from qffs import files
from qffs.errors import InvalidArgument, QffsError
from qffs.files import (
    check_replaceable,
    check_set,
    existing,
    remove_temporary,
    reserved,
    temporary,
    write,
    write_folder,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    (folder / "x").write_text("new")


# Temporary names


def test_hidden_files_and_folders_of_the_user_stay(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".out.old", ".out.new", ".out.old.0123456789abcdef", ".x.txt.new.txt")]
    for path in mine:
        path.mkdir()
        (path / "precious").touch()
    for _ in range(2):
        write_folder(tmp_path / "out", fill)
        write(tmp_path / "x.txt", lambda fresh: fresh.write_text("new"))
    assert names(tmp_path) == sorted([*(path.name for path in mine), "out", "x.txt"])
    assert all((path / "precious").exists() for path in mine)


def test_two_writers_at_once_have_names_of_their_own(tmp_path: Path) -> None:
    def outer(fresh: Path) -> None:
        write_folder(tmp_path / "out", fill)
        write(tmp_path / "x.txt", lambda other: other.write_text("inner"))
        assert fresh.is_dir()
        (fresh / "x").write_text("outer")

    write_folder(tmp_path / "out", outer)
    assert (tmp_path / "out" / "x").read_text() == "outer"
    assert names(tmp_path) == ["out", "x.txt"]


def test_what_a_killed_process_left_behind_is_removed_by_the_next_one(tmp_path: Path) -> None:
    out, new, old = tmp_path / "out", temporary(tmp_path / "out", "new"), temporary(tmp_path / "out", "old")
    for path in (out, new, old):
        path.mkdir()
    write_folder(out, fill)
    assert names(tmp_path) == ["out"]


def test_the_old_version_is_there_where_the_machine_stopped_between_the_renames(tmp_path: Path) -> None:
    out, old = tmp_path / "out", temporary(tmp_path / "out", "old")
    assert existing(out) == out
    old.mkdir()
    assert existing(out) == old
    remove_temporary(tmp_path)
    assert names(tmp_path) == ["out"]


def test_what_was_left_behind_in_a_folder_is_removed(tmp_path: Path) -> None:
    for name in ("state.pt", "float"):
        (tmp_path / name).touch()
        temporary(tmp_path / name, "new").touch()
        temporary(tmp_path / name, "old").mkdir()
    (tmp_path / ".mine.new").touch()
    remove_temporary(tmp_path)
    assert names(tmp_path) == [".mine.new", "float", "state.pt"]


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there are no devices here")
def test_only_a_file_is_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    for name in ("null", "pipe", "."):
        with pytest.raises(InvalidArgument, match="is no regular file, and cannot be replaced by one"):
            write(tmp_path / name, lambda fresh: fresh.write_text("new"))
    assert names(tmp_path) == ["null", "pipe"]


# What may be replaced


def test_only_a_file_of_the_same_kind_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    check_replaceable(path, "a page", b"<html>", b"qffs")
    path.touch()
    check_replaceable(path, "a page", b"<html>", b"qffs")  # as mktemp makes it
    for text in ("thesis on qffs", "<html>mine</html>", "<"):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match=r"thesis\.txt exists and is not a page: it is not replaced"):
            check_replaceable(path, "a page", b"<html>", b"qffs")
    path.write_text("<html>by qffs</html>")
    check_replaceable(path, "a page", b"<html>", b"qffs")
    with pytest.raises(InvalidArgument, match="is not a page"):
        check_replaceable(tmp_path, "a page", b"")


def test_figures_may_be_replaced_only_beside_their_results(tmp_path: Path) -> None:
    path = tmp_path / "fig.json"
    check_set(path, "qffs paper", b"item")
    (tmp_path / "fig.svg").write_text("mine")
    with pytest.raises(InvalidArgument, match=r"fig\.svg exists and is not a file of qffs paper"):
        check_set(path, "qffs paper", b"item")
    path.write_text('{"mine": 1}')
    with pytest.raises(InvalidArgument, match=r"fig\.json exists and is not a file of qffs paper"):
        check_set(path, "qffs paper", b"item")
    path.write_text('{\n  "item": "fig"}')
    check_set(path, "qffs paper", b"item")


# One process at a time

HOLDER = """import sys, time
from pathlib import Path
from qffs.files import reserved
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
        (left,) = [temporary(tmp_path / "a" / "run" / "y", "new")]
        left.touch()
    with reserved(tmp_path / "a" / "run", ""):
        assert names(tmp_path / "a" / "run") == [".qffs.lock", "x"]
    assert names(tmp_path / "a" / "run") == ["x"]


def test_a_worker_process_does_not_keep_the_folder_of_a_killed_run(tmp_path: Path) -> None:
    with reserved(tmp_path, ""):
        (handle,) = files._handles
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
    lock, left = files.lock, [True]

    def late(handle: int) -> bool:
        if left.pop() if left else False:
            (tmp_path / files.LOCK).unlink()
        return lock(handle)

    monkeypatch.setattr(files, "lock", late)
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
    write_folder(tmp_path / "out", fill)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QffsError, match=r"run cannot be written: "), reserved(tmp_path / "file" / "run", ""):
        pass
