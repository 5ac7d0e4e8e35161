"""Progress bars on a terminal: rows, rows per second, time remaining."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from eigenmill.jobs.shown.words import SCANS, count


class RowsColumn(ProgressColumn):
    """Rows done of all, and rows per second."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f" of {count(task.total)}"
        rate = task.finished_speed or task.speed
        return Text(f"{count(task.completed)}{total} rows" + (f", {count(rate)} rows/s" if rate else ""))


class Bars:
    """One bar per scan on ``console``: a :class:`eigenmill.reduce.engines.base.Progress` and a context manager."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            RowsColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
        )
        self._progress = Progress(*columns, console=console, expand=True, transient=True)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, stage: str, rows: int, size: int) -> Bar:
        return Bar(self._progress, self._progress.add_task(SCANS.get(stage, stage), total=rows))


class Bar:
    """The bar of one scan."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._ended = progress, task, False

    def advance(self, rows: int) -> None:
        if not self._ended:
            self._progress.advance(self._task, rows)

    def end(self) -> None:
        self._ended = True
        self._progress.stop_task(self._task)


__all__ = ["Bars"]
