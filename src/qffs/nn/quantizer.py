"""The quantiser as a module: one learned step size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qffs.errors import Diverged, InvalidArgument, NotCalibrated
from qffs.functional import lsq
from qffs.levels import Levels


class Quantizer(nn.Module):
    """The LSQ activation quantiser ``Q(x) = s * clip(floor(x / s + offset), 0, n)``, where a network had a ReLU.

    ``step_size`` s is a scalar parameter, NaN until it is set: by `qffs.calibrate`, by the first batch in train
    mode (LSQ's first step size), or by loading. ``clip`` is where the ReLU was clipped from above, if it was: the first
    step size is such that the highest level lies no higher. In eval mode an unset quantiser raises `NotCalibrated`.
    See `qffs.functional.lsq.quantize` for equation and gradients.

    >>> quantizer = Quantizer(highest=3)
    >>> quantizer.set_step_size(0.5)
    >>> quantizer(torch.tensor([[-1.0, 0.3, 0.8, 7.0]])).detach()
    tensor([[0.0000, 0.5000, 1.0000, 1.5000]])
    """

    def __init__(self, highest: int, offset: float = lsq.NEAREST, clip: float | None = None) -> None:
        super().__init__()
        self.highest = Levels(highest).highest
        if not isinstance(offset, (int, float)) or not math.isfinite(offset):
            raise InvalidArgument(f"the rounding offset must be a finite number, not {offset!r}")
        self.offset = float(offset)
        self.clip = None if clip is None else float(clip)
        self.step_size = nn.Parameter(torch.full((), math.nan))
        self._ready = False  # caches `ready`, so that a GPU is not asked for the step size at every call

    @property
    def ready(self) -> bool:
        """Whether the step size has been set."""
        if not self._ready:
            self._ready = bool(torch.isfinite(self.step_size))
        return self._ready

    def forget(self) -> None:
        """Look at the step size again when `ready` is asked for next."""
        self._ready = False

    @torch.no_grad()
    def set_step_size(self, step_size: float) -> None:
        """Set s, a finite number above 0; raises `Diverged` on anything else."""
        if not (math.isfinite(step_size) and step_size > 0):
            raise Diverged(f"a step size must be a finite number above 0, not {step_size}")
        self.step_size.fill_(step_size)

    @torch.no_grad()
    def set_step_size_from(self, mean_magnitude: float) -> None:
        """LSQ's first step size from the mean magnitude of the activations; 1 where all of them are zero."""
        if not math.isfinite(mean_magnitude):
            raise Diverged("NaN or infinity reached a quantiser: check the data and the weights")
        first = lsq.first_step_size(mean_magnitude, self.highest) or 1.0
        self.set_step_size(first if self.clip is None else min(first, self.clip / self.highest))

    def forward(self, x: Tensor) -> Tensor:
        """The quantised activations, in the shape, type and units of x."""
        if not self.ready:
            if not self.training:
                raise NotCalibrated(
                    "this network's step sizes are not set: run qffs.calibrate(qann, batches), train it, "
                    "or load trained weights first"
                )
            self.set_step_size_from(x.detach().abs().mean(dtype=torch.float32).item())
        return lsq.quantize(x, self.step_size, self.highest, self.offset)

    def level(self, x: Tensor) -> Tensor:
        """The level of each activation, a whole number from 0 to n, before it is scaled by s."""
        return lsq.level(x, self.step_size, self.highest, self.offset)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"highest={self.highest}, offset={self.offset}, clip={self.clip}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.forget()
