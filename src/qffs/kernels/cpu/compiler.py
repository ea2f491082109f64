"""Functions in C, compiled by the machine's own compiler once, and then kept in the user's cache (cache.py)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from qffs.kernels.cpu import cache as kept
from qffs.kernels.cpu import structures

OPTIONS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
MORE_OPTIONS = "QFFS_CFLAGS"
"""An environment variable: options that come after these, such as ``-fsanitize=address`` (scripts/sanitize)."""
LONGEST_S = 60.0
"""Seconds after which a compiler is ended, with all that it started."""
IN_C = {torch.float32: ("float", "int32_t"), torch.float64: ("double", "int64_t")}
"""The types of networks that are compiled for, and in C the types of their numbers and of comparisons of these."""
TELLS_PROCESSORS = ("model name", "flags", "Features", "CPU part", "CPU variant")
"""What /proc/cpuinfo says of a processor that decides what ``-march=native`` means."""

LAYER, MAX_POOL = "layer.c", "max_pool.c"
_OF_LAYER, _OF_MAX_POOL = structures.read("layer.h"), structures.read(MAX_POOL)
Input, Synapses, Weights = _OF_LAYER["input"], _OF_LAYER["synapses"], _OF_LAYER["weights"]
Layer, Pooling = _OF_LAYER["layer"], _OF_MAX_POOL["pooling"]

FUNCTIONS: dict[str, tuple[tuple[str, list[Any], Any], ...]] = {
    LAYER: (
        ("fire", [ctypes.POINTER(Layer)], None),
        ("scratch_size", [ctypes.POINTER(Layer), ctypes.c_int64], ctypes.c_int64),
    ),
    MAX_POOL: (
        ("count", [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p], None),
        ("max_pool", [ctypes.POINTER(Pooling)], None),
        ("prefer_large_pages", [ctypes.c_void_p, ctypes.c_int64], None),
    ),
}
"""The functions of each file, with the types of their arguments and of what they return."""
STRUCTURES = {LAYER: _OF_LAYER, MAX_POOL: _OF_MAX_POOL}


def library(dtype: torch.dtype, loses: bool = False, digits: bool | None = None) -> Any:
    """Return the functions of layer.c for a type in `IN_C`; None, with a warning, where they cannot be compiled.

    loses: for neurons that lose more of their potential than a threshold a spike; digits: with weights as two digits,
    and if None, where `divided` allows it. The first time on a machine it takes about two seconds.
    """
    real, mask = IN_C[dtype]
    digits = divided(dtype, loses) if digits is None else digits
    return compiled(LAYER, f"REAL={real}", f"MASK={mask}", f"LOSES={loses:d}", f"DIGITS={digits:d}")


def divided(dtype: torch.dtype, loses: bool) -> bool:
    """Return whether weights may be two digits: not where neurons forget, since their past cannot be made exact later.

    Of two digits in a register the first must lie in the lower bytes.
    """
    return dtype == torch.float32 and not loses and sys.byteorder == "little"


def library_of_levels() -> Any:
    """Return the functions of max_pool.c; None, with a warning, where they cannot be compiled."""
    return compiled(MAX_POOL)


def available(dtype: torch.dtype, device: torch.device, loses: bool = False, digits: bool | None = None) -> bool:
    """Return whether there are compiled functions for a network of this type on this device."""
    return device.type == "cpu" and dtype in IN_C and library(dtype, loses, digits) is not None


@cache
def compiled(source: str, *macros: str) -> Any:
    """Return the functions of a C file of this folder, compiled with some macros, once a process.

    They come from the user's cache, or are compiled, and kept there if that is possible. None where no compiler can;
    one warning a process says why.
    """
    if _failed():
        return None
    failure = "there is no C compiler"
    for command in _commands():
        try:
            return _kept_or_fresh(command, source, macros)
        except subprocess.TimeoutExpired:
            failure = f"{command[0]} was not done after {LONGEST_S:.0f} s"
            break  # nobody waits for several of them
        except (OSError, subprocess.CalledProcessError, AttributeError, ValueError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            failure = f"{command[0]}: {lines[-1] if lines else 'it says nothing'}"
    _failed().append(failure)
    warnings.warn(f"neurons are not compiled, and simulation is slower: {failure}", stacklevel=2)
    return None


def forget() -> None:
    """Forget what was compiled or failed in this process, so that the next call looks again."""
    compiled.cache_clear()
    _failed.cache_clear()
    _say_once.cache_clear()


@cache
def _failed() -> list[str]:
    """Return why no compiler could compile, once none could; whoever asks next does not wait for it again."""
    return []


def _commands() -> Iterator[list[str]]:
    """Yield the compilers to try, each with its path and its own options."""
    for named in (os.environ.get("CC", "cc"), "gcc", "clang"):
        try:
            words = shlex.split(named)
        except ValueError:  # quotation marks without an end
            continue
        path = shutil.which(words[0]) if words else None
        if path is not None:
            yield [path, *words[1:]]


def _kept_or_fresh(command: list[str], source: str, macros: tuple[str, ...]) -> ctypes.CDLL:
    """Load a library from the cache, or compile it; whatever is wrong with the cache, it is compiled and not kept."""
    options = [*OPTIONS, *shlex.split(os.environ.get(MORE_OPTIONS, "")), *(f"-D{macro}" for macro in macros)]
    key, trouble = _key([*command, *options], source), ""
    try:
        path = kept.find(key)
        if path is not None:
            return _load(path, source)
    except OSError as error:
        trouble = kept.reason(error)
    _say_once(trouble)
    with _temporary_folder() as folder:
        fresh = Path(folder) / "library.so"
        _execute([*command, *options, str(structures.HERE / source), "-o", str(fresh)], folder)
        path = None
        if not trouble:
            with suppress(OSError):
                path = kept.keep(key, fresh)
                return _load(path, source)
        try:
            return _load(fresh, source)
        except OSError:  # it is no library, wherever it lies
            if path is not None:
                path.unlink(missing_ok=True)
            raise


def _key(command: list[str], source: str) -> str:
    """Return a name for what a command compiles a file to: by all sources, options, the compiler and the processor."""
    compiler = Path(command[0]).resolve()
    status = compiler.stat()
    parts = [*command, str(compiler), str(status.st_size), str(status.st_mtime_ns), _machine()]
    digest = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape"))
    for path in sorted(structures.HERE.glob("*.[ch]")):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return f"{Path(source).stem}-{digest.hexdigest()[:32]}"


@cache
def _machine() -> str:
    """Return what tells this machine from others: its C library, and the first processor of /proc/cpuinfo."""
    lines = [
        platform.machine(),
        (os.confstr("CS_GNU_LIBC_VERSION") or "") if "CS_GNU_LIBC_VERSION" in os.confstr_names else "",
    ]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if not line.strip():
                    break
                lines += [line] if line.split("\t")[0].split(":")[0].strip() in TELLS_PROCESSORS else []
    except OSError:
        lines += [platform.processor()]
    return "\n".join(lines)


@cache
def _say_once(trouble: str) -> None:
    """Say on standard error that something is compiled; trouble: why it is not kept."""
    how_often = f"for this run alone ({trouble})" if trouble else "once"
    print(f"qffs: compiling its simulator for this processor, {how_often} (about 2 s)", file=sys.stderr, flush=True)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder in the machine's place for temporary files, or in the cache where there is none."""
    try:
        return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError:
        return tempfile.TemporaryDirectory(dir=kept.folder(), ignore_cleanup_errors=True)


def _execute(command: list[str], folder: str) -> None:
    """Run a compiler, which has its own temporary files in a folder.

    Raises `CalledProcessError`, or `TimeoutExpired` after `LONGEST_S`; then all that it started is ended.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": folder},
        start_new_session=True,
    ) as process:
        try:
            said, errors = process.communicate(timeout=LONGEST_S)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said, errors)


def _load(path: Path, source: str) -> ctypes.CDLL:
    """Load the library of a C file, and declare its functions.

    Raises `OSError` where it cannot be loaded, and `AttributeError` or `ValueError` where it is another; then it is
    removed.
    """
    with _waiting_quietly():
        loaded = ctypes.CDLL(str(path))
    try:
        _declare(loaded, source)
    except (AttributeError, ValueError):
        path.unlink(missing_ok=True)
        raise
    return loaded


@contextmanager
def _waiting_quietly() -> Iterator[None]:
    """Have an OpenMP that is loaded within, and not shared with torch, wait without spinning, unless the user asks."""
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


def _declare(loaded: ctypes.CDLL, source: str) -> None:
    """Give the functions of a library their types, once its structures are as large as those of ctypes."""
    expected = [ctypes.sizeof(each) for each in STRUCTURES[source].values()]
    if list((ctypes.c_int64 * len(expected)).in_dll(loaded, "sizes")) != expected:
        raise ValueError("its structures have other sizes")
    for name, arguments, result in FUNCTIONS[source]:
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
