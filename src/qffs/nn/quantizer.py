"""The quantizer as a module: one learned step size, or one a channel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qffs.errors import Diverged, InvalidArgument, NotCalibrated
from qffs.functional import lsq
from qffs.kernels import lsq as kernel
from qffs.method import Levels


class Quantizer(nn.Module):
    """The LSQ activation quantizer ``Q(x) = s * clip(floor(x / s + offset), 0, n)``, where a network had a ReLU.

    ``step_size`` s is a scalar parameter, or with ``channels`` a vector of as many, along dimension 1 of x. It is NaN
    until it is set: by `qffs.calibrate`, by the first batch in train mode (LSQ's first step size), or by loading.
    ``clip`` is where the ReLU was clipped from above, if it was: the first step size is such that the highest level
    lies no higher. In eval mode an unset quantizer raises `NotCalibrated`. See `qffs.functional.lsq.quantize` for
    equation and gradients, and `fuse` for the compiled body of them that ``fused`` chooses in train mode.

    >>> quantizer = Quantizer(highest=3)
    >>> quantizer.set_step_size(0.5)
    >>> quantizer(torch.tensor([[-1.0, 0.3, 0.8, 7.0]])).detach()
    tensor([[0.0000, 0.5000, 1.0000, 1.5000]])
    """

    def __init__(
        self, highest: int, offset: float = lsq.NEAREST, clip: float | None = None, channels: int | None = None
    ) -> None:
        super().__init__()
        self.highest = Levels(highest).highest
        if not isinstance(offset, (int, float)) or not math.isfinite(offset):
            raise InvalidArgument(f"the rounding offset must be a finite number, not {offset!r}")
        self.offset = float(offset)
        self.clip = None if clip is None else float(clip)
        self.channels = channels
        self.fused = False
        self.step_size = nn.Parameter(torch.full(() if channels is None else (channels,), math.nan))
        self._ready = False  # caches `ready`, so that a GPU is not asked for the step size at every call

    @property
    def ready(self) -> bool:
        """Whether the step size has been set, that of every channel where each has its own."""
        if not self._ready:
            self._ready = bool(torch.isfinite(self.step_size).all())
        return self._ready

    def forget(self) -> None:
        """Look at the step size again when `ready` is asked for next."""
        self._ready = False

    @torch.no_grad()
    def set_step_size(self, step_size: float | Tensor) -> None:
        """Set s, finite and above 0: one number for all, or a tensor of one a channel.

        Raises `Diverged` on other numbers, `InvalidArgument` where the tensor is not of the shape of ``step_size``.
        """
        values = torch.as_tensor(step_size, dtype=torch.float64, device="cpu")
        if values.shape not in {torch.Size(), self.step_size.shape}:
            shape = list(self.step_size.shape)
            raise InvalidArgument(f"this quantizer's step size has shape {shape}, not {list(values.shape)}")
        wrong = values[~(values.isfinite() & (values > 0))]
        if wrong.numel():
            raise Diverged(f"a step size must be a finite number above 0, not {wrong[0].item()}")
        self.step_size.copy_(values)

    @torch.no_grad()
    def set_step_size_from(self, mean_magnitude: float | Tensor) -> None:
        """LSQ's first step size from the mean magnitude of the activations, by channel where each has its own.

        It is 1 where all activations are zero. Raises `Diverged` where a mean is NaN or infinite.
        """
        mean = torch.as_tensor(mean_magnitude, dtype=torch.float64, device="cpu")
        if not bool(mean.isfinite().all()):
            raise Diverged("NaN or infinity reached a quantizer: check the data and the weights")
        first = lsq.first_step_size(mean, self.highest)
        first = first.where(first > 0, 1.0)
        self.set_step_size(first if self.clip is None else first.clamp_max(self.clip / self.highest))

    def forward(self, x: Tensor) -> Tensor:
        """The quantized activations, in the shape, type and units of x."""
        if not self.ready:
            if not self.training:
                raise NotCalibrated(
                    "this network's step sizes are not set: run qffs.calibrate(qann, batches), train it, "
                    "or load trained weights first"
                )
            magnitude = lsq.total(x.detach().abs(), self.step_size, torch.float32)
            self.set_step_size_from(magnitude / (x.numel() // self.step_size.numel()))
        quantize = kernel.quantize if self.fused and self.training else lsq.quantize
        return quantize(x, self.step_size, self.highest, self.offset)

    def level(self, x: Tensor) -> Tensor:
        """The level of each activation, a whole number from 0 to n, before it is scaled by s."""
        return lsq.level(x, self.step_size, self.highest, self.offset)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"highest={self.highest}, offset={self.offset}, clip={self.clip}, channels={self.channels}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.forget()


def fuse(network: nn.Module, fused: bool = True) -> None:
    """Let all quantizers of a network train through `qffs.kernels.lsq`, or through the reference again.

    A way of computing and no part of the network: it is not saved, and in eval mode it changes nothing.

    >>> network = nn.Sequential(nn.Linear(4, 2), Quantizer(highest=3))
    >>> fuse(network)
    >>> network[1].fused
    True
    """
    for module in network.modules():
        if isinstance(module, Quantizer):
            module.fused = fused
