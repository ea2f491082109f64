"""Progress bars on standard error, for work that takes longer than a moment. Only process 0 shows them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def first() -> bool:
    """Return whether this is process 0 of a launcher such as ``torchrun``, or the only process."""
    return os.environ.get("RANK", "0") == "0"


class Bar:
    """One bar of a `rich` progress display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Advance by ``amount`` and show ``note`` behind the bar."""
        self._progress.update(self._task, advance=amount, note=note)

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar, or nothing where no bar is shown."""
        if not self._progress.disable:
            self._progress.console.print(sentence, markup=False, highlight=False)


class _Rate(ProgressColumn):
    """The speed, in units per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {task.fields['unit']}/s")


@contextmanager
def track(label: str, total: int, unit: str, *, show: bool = True) -> Iterator[Bar]:
    """Show a bar that counts to ``total``, with the speed in ``unit`` per second and the time left; yield the `Bar`.

    It is hidden where ``show`` is false, and in all processes but the first.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    hidden = not (show and first())
    with Progress(*columns, console=Console(stderr=True), disable=hidden, redirect_stdout=False) as progress:
        yield Bar(progress, progress.add_task(label, total=total, unit=unit, note=""))


PATIENCE_S = 2.0
"""The seconds that work of unknown length may take before a spinner shows that it continues."""


@contextmanager
def wait(label: str, *, show: bool = True) -> Iterator[None]:
    """Show a spinner on a terminal after `PATIENCE_S` seconds, and remove it at the end.

    It is hidden where ``show`` is false, and in all processes but the first.
    """
    console = Console(stderr=True)
    if not (show and first() and console.is_terminal):
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    spinner = Progress(*columns, console=console, transient=True, redirect_stdout=False)
    spinner.add_task(label, total=None)
    timer = threading.Timer(PATIENCE_S, spinner.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # after this, the spinner runs or never starts
        spinner.stop()
