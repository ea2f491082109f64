"""The errors of networks that cannot be read as a graph: where their code fails, and what else stands in the way."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument, NotTraceable, QffsError
from qffs.graph.classify import refusal
from qffs.graph.operators import DoesNotRun
from qffs.graph.trace.cause import kept_images
from qffs.graph.trace.check import FEW, copies
from qffs.graph.trace.proxy import Unreadable
from qffs.graph.trace.tracer import OTHER_WEIGHTS


def unreadable(model: nn.Module, error: Exception) -> NotTraceable:
    """Return the error for code that fails while it is traced, with its line."""
    frames = traceback.extract_tb(error.__traceback__)
    if any(f.name == "functional_call" for f in frames) and not isinstance(error, Unreadable):
        error = Unreadable(OTHER_WEIGHTS)
    where = [
        f" (in {f.name}, {Path(f.filename).name}, line {f.lineno}: {f.line})"
        for f in frames
        if not {"torch", "contextlib.py"} & {*Path(f.filename).parts}
        and Path(__file__).parents[1] not in Path(f.filename).parents
    ][-1:]
    hint = "" if isinstance(error, Unreadable) else "; qffs.register keeps a module or function as one step"
    why = str(error).partition("\n")[0]
    if scripted := re.match(r"(\S+)\(\) Expected a value of type", why):
        why = f"its code calls {scripted[1]}, a scripted function or an operator without a form in Python"
    return NotTraceable(
        f"{type(model).__name__} cannot be read as a static graph: {why}{''.join(where)}{hint}{other_refusals(model)}"
    )


def failure(new: Callable[[], nn.Module], inputs: tuple[Tensor, ...], error: DoesNotRun) -> QffsError:
    """Return the error for an operator that fails on the stand-ins: it may fail in the model too, or only there.

    new: returns a fresh copy of the model.
    """
    name = type(new()).__name__
    if _runs(new(), copies(inputs, FEW)):
        return NotTraceable(
            f"{name} cannot be read as a static graph: {error}, where the model itself runs; its code "
            f"may ask for the type of a value (isinstance){other_refusals(new())}"
        )
    if kept := kept_images(new, inputs, FEW):
        return NotTraceable(f"{name} cannot be read as a static graph: {kept}")
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    hint = "; dimension 0 must be a batch of any size: give example[None] where it has none"
    batch = hint if _runs(new(), inputs) else ""
    return InvalidArgument(f"the network does not run on an example of shape {shapes}: {error}{batch}")


def _runs(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    try:
        model(*map(torch.clone, inputs))
    except Exception:  # the network's code may raise anything
        return False
    return True


def other_refusals(model: nn.Module) -> str:
    """Return all modules that are refused, as further lines of a message; for errors that come before any plan."""
    refusals = [
        f"\n- besides, {type(module).__name__} at {path}: {reason}"
        for path, module in model.named_modules()
        if (reason := refusal(module))
    ]
    return "".join(refusals)
