"""Everything `qffs` raises on purpose, as one tree.

    QffsError
    ├── InvalidArgument      a value that can never work: bits = 9, fewer steps than charge steps
    ├── NotTraceable         the model cannot be read as a static graph
    ├── NotConvertible       the graph holds something that has no spiking counterpart
    │   └── NothingToQuantize    no ReLU on the way from the input: quantizing would change nothing
    ├── NotCalibrated        a quantizer has no step size yet
    ├── Mismatch             a spiking network that differs from its quantized network
    ├── DataError            images or labels that cannot be read or used
    ├── CheckpointError      a checkpoint or weight file that cannot be read or does not fit
    ├── Diverged             NaN or infinity in the loss or in the data
    └── Stopped              a signal asked to stop; what can be continued is saved

Each message is one sentence a user can act on. The command line prints it and exits with 2; after SIGTERM, which is no
fault, with 0.
"""

from __future__ import annotations

from signal import Signals


class QffsError(Exception):
    """Base of every error raised on purpose by this library."""


class InvalidArgument(QffsError, ValueError):
    """A value that can never work, such as 9 bits or fewer steps than charge steps."""


class NotTraceable(QffsError):
    """The model cannot be read as a static graph; the message names the source line."""


class NotConvertible(QffsError):
    """The graph holds operators without a spiking counterpart; the message lists each with its reason."""


class NothingToQuantize(NotConvertible):
    """The graph has no ReLU on the way from its input, so quantizing it would change nothing."""


class NotCalibrated(QffsError, RuntimeError):
    """A quantizer has no step size yet: calibrate or train the network first."""


class Mismatch(QffsError, AssertionError):
    """A spiking network differs from its quantized network; the message names the first layer."""


class DataError(QffsError):
    """Images or labels cannot be read or used; the message names the file or folder."""


class CheckpointError(QffsError):
    """A checkpoint or weight file cannot be read, or does not fit the network."""


class Diverged(QffsError, ArithmeticError):
    """NaN or infinity in the loss or in the data."""


class Stopped(QffsError):
    """A signal asked to stop, and everything needed to go on is saved; ``signal`` is which."""

    def __init__(self, signal: Signals, message: str) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[type[Stopped], tuple[Signals, str]]:
        """How it comes from another process."""
        return Stopped, (self.signal, str(self))
