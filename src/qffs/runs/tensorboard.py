"""Curves of a run for TensorBoard, written while it trains."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from qffs.errors import InvalidArgument, QffsError
from qffs.nn.quantizer import Quantizer
from qffs.train.loop import Epoch


class Curves:
    """Curves by epoch in the folder ``tensorboard`` of a run; the first call of `add` creates that folder.

    Raises `InvalidArgument` if TensorBoard is not installed, or if ``tensorboard`` is a file.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InvalidArgument("curves need TensorBoard: pip install 'qffs[tensorboard]'") from error
        if (folder / "tensorboard").is_file():
            raise InvalidArgument(f"{folder / 'tensorboard'} is a file, where a folder is to be written")
        self._make_writer = partial(SummaryWriter, folder / "tensorboard")
        self._writer: Any = None

    def add(self, stage: str, epoch: Epoch, held_out: float | None, network: nn.Module) -> None:
        """Add the loss, the accuracies and the mean step size of each quantizer after an epoch.

        Raises `QffsError` if they cannot be written, such as on a full disk.
        """
        points = {"loss": epoch.loss, "accuracy": epoch.accuracy}
        if held_out is not None:
            points["held-out accuracy"] = held_out
        for path, module in network.named_modules():
            if isinstance(module, Quantizer):
                points[f"step size/{path}"] = float(module.step_size.detach().mean())
        try:
            self._writer = self._writer or self._make_writer()
            for name, value in points.items():
                self._writer.add_scalar(f"{stage}/{name}", value, epoch.number)
            self._writer.flush()
        except OSError as error:
            raise QffsError(f"TensorBoard's curves could not be written: {error.strerror or error}") from error
