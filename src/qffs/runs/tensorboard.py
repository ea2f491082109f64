"""What a run tells while it trains, for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from qffs.train import distributed
from qffs.errors import InvalidArgument, QffsError
from qffs.nn.quantizer import Quantizer
from qffs.train.loop import Epoch


class Log:
    """Curves by epoch in the folder ``tensorboard`` of a run, where they are wanted; else nothing."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        self._made: Callable[[], Any] | None = None
        self._writer: Any = None
        if wanted and not distributed.rank():
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise InvalidArgument("curves need TensorBoard: pip install 'qffs[tensorboard]'") from error
            if (folder / "tensorboard").is_file():
                raise InvalidArgument(f"{folder / 'tensorboard'} is a file, where a folder is to be written")
            self._made = partial(SummaryWriter, folder / "tensorboard")

    def epoch(self, stage: str, epoch: Epoch, held_out: float | None, network: nn.Module) -> None:
        """Loss, accuracies and the mean of each quantizer's step sizes after an epoch; `QffsError` on a full disk."""
        if self._made is None:
            return
        curves = {"loss": epoch.loss, "accuracy": epoch.accuracy}
        if held_out is not None:
            curves["held-out accuracy"] = held_out
        for path, module in network.named_modules():
            if isinstance(module, Quantizer):
                curves[f"step size/{path}"] = float(module.step_size.detach().mean())
        try:
            self._writer = self._writer or self._made()
            for name, value in curves.items():
                self._writer.add_scalar(f"{stage}/{name}", value, epoch.number)
            self._writer.flush()
        except OSError as error:
            raise QffsError(f"TensorBoard's curves could not be written: {error.strerror or error}") from error
