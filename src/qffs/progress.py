"""Progress bars on standard error, for whatever takes longer than a moment; of several processes one shows them."""

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
    """Whether this is process 0 of those that a launcher such as ``torchrun`` started together, or alone."""
    return os.environ.get("RANK", "0") == "0"


class Bar:
    """One bar of a `rich` progress display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move on by ``amount`` and show ``note`` behind the bar."""
        self._progress.update(self._task, advance=amount, note=note)

    def say(self, sentence: str) -> None:
        """Leave a sentence above the bar; nothing where no bar is shown."""
        if not self._progress.disable:
            self._progress.console.print(sentence, markup=False, highlight=False)


class _Rate(ProgressColumn):
    """Things a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {task.fields['unit']}/s")


@contextmanager
def track(label: str, total: int, unit: str, *, show: bool = True) -> Iterator[Bar]:
    """A bar that counts to ``total`` ``unit``, with speed and time left; only where ``show``, and in process 0."""
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
"""Seconds that work of unknown length may take before a spinner shows that it goes on."""


@contextmanager
def wait(label: str, *, show: bool = True) -> Iterator[None]:
    """A spinner on a terminal, from `PATIENCE_S` on and gone at the end; only where ``show``, and in process 0."""
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
        timer.join()  # the spinner runs by now, or never will
        spinner.stop()
