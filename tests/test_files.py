"""Files and folders: temporary names that nothing else has, locks, and what may be replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qffs.errors import InvalidArgument
from qffs.files import (
    check_replaceable,
    existing,
    expanded,
    remove_temporary,
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


# The home folder


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expanded("~/a") == expanded(Path("~/a")) == tmp_path / "a"
    assert expanded("a/~/b") == Path("a/~/b")
    with pytest.raises(
        InvalidArgument, match=r"^~nosuchuser/x: there is no home folder ~nosuchuser; a name that begins"
    ):
        expanded("~nosuchuser/x")
    assert expanded("./~nosuchuser/x") == Path("~nosuchuser/x").absolute().relative_to(tmp_path)
    (tmp_path / "~nosuchuser").mkdir()
    assert expanded("~nosuchuser") == Path("~nosuchuser")
