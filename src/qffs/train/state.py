"""The state from which a stopped run continues, in a file that is always complete; and the signals that stop it."""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from qffs.errors import CheckpointError, Stopped
from qffs.train import distributed

FILE = "state.pt"


class RunState:
    """The file ``state.pt`` in the folder of a run: written completely or not at all, by process 0 alone.

    every_s: seconds between two writes within an epoch. The state is also written at the end of each epoch.
    """

    def __init__(self, folder: Path, every_s: float = 60.0) -> None:
        self.path = folder / FILE
        self.every_s = every_s
        self._written_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Return whether ``every_s`` seconds have passed since the last write."""
        return time.monotonic() - self._written_s >= self.every_s

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the file by a state; if that fails, raise `CheckpointError` and leave the file as it is."""
        self._written_s = time.monotonic()
        if distributed.rank():
            return
        fresh = self.path.with_name(f".{FILE}.{secrets.token_hex(8)}.new")  # as `qffs.files.temporary`
        try:
            with fresh.open("xb") as stream:
                torch.save(dict(state), stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self.path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            place = f"; the last one, in {self.path}, is complete" if self.path.exists() else f" ({self.path})"
            raise CheckpointError(f"the state of the run could not be written: {_reason(error)}{place}") from error
        finally:
            with suppress(OSError):
                fresh.unlink()

    def read(self) -> dict[str, Any] | None:
        """Return the last state, on the CPU; None if there is no file. No code in the file is run.

        Raises `CheckpointError` if the file cannot be read or holds no state of a run.
        """
        if self.path.exists() and not self.path.is_file():
            raise CheckpointError(f"{self.path} cannot be read: it is no regular file")  # a pipe would never answer
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except pickle.UnpicklingError as error:  # torch's message tells how to run the code in the file
            raise CheckpointError(f"{self.path} cannot be read: it holds other objects than a state") from error
        except Exception as error:  # torch raises errors of many types for files that are broken or of another format
            reason = next(iter(_reason(error).splitlines()), type(error).__name__)
            raise CheckpointError(f"{self.path} cannot be read: {reason}") from error
        if not isinstance(state, dict) or "stage" not in state:
            raise CheckpointError(f"{self.path} holds no state of a run")
        return state

    def remove(self) -> None:
        """Remove the file, because the run has ended."""
        if not distributed.rank():
            self.path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    cause = error if isinstance(error, OSError) else error.__context__
    return str((cause.strerror if isinstance(cause, OSError) else None) or error)


class _SignalReceived(BaseException):
    """A signal arrived. It is no `Exception`, because code that handles all failures would take it for a failure."""


class Interruption:
    """The effect of SIGTERM and SIGINT in a block `watching`: `Stopped` at once, or after a block that is `deferred`.

    advice: the end of the message of `Stopped`; ``asked``: the signal that arrived, or None.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, advice: str = "") -> None:
        self.advice = advice
        self.asked: signal.Signals | None = None
        self._deferred = False

    @contextmanager
    def watching(self) -> Iterator[Interruption]:
        """Handle the signals until the block ends; outside the main thread Python forbids that, and nothing changes."""
        try:
            before = {each: signal.signal(each, self._handle) for each in self.SIGNALS}
        except ValueError:
            before = {}
        try:
            yield self
        except _SignalReceived:
            assert self.asked is not None
            raise Stopped(self.asked, f"stopped by {self.asked.name}{self.advice}") from None
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        if not self._deferred:
            raise _SignalReceived

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a signal only set ``asked`` in the block, which can stop between steps; a set signal stops at its end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.asked is not None:
            raise _SignalReceived
