"""The saved state of a training, checked where it is loaded: the file may be damaged, or of another training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from qffs.errors import CheckpointError
from qffs.nn.inspect import broken
from qffs.recipes.recipe import Training
from qffs.train.optimize import Average

KEPT: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}
"""The names of what an optimizer keeps of a parameter."""


Fraction = Annotated[float, Field(ge=0, le=1)]
"""An accuracy or an agreement."""


class SavedEpoch(BaseModel):
    """An epoch as plain data."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    number: int
    loss: float
    accuracy: Fraction
    held_out: Fraction | None = None


def _numbered(epochs: list[SavedEpoch]) -> list[SavedEpoch]:
    if [epoch.number for epoch in epochs] != list(range(1, len(epochs) + 1)):
        raise ValueError("must have the epochs 1, 2, 3 and so on")
    return epochs


History = Annotated[list[SavedEpoch], AfterValidator(_numbered)]


class _Progress(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    history: History
    step: Annotated[int, Field(ge=0, lt=2**63)]
    sums: Annotated[list[float], Field(min_length=2, max_length=2)]


def load(
    state: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    training: Training,
    images: int,
) -> None:
    """Load the weights of a state into a network, its optimizer and its average; check the other values.

    training, images: the training that continues, and the number of its images. Raises `CheckpointError` where the
    state does not fit, or holds NaN or infinity.
    """
    groups = [dict(group) for group in optimizer.param_groups]
    try:
        _Progress.model_validate(state)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.restore(state["average"])
        reason = _impossible(state, training, images) or _misfit(network, optimizer, groups)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))} {first['msg']}"
    except Exception as error:  # PyTorch raises nearly any error for a damaged state
        reason = " ".join(f"{type(error).__name__} {error}".split())
    if reason:
        raise CheckpointError(f"the saved state of the run is damaged, or of another training: {reason}")


def _impossible(state: Mapping[str, Any], training: Training, images: int) -> str:
    """Return which progress this training cannot have made; an empty text if there is none."""
    epochs, step, hits = len(state["history"]), state["step"], state["sums"][1]
    if epochs > training.epochs:
        return f"history has {epochs} of {training.epochs} epochs"
    if step > math.ceil(images / training.batch_size):  # as many after the last step of an epoch
        return f"step is {step}, more than an epoch has"
    if not 0 <= hits <= min(step * training.batch_size, images):
        return f"sums has {hits:g} correct images after step {step}"
    return ""


def _misfit(network: nn.Module, optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> str:
    """Return why loaded values cannot be those of this training; an empty text where they can."""
    for before, after in zip(groups, optimizer.param_groups, strict=True):
        for key in before.keys() & after.keys() - {"params", "lr"}:
            if before[key] != after[key]:
                return f"{key} of the optimizer is {after[key]!r}"
    for parameter, values in optimizer.state.items():
        if values and set(values) != KEPT[type(optimizer)]:
            return f"the optimizer keeps {', '.join(map(str, values))} of a parameter"
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape not in {parameter.shape, torch.Size()}:
                return f"{name} of the optimizer does not have the shape of its parameter"
    names = broken(network)
    return f"NaN or infinity in {names[0]}" if names else ""
