"""`qffs.functional.fire.fire` on accumulated input: all steps of a layer in one pass over memory.

What neurons receive is given as sums over time, ``A_t = sum of I_1 to I_t``, and what they sent likewise, as levels
``Z_t``, so that the potential is ``u_t = u_0 + A_t - θ Z_{t-1}`` and needs no memory of its own. On CPUs in float32 the
pass is a C function, compiled once by the machine's own compiler; everywhere else, the reference loop.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qffs.functional import fire as reference
from qffs.functional.lsq import accumulation_dtype
from qffs.functional.rows import Rows, changed
from qffs.levels import FiringRule

SOURCE = Path(__file__).with_name("fire.c")
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
ROUNDED = "-ffp-contract=off"
"""Sums rounded as the reference rounds them: no multiplication is fused with an addition."""
LONGEST = 255
"""The most steps: a level is at most one a step, and has to fit into a byte."""


def fire(
    inputs: Sequence[Rows],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
) -> Rows:
    """The levels after each of T steps, from rest, of the images and steps where one changed.

    inputs: what other neurons sent, accumulated over time, each ``[R, ...]`` with its place ``[T, B]``; they are added
    up. constant: ``[B, ...]`` or None, and charge: the T weights that it comes with. threshold, highest and rule: as in
    `qffs.functional.fire.step`, the pre-charge of the rule included. Returned: levels in uint8, the threshold as their
    scale. T is at most `LONGEST`.
    """
    types = {each.values.dtype if each.scale is None else each.scale.dtype for each in inputs}
    types |= {tensor.dtype for tensor in (constant, threshold) if tensor is not None}
    scalar = all(each.scale is None or each.scale.dim() == 0 for each in inputs)
    alike = len({each.values.shape[1:] for each in inputs}) <= 1
    covered = threshold.device.type == "cpu" and types == {torch.float32} and scalar and alike
    body = _native if covered and library() is not None else _plain
    dense, changes = body(inputs, constant, charge, threshold, highest, rule)
    return changed(dense, changes, threshold)


def _plain(
    inputs: Sequence[Rows],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
) -> tuple[Tensor, Tensor]:
    """Levels ``[T, B, ...]`` and, ``[T, B]``, whether any of an image's changed: by the reference loop."""
    sums = [each.dense().unflatten(0, (len(charge), -1)) for each in inputs]
    like = sums[0][0] if sums else constant
    assert like is not None
    assert rule.precharge is not None
    wide = accumulation_dtype(like.dtype)
    total = sum((each.to(wide) for each in sums[1:]), sums[0].to(wide)) if sums else None
    increments = None if total is None else torch.cat([total[:1], total[1:] - total[:-1]])
    theta = threshold.to(wide)
    state = reference.rest(like.to(wide), theta, rule.precharge)
    spikes, _ = reference.fire(state, constant, increments, charge, theta, highest, rule)
    return spikes.cumsum(0).to(torch.uint8), (spikes != 0).flatten(2).any(-1)


class _Input(ctypes.Structure):
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("levels", ctypes.c_int64),
        ("scale", ctypes.c_float),
    )


def _native(
    inputs: Sequence[Rows],
    constant: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule,
) -> tuple[Tensor, Tensor]:
    """The same by the compiled function, on activations as they lie in memory."""
    like = inputs[0].values if inputs else constant
    assert like is not None
    assert rule.precharge is not None
    steps, images = (len(charge), len(like)) if not inputs else inputs[0].place.shape
    order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    shape = [like.shape[d] for d in order]

    def laid_out(x: Tensor) -> Tensor:
        return x.permute(0, *order).contiguous()

    values, places = [laid_out(each.values) for each in inputs], [each.place.contiguous() for each in inputs]
    given = (_Input * len(inputs))(
        *(
            _Input(
                x.data_ptr(), place.data_ptr(), each.scale is not None, 1.0 if each.scale is None else float(each.scale)
            )
            for x, place, each in zip(values, places, inputs, strict=True)
        )
    )
    fixed = None if constant is None else laid_out(constant.expand(-1, *like.shape[1:]))
    by_neuron = threshold.dim() > 0
    theta = laid_out(threshold.expand(1, *like.shape[1:])) if by_neuron else threshold
    neurons = math.prod(shape)
    charged = torch.tensor(list(accumulate(charge)), dtype=torch.float64).float()
    sent = torch.empty(steps, images, *shape, dtype=torch.uint8)
    changes = torch.zeros(steps, images, dtype=torch.uint8)
    compiled = library()
    assert compiled is not None
    compiled.fire(
        given,
        len(inputs),
        None if fixed is None else fixed.data_ptr(),
        0 if fixed is None or len(fixed) == 1 else neurons,
        charged.data_ptr(),
        steps,
        images,
        neurons,
        theta.data_ptr(),
        int(by_neuron),
        rule.precharge,
        highest,
        rule.negative_spikes,
        rule.cap,
        torch.get_num_threads(),
        sent.data_ptr(),
        changes.data_ptr(),
    )
    back = sorted(range(len(order)), key=order.__getitem__)
    return sent.permute(0, 1, *(2 + d for d in back)), changes.bool()


@cache
def library() -> Any:
    """The compiled function, made once a process, which takes a second; None, with a warning, where that fails."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    try:
        if compiler is None:
            raise OSError("there is no C compiler")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fire.so"
            command = [compiler, *OPTIONS, ROUNDED, str(SOURCE), "-o", str(path)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["it says nothing"]
        warnings.warn(f"neurons are not compiled, and simulation is slower: {said[-1]}", stacklevel=2)
        return None
    pointer, whole, real, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    loaded.fire.argtypes = [pointer, whole, pointer, whole, pointer, whole, whole, whole, pointer, whole]
    loaded.fire.argtypes += [real, real, flag, flag, flag, pointer, pointer]
    loaded.fire.restype = None
    return loaded
