"""What a run needs to go on after it was killed, in one file that is always whole; and being asked to stop."""

from __future__ import annotations

import os
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
    """The file ``state.pt`` in the folder of a run: written whole or not at all, by process 0 alone.

    every_s: seconds between two writes in the middle of an epoch. Each end of an epoch is written too.
    """

    def __init__(self, folder: Path, every_s: float = 60.0) -> None:
        self.path = folder / FILE
        self.every_s = every_s
        self._written_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._written_s >= self.every_s

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace what was written before; raises `CheckpointError`, and leaves it, where that cannot be done."""
        self._written_s = time.monotonic()
        if distributed.rank():
            return
        fresh = self.path.with_name(f".{FILE}.new")
        try:
            with fresh.open("wb") as stream:
                torch.save(dict(state), stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self.path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            kept = f"; the last one, in {self.path}, is whole" if self.path.exists() else ""
            raise CheckpointError(f"the state of the run could not be written: {_reason(error)}{kept}") from error
        finally:
            with suppress(OSError):
                fresh.unlink()

    def read(self) -> dict[str, Any] | None:
        """What was written last, on the CPU; None where nothing was. Runs no code of the file."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # what a file of something else, or a part of one, raises is up to torch
            reason = _reason(error) or type(error).__name__
            raise CheckpointError(f"{self.path} cannot be read: {reason}") from error
        if not isinstance(state, dict) or "stage" not in state:
            raise CheckpointError(f"{self.path} holds something else than the state of a run")
        return state

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if not distributed.rank():
            self.path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    cause = error if isinstance(error, OSError) else error.__context__
    return str((cause.strerror if isinstance(cause, OSError) else None) or error)


class _Asked(BaseException):
    """A signal came. No `Exception`, which code that turns whatever fails into a sentence would take for a failure."""


class Interruption:
    """What SIGTERM and SIGINT do in `watching`: `Stopped` at once, or after the block where they are `deferred`.

    advice: what the message of `Stopped` ends with.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, advice: str = "") -> None:
        self.advice = advice
        self.asked: signal.Signals | None = None
        self._deferred = False

    @contextmanager
    def watching(self) -> Iterator[Interruption]:
        """Handle the signals until the block ends; does nothing outside the main thread, where Python forbids it."""
        try:
            before = {each: signal.signal(each, self._handle) for each in self.SIGNALS}
        except ValueError:
            before = {}
        try:
            yield self
        except _Asked:
            assert self.asked is not None
            raise Stopped(self.asked, f"stopped by {self.asked.name}{self.advice}") from None
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        if not self._deferred:
            raise _Asked

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the signal: who called looks at ``asked`` between steps; one that is left stops at the end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.asked is not None:
            raise _Asked
