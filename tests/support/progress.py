"""Progress that keeps what it is told, and may act on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Scan:
    """One scan: its stage, the rows that it was to take, and what has been told of it."""

    stage: str
    planned: int
    recorder: Recorder
    rows: int = 0
    calls: int = 0
    ends: int = 0

    def advance(self, rows: int) -> None:
        with self.recorder.lock:
            self.rows += rows
            self.calls += 1
        self.recorder.act(self)

    def end(self) -> None:
        self.ends += 1


class Recorder:
    """Keeps its scans in order; any number of them may go on at once, in any threads.

    Args:
        act: called with a scan when it begins and whenever it goes on.
    """

    def __init__(self, act: Callable[[Scan], Any] = lambda scan: None) -> None:
        self.act, self.scans, self.lock = act, list[Scan](), threading.Lock()

    def begin(self, stage: str, rows: int, size: int) -> Scan:
        scan = Scan(stage, rows, self)
        self.scans.append(scan)
        self.act(scan)
        return scan

    @property
    def rows(self) -> int:
        """Rows of all scans."""
        return sum(scan.rows for scan in self.scans)

    @property
    def calls(self) -> int:
        """How often scans have gone on."""
        return sum(scan.calls for scan in self.scans)

    @property
    def ends(self) -> int:
        """How often scans have ended."""
        return sum(scan.ends for scan in self.scans)

    @property
    def planned(self) -> list[tuple[str, int]]:
        """(stage, rows that it was to take) of each scan."""
        return [(scan.stage, scan.planned) for scan in self.scans]

    @property
    def read(self) -> list[tuple[str, int]]:
        """(stage, rows that it took) of each scan."""
        return [(scan.stage, scan.rows) for scan in self.scans]


class At(Recorder):
    """Acts once, as soon as scans have come to a row."""

    def __init__(self, row: int, act: Callable[[], Any]) -> None:
        super().__init__(self._come)
        self.row, self.once, self.done = row, act, False

    def _come(self, scan: Scan) -> None:
        with self.lock:
            now = not self.done and scan.calls > 0 and self.rows >= self.row
            self.done = self.done or now
        if now:
            self.once()
