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
    read_text,
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
    remove_temporary(tmp_path, ["out"])
    assert names(tmp_path) == ["out"]


def test_what_was_left_behind_in_a_folder_is_removed(tmp_path: Path) -> None:
    for name in ("state.pt", "float"):
        (tmp_path / name).touch()
        temporary(tmp_path / name, "new").touch()
        temporary(tmp_path / name, "old").mkdir()
    (tmp_path / ".mine.new").touch()
    other = temporary(tmp_path / "notes", "new")
    other.mkdir()
    remove_temporary(tmp_path, ["state.pt", "float"])
    assert names(tmp_path) == sorted([".mine.new", "float", other.name, "state.pt"])


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there are no devices here")
def test_only_a_file_is_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("null", "pipe", ".", "circle"):
        with pytest.raises(InvalidArgument, match="is no regular file, and cannot be replaced by one"):
            write(tmp_path / name, lambda fresh: fresh.write_text("new"))
    assert names(tmp_path) == ["circle", "null", "pipe"]


def test_a_link_stays_and_the_file_that_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("old")
    (tmp_path / "empty").touch()
    for name in ("full", "empty", "folder/missing"):
        link = tmp_path / "link.txt"
        link.symlink_to(tmp_path / name)
        assert write(link, lambda fresh: fresh.write_text("new")) == link
        assert link.is_symlink()
        assert (tmp_path / name).read_text() == "new"
        link.unlink()
    assert names(tmp_path) == ["empty", "folder", "full"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="open files have no paths here")
def test_an_open_pipe_is_no_file_and_an_open_file_is_one(tmp_path: Path) -> None:
    ends = os.pipe()
    with pytest.raises(InvalidArgument, match="is no regular file"):
        write(Path(f"/dev/fd/{ends[1]}"), lambda fresh: fresh.write_text("new"))
    for end in ends:
        os.close(end)
    with (tmp_path / "x").open("w") as stream:
        write(Path(f"/dev/fd/{stream.fileno()}"), lambda fresh: fresh.write_text("new"))
    assert (tmp_path / "x").read_text() == "new"


# Texts


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices here")
def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("ä" * 4)
    assert read_text(path, 4) == "ä" * 4
    with pytest.raises(OSError, match="it has more than 3 characters"):
        read_text(path, 3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(OSError, match="it is no regular file"):
            read_text(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nowhere")


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
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidArgument, match="is not a page"):
            check_replaceable(path, "a page", b"")


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
