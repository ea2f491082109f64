"""The folder of compiled libraries: whose it must be, and what is done with damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import qffs
from qffs.cli import app
from qffs.kernels.cpu import cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "library.so"
    path.write_bytes(b"functions" * 1000)
    return path


def test_it_lies_where_the_system_keeps_caches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.folder() == home / ".cache" / "qffs"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which XDG's rules have programs ignore
    assert cache.folder() == home / ".cache" / "qffs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "mine"))
    assert cache.folder() == home / "mine" / "qffs"


def test_what_is_kept_is_found_by_its_key_in_a_folder_for_the_user_alone(library: Path) -> None:
    assert cache.find("a") is None
    path = cache.keep("a", library)
    assert path.parent == cache.folder()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_bytes() == library.read_bytes()
    assert (cache.find("a"), cache.find("b")) == (path, None)
    assert os.listdir(cache.folder()) == [path.name]


@pytest.mark.parametrize("damaged", [b"", b"functions" * 500, b"functions" * 999 + b"functionz"], ids=len)
def test_damaged_files_are_removed_and_never_returned(damaged: bytes, library: Path) -> None:
    cache.keep("a", library).write_bytes(damaged)
    assert cache.find("a") is None
    assert not os.listdir(cache.folder())


def test_folders_that_others_have_or_may_write_to_are_not_used(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.keep("a", library)
    for mode in (0o770, 0o702):
        cache.folder().chmod(mode)
        for use in (lambda: cache.find("a"), lambda: cache.keep("a", library)):
            with pytest.raises(PermissionError, match="other users may write to"):
                use()
    cache.folder().chmod(0o755)
    assert cache.find("a") == path
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache.find("a")


def test_links_are_followed_to_what_is_the_users_alone(
    home: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "elsewhere").mkdir(mode=0o700)
    (home / ".cache").mkdir()
    cache.folder().symlink_to(home / "elsewhere")
    cache.keep("a", library)
    assert cache.find("a") is not None
    status = Path.stat

    def of_another(path: Path, *, follow_symlinks: bool = True) -> object:
        found = status(path, follow_symlinks=follow_symlinks)
        theirs = path == cache.folder() and follow_symlinks
        return SimpleNamespace(st_mode=found.st_mode, st_uid=found.st_uid + theirs)

    monkeypatch.setattr(Path, "stat", of_another)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache.find("a")


def test_folders_that_start_no_programs_are_not_used(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep("a", library)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    with pytest.raises(PermissionError, match="mounted without the right to run programs"):
        cache.find("a")
    assert "mounted without the right" in cache.describe()


def test_a_copy_that_fails_leaves_nothing_behind(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        cache.keep("a", library)
    assert not os.listdir(cache.folder())


@pytest.mark.slow
def test_several_processes_keep_the_same_at_once(library: Path) -> None:
    work = (
        "import sys; from pathlib import Path; from qffs.kernels.cpu import cache\n"
        "for _ in range(200):\n"
        "    kept = cache.keep('a', Path(sys.argv[1]))\n"
        "    assert cache.find('a') == kept\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", work, str(library)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.communicate() == (None, "")
    assert len(os.listdir(cache.folder())) == 1


def test_its_place_is_told_and_nothing_is_written_for_that(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home / ".cache" / "qffs"
    assert cache.describe() == f"compiled simulator in {place}"
    assert not (home / ".cache").exists()
    place.mkdir(parents=True)
    place.chmod(0o777)
    assert cache.describe() == f"compiled simulator not kept: other users may write to {place}"
    place.rmdir()
    place.write_text("a file")
    assert cache.describe() == f"compiled simulator not kept: {place} is not a folder"
    monkeypatch.setenv("HOME", str(home / "there" / "is" / "none"))
    assert cache.describe() == f"compiled simulator not kept: {home}/there/is/none is not a folder"


def test_the_command_line_tells_it() -> None:
    said = CliRunner().invoke(app, ["--version"]).output.replace("\n", "")
    assert said == f"qffs {qffs.__version__}, {cache.describe()}"
