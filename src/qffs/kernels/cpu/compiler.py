"""Functions in C, compiled by the machine's own compiler at their first use."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
IN_C = {torch.float32: ("float", "int32_t"), torch.float64: ("double", "int64_t")}
"""Types of networks that are compiled for, and of what comparing their numbers gives."""


class Input(ctypes.Structure):
    """``input`` in neuron.c, and likewise below."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("levels", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


class Synapses(ctypes.Structure):
    """``synapses`` in spike_trains.h: levels, and the weights they go through."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("height", "width", "channels", "kh", "kw", "sy", "sx", "py", "px")),
        *((name, ctypes.c_void_p) for name in ("rows", "fine", "unit", "left")),
        ("moving", ctypes.c_int64),
        ("scattered", ctypes.c_int64),
    )


class Layer(ctypes.Structure):
    """A layer of neurons and what leads to it."""

    _fields_ = (
        ("inputs", ctypes.POINTER(Input)),
        ("input_count", ctypes.c_int64),
        ("sources", ctypes.POINTER(Synapses)),
        ("source_count", ctypes.c_int64),
        ("constant", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("constant_stride", "constant_of_channels")),
        ("charged", ctypes.POINTER(ctypes.c_double)),
        *((name, ctypes.c_int64) for name in ("steps", "images", "height", "width", "channels", "block")),
        ("threshold", ctypes.c_void_p),
        ("by_neuron", ctypes.c_int64),
        ("precharge", ctypes.c_double),
        ("highest", ctypes.c_double),
        ("leak", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("negative_spikes", "cap", "to_zero", "threads", "listed")),
        ("sent", ctypes.c_void_p),
        ("changes", ctypes.c_void_p),
        ("ended", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    )


class Pooling(ctypes.Structure):
    """Levels to be pooled; as ``pooling`` in max_pool.c."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("places", "rows", "height", "width", "channels", "kh", "kw", "sy", "sx")),
        *((name, ctypes.c_int64) for name in ("py", "px", "pooled_height", "pooled_width", "threads")),
        ("named", ctypes.c_void_p),
        ("pooled", ctypes.c_void_p),
    )


FUNCTIONS: dict[str, tuple[tuple[str, list[Any], Any], ...]] = {
    "neuron.c": (
        ("fire", [ctypes.POINTER(Layer)], None),
        ("scratch_size", [ctypes.POINTER(Layer), ctypes.c_int64], ctypes.c_int64),
    ),
    "max_pool.c": (
        ("count", [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p], None),
        ("max_pool", [ctypes.POINTER(Pooling)], None),
        ("prefer_large_pages", [ctypes.c_void_p, ctypes.c_int64], None),
    ),
}
"""The functions of each file, with the types of their arguments and of what they return."""


def library(dtype: torch.dtype, loses: bool = False, digits: bool | None = None) -> Any:
    """The functions of neuron.c for a type in `IN_C`, made once a process; None, with a warning, where that fails.

    loses: for neurons that lose more of their potential than a threshold a spike; digits: with weights as two digits,
    or where they may be. It takes about two seconds.
    """
    real, mask = IN_C[dtype]
    digits = divided(dtype, loses) if digits is None else digits
    return made("neuron.c", f"REAL={real}", f"MASK={mask}", f"LOSES={loses:d}", f"DIGITS={digits:d}")


def divided(dtype: torch.dtype, loses: bool) -> bool:
    """Whether weights may be two digits: not where neurons forget, since what they did cannot be made exact later.

    Of two that lie in a register, the first must be the first: bytes of lower digits come first.
    """
    return dtype == torch.float32 and not loses and sys.byteorder == "little"


def library_of_levels() -> Any:
    """The functions of max_pool.c, made once a process; None, with a warning, where that fails."""
    return made("max_pool.c")


@cache
def made(source: str, *defined: str) -> Any:
    """A file in C of this folder, compiled with some macros defined."""
    failed = "there is no C compiler"
    for named in (os.environ.get("CC", "cc"), "gcc", "clang"):
        compiler = shlex.split(named)
        if not compiler or shutil.which(compiler[0]) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made.so"
            macros = (f"-D{macro}" for macro in defined)
            command = [*compiler, *OPTIONS, *macros, str(HERE / source), "-o", str(path)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
                loaded = ctypes.CDLL(str(path))
                break
            except (OSError, subprocess.CalledProcessError) as error:
                said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["it says nothing"]
                failed = f"{compiler[0]}: {said[-1]}"
    else:
        warnings.warn(f"neurons are not compiled, and simulation is slower: {failed}", stacklevel=2)
        return None
    for name, arguments, result in FUNCTIONS[source]:
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    return loaded


def available(dtype: torch.dtype, device: torch.device, loses: bool = False, digits: bool | None = None) -> bool:
    """Whether there are compiled functions for a network of this type on this device."""
    return device.type == "cpu" and dtype in IN_C and library(dtype, loses, digits) is not None
