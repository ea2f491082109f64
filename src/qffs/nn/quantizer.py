"""What stands in the place of a ReLU: a quantizer with one or more learned step sizes, or a ReLU in full precision."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.errors import Diverged, InvalidArgument, NotCalibrated
from qffs.functional import lsq
from qffs.kernels import lsq as kernel
from qffs.method import Levels

OFFSET = lsq.NEAREST + 1e-4
"""The rounding offset of quantizers and the pre-charge of neurons: to the nearest level, with ties moved by 0.0001.

In a network of few-bit weights, sums often end exactly on a tie between two levels. In floating point, three thirds of
a charge need not add up to the charge. With 1/2 itself, rounding errors would decide such ties, and differently in the
quantized and the spiking network. The same small shift in both moves such sums away from every tie (Law 6 of
tests/spiking/test_network.py measures it).
"""

FUSED_FROM_PIXELS = 10**8
"""The number of training pixels from which `fuse` saves more time than compiling takes."""


class Quantizer(nn.Module):
    """The LSQ activation quantizer ``Q(x) = s * clip(floor(x / s + offset), 0, n)``, in the place of a ReLU.

    highest: n; offset: the rounding offset; clip: the upper end of a clipped ReLU, or None: the first step size is at
    most ``clip / n``, so that no level is above the clip; channels: their number, for one step size per channel along
    dimension 1 of x. Raises `InvalidArgument` where n or the offset is impossible.

    The parameter ``step_size`` s is a scalar or ``[channels]``. It is NaN until it is set: by `qffs.calibrate`, by the
    first batch in train mode (LSQ's first step size), or by loading. In eval mode a quantizer that is not set raises
    `NotCalibrated`. See `qffs.functional.lsq.quantize` for the equation and the gradients. Where ``fused`` is true, a
    compiled form of both is used in train mode (see `fuse`).

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
        self._ready = False  # caches `ready`: reading the step size at every call would wait for the GPU

    @property
    def ready(self) -> bool:
        """True when every step size has been set."""
        if not self._ready:
            self._ready = bool(torch.isfinite(self.step_size).all())
        return self._ready

    def forget(self) -> None:
        """Drop the cached answer of `ready`; the next time, it is read from the step size again."""
        self._ready = False

    @torch.no_grad()
    def set_step_size(self, step_size: float | Tensor) -> None:
        """Set s, finite and above 0: one number for all channels, or a tensor with one number per channel.

        Raises `Diverged` on other numbers, and on numbers so small that the type of ``step_size`` does not hold them;
        `InvalidArgument` where the tensor is not of the shape of ``step_size``.
        """
        values = torch.as_tensor(step_size, dtype=torch.float64, device="cpu")
        if values.shape not in {torch.Size(), self.step_size.shape}:
            shape = list(self.step_size.shape)
            raise InvalidArgument(f"this quantizer's step size has shape {shape}, not {list(values.shape)}")
        wrong = values[~(values.isfinite() & (values > 0))]
        if wrong.numel():
            raise Diverged(f"a step size must be a finite number above 0, not {wrong[0].item()}")
        least = lsq.smallest_step_size(self.step_size.dtype)
        small = values[values.to(self.step_size.dtype) < least]
        if small.numel():
            raise Diverged(
                f"a step size of {small[0].item():.3g} is too small for {self.step_size.dtype}, which takes "
                f"{max(least, torch.finfo(self.step_size.dtype).tiny):.1g} and more: scale the network's input up"
            )
        self.step_size.copy_(values)

    def set_step_size_from(self, mean_magnitude: float | Tensor) -> None:
        """Set LSQ's first step size, from the mean magnitude of the activations: one number, or one per channel.

        See `set_first`. Raises `Diverged` where a mean is NaN or infinite.
        """
        self.set_first(lsq.first_step_size(torch.as_tensor(mean_magnitude, dtype=torch.float64), self.highest))

    @torch.no_grad()
    def set_first(self, step_size: Tensor) -> None:
        """Set the step size that a rule has computed: at most ``clip / n``, and 1 where it is 0.

        Raises `Diverged` where it is NaN or infinite.
        """
        first = step_size.to("cpu", torch.float64)
        if not bool(first.isfinite().all()):
            raise Diverged("NaN or infinity reached a quantizer: check the data and the weights")
        first = first.where(first > 0, 1.0)
        self.set_step_size(first if self.clip is None else first.clamp_max(self.clip / self.highest))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized activations, in the shape, type and units of x.

        Raises `NotCalibrated` in eval mode where the step size is not set, and `Diverged` where the first batch in
        train mode holds NaN or infinity.
        """
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
        """Return the level of each activation: a whole number from 0 to n, not multiplied by s."""
        return lsq.level(x, self.step_size, self.highest, self.offset)

    def extra_repr(self) -> str:
        """Return the text that `print` shows between the parentheses."""
        return f"highest={self.highest}, offset={self.offset}, clip={self.clip}, channels={self.channels}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.forget()


class FullPrecision(nn.Module):
    """A ReLU that stays in full precision, clipped at ``clip`` unless that is None; it sends values, not spikes.

    It is not an `nn.ReLU`, because every `nn.ReLU` of a graph is replaced by a quantizer.

    >>> FullPrecision(clip=6.0)(torch.tensor([-1.0, 2.5, 9.0]))
    tensor([0.0000, 2.5000, 6.0000])
    """

    def __init__(self, clip: float | None = None) -> None:
        super().__init__()
        self.clip = None if clip is None else float(clip)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``max(x, 0)``, or ``min(max(x, 0), clip)``, in the shape, type and units of x."""
        return torch.relu(x) if self.clip is None else F.hardtanh(x, 0.0, self.clip)

    def extra_repr(self) -> str:
        """Return the text that `print` shows between the parentheses."""
        return f"clip={self.clip}"


def fuse(network: nn.Module, fused: bool = True) -> None:
    """Let all quantizers of a network train with the compiled `qffs.kernels.lsq`, or with the reference again.

    The choice is not saved with the network, and changes nothing in eval mode.

    >>> network = nn.Sequential(nn.Linear(4, 2), Quantizer(highest=3))
    >>> fuse(network)
    >>> network[1].fused
    True
    """
    for module in network.modules():
        if isinstance(module, Quantizer):
            module.fused = fused
