"""Libraries that are compiled once and kept, and all that may go wrong with a compiler and its surroundings."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qffs.kernels.cpu import cache, compiler, structures
from qffs.kernels.cpu.compiler import LAYER, MAX_POOL, compiled

FAILS = "neurons are not compiled, and simulation is slower: "
ONCE = "qffs: compiling its simulator for this processor, once (about 2 s)\n"
ALONE = "qffs: compiling its simulator for this processor, for this run alone ("


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of this test alone, and what it compiled is forgotten after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not compiler.available(torch.float32, torch.device("cpu")):
            pytest.skip("nothing can be compiled here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.forget()
    yield
    compiler.forget()


def script(path: Path, text: str) -> str:
    """A compiler of one's own."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def alone(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """Have this be the only compiler of the machine."""
    monkeypatch.setenv("CC", named)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name if name == named else None)


def works() -> bool:
    """Whether the functions are there, are right, and nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        library = compiled(MAX_POOL)
    values, index = torch.tensor([[0, 3], [1, 2]], dtype=torch.uint8), torch.tensor([[0], [1]])
    spikes = torch.empty(2, 2, dtype=torch.int64)
    library.count(values.data_ptr(), index.data_ptr(), 2, 1, 2, 1, spikes.data_ptr())
    return spikes.tolist() == [[1, 1], [0, 1]]


def files() -> list[str]:
    return os.listdir(cache.folder())


def test_it_is_compiled_once_and_then_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert works()
    assert capsys.readouterr().err == ONCE
    (name,) = files()
    assert name.startswith("max_pool-")
    compiler.forget()
    monkeypatch.setattr(compiler, "_execute", lambda *_: pytest.fail("compiled again"))
    assert works()
    assert capsys.readouterr() == ("", "")


def test_each_thing_that_decides_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [script(tmp_path / "one", "true"), "-O3"]

    def key(command: list[str] = command, source: str = LAYER) -> str:
        return compiler._key(command, source)

    keys = {key(), key([*command, "-DLOSES=1"]), key(source=MAX_POOL), key([script(tmp_path / "two", "true"), "-O3"])}
    script(tmp_path / "one", "true and longer")
    keys.add(key())
    monkeypatch.setattr(compiler, "_machine", lambda: "another")
    keys.add(key())
    (tmp_path / "sources").mkdir()
    monkeypatch.setattr(structures, "HERE", tmp_path / "sources")
    for text in ("one", "two"):
        (tmp_path / "sources" / "vector.h").write_text(text)
        keys.add(key())
    assert len(keys) == 8
    assert key() in keys


def test_more_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert works()
    monkeypatch.setenv("QFFS_CFLAGS", "-O1 -DSOMETHING='of its own'")
    compiler.forget()
    assert works()
    assert len(files()) == 2
    alone(monkeypatch, script(cache.folder().parent / "noted", f'echo "$@" > {cache.folder().parent}/options; exit 1'))
    compiler.forget()
    with pytest.warns(UserWarning, match=FAILS):
        compiled(MAX_POOL)
    options = (cache.folder().parent / "options").read_text()
    assert options.startswith(" ".join([*compiler.OPTIONS, "-O1", "-DSOMETHING=of its own"]))


@pytest.mark.slow
def test_damaged_libraries_are_compiled_again() -> None:
    """By a process of its own, which would not survive loading a part of a library."""
    assert works()
    path = cache.folder() / files()[0]
    whole = path.read_bytes()
    path.unlink()  # this process has it loaded
    path.write_bytes(whole[: len(whole) // 2])
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from qffs.kernels.cpu import compiler\n"
        "assert compiler.library_of_levels() is not None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ONCE)
    assert (cache.folder() / files()[0]).stat().st_size == len(whole)


def test_where_the_cache_cannot_be_used_it_is_compiled_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path / "none" / "there", tmp_path / "file"):
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        compiler.forget()
        assert works()
        assert capsys.readouterr().err.startswith(ALONE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    (tmp_path / "open" / "qffs").mkdir(parents=True)
    (tmp_path / "open" / "qffs").chmod(0o777)
    compiler.forget()
    assert works()
    assert "other users may write to" in capsys.readouterr().err
    assert not files()


def test_a_full_disk_and_one_that_starts_no_programs_cost_the_cache_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "keep", full)
        assert works()
        assert not files()
    compiler.forget()
    load = ctypes.CDLL

    def noexec(path: str) -> ctypes.CDLL:
        if path.startswith(str(cache.folder())):
            raise OSError(f"{path}: failed to map segment from shared object: Operation not permitted")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", noexec)
    assert works()
    assert len(files()) == 1
    compiler.forget()
    assert works()


def test_without_a_place_for_temporary_files_the_cache_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent/tmp")
    assert works()
    assert len(files()) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none" / "there"))
    compiler.forget()
    with pytest.warns(UserWarning, match=f"{FAILS}.*No such file or directory") as said:
        compiled(MAX_POOL)
    assert len(said) == 1
    assert compiled(MAX_POOL, "ANOTHER") is None  # and says nothing: warnings are errors


@pytest.mark.slow
def test_a_compiler_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    hangs = script(tmp_path / "hangs", f"sleep 1000 &\necho $! >> {started}\nwait")
    monkeypatch.setenv("CC", hangs)  # others that work are not waited for
    monkeypatch.setattr(compiler, "LONGEST_S", 2.0)
    with pytest.warns(UserWarning, match=f"{FAILS}{hangs} was not done after 2 s") as said:
        compiled(MAX_POOL)
    assert len(said) == 1
    assert compiled(LAYER, "REAL=float") is None  # and says nothing: warnings are errors
    (number,) = started.read_text().split()  # it is not waited for again
    process = Path("/proc", number, "stat")
    for _ in range(100):
        if not process.exists() or process.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what the compiler started goes on")


@pytest.mark.parametrize("named", ["gcc '", '"', "\\"])
def test_another_is_tried_where_the_name_has_open_quotation_marks(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", named)
    assert works()


def test_libraries_without_the_functions_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"for a; do o=$a; done\necho 'int x;' > {tmp_path}/e.c\nexec gcc -shared -fPIC {tmp_path}/e.c -o $o"
    empty = script(tmp_path / "empty", text)
    monkeypatch.setenv("CC", empty)
    assert works()  # by another compiler
    assert len(files()) == 1
    alone(monkeypatch, empty)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    compiler.forget()
    with pytest.warns(UserWarning, match=f"{FAILS}{empty}: .*sizes"):
        assert compiled(MAX_POOL) is None
    assert len(files()) == 1, "it was kept"


@pytest.mark.parametrize(
    "text",
    ["exit 0", "for a; do o=$a; done\necho no library > $o", "printf 'bad\\377bytes' >&2\nexit 1", "kill -9 $$"],
    ids=["makes nothing", "makes no library", "fails with odd bytes", "is killed"],
)
def test_a_compiler_that_is_none_is_one_warning(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, script(tmp_path / "odd", text))
    with pytest.warns(UserWarning, match=FAILS):
        assert compiled(MAX_POOL) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled(LAYER, "REAL=float", "MASK=int32_t", "LOSES=0", "DIGITS=0") is None
    assert not cache.folder().exists() or not files()


def test_options_with_an_open_quotation_mark_are_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiler.MORE_OPTIONS, "'")
    with pytest.warns(UserWarning, match=f"{FAILS}.*No closing quotation"):
        assert compiled(MAX_POOL) is None


def test_structures_of_another_size_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiler.STRUCTURES, MAX_POOL, {"pooling": ctypes.c_int64})
    with pytest.warns(UserWarning, match=f"{FAILS}.*structures have other sizes"):
        assert compiled(MAX_POOL) is None


def test_structures_have_the_fields_of_the_file_in_c() -> None:
    layer = structures.read("layer.h")
    assert list(layer) == ["weights", "input", "synapses", "layer"]
    fields = dict(layer["layer"]._fields_)
    assert fields["inputs"] == ctypes.POINTER(layer["input"])
    assert (fields["charged"], fields["sent"]) == (ctypes.POINTER(ctypes.c_double), ctypes.c_void_p)
    assert (fields["channels"], fields["highest"]) == (ctypes.c_int64, ctypes.c_double)
    assert dict(layer["synapses"]._fields_)["weights"] is layer["weights"]


def test_openmp_that_is_loaded_waits_without_spinning_unless_the_user_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = []
    load = ctypes.CDLL

    def noted(path: str) -> ctypes.CDLL:
        policies.append(os.environ.get("OMP_WAIT_POLICY"))
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", noted)
    for policy in (None, "ACTIVE"):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if policy:
            monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        compiler.forget()
        assert works()
        assert os.environ.get("OMP_WAIT_POLICY") == policy
    assert policies == ["PASSIVE", "ACTIVE"]


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_imports_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sympy alone takes longer to import than the rest of a first call."""
    monkeypatch.undo()  # the cache of the user, which has these or will have them
    compiler.forget()
    for digits in (True, False):
        assert compiler.library(torch.float32, digits=digits) is not None
    assert compiler.library_of_levels() is not None
    code = (
        "import sys, torch, qffs\n"
        "from qffs.models.digits import DigitsNet\n"
        "x = torch.rand(2, 1, 8, 8)\n"
        "snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(DigitsNet(), 2, example=x), [x], 'lsq'))\n"
        "snn(x, steps=8)\n"
        "print(*sorted({'sympy', 'triton', 'torch._dynamo', 'torch._inductor'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
