"""Progress bars on standard error, for whatever takes longer than a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Bar:
    """One bar of a `rich` progress display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move on by ``amount`` and show ``note`` behind the bar."""
        self._progress.update(self._task, advance=amount, note=note)


class _Rate(ProgressColumn):
    """Things a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {task.fields['unit']}/s")


@contextmanager
def track(label: str, total: int, unit: str, *, show: bool = True) -> Iterator[Bar]:
    """A bar that counts to ``total`` ``unit``, with speed and time left; nothing is printed unless ``show``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show, redirect_stdout=False) as progress:
        yield Bar(progress, progress.add_task(label, total=total, unit=unit, note=""))
