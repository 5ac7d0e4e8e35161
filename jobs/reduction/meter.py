"""What a run has really done: every scan that an engine reports, and the process's peak of memory."""

from __future__ import annotations

import contextlib
import logging
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from eigenmill.reduce.engines.base import Progress, ScanProgress


@dataclass
class MeasuredScan:
    """One pass over the data: rows planned, rows that were really read (fewer after a resume), and seconds."""

    name: str
    planned: int
    rows: int = 0
    seconds: float = 0.0


class ScanMeter:
    """Counts and times one scan."""

    def __init__(self, scan: MeasuredScan, shown: ScanProgress | None) -> None:
        self._scan, self._shown = scan, shown
        self._lock, self._began = threading.Lock(), time.perf_counter()

    def advance(self, rows: int) -> None:
        with self._lock:
            self._scan.rows += rows
        if self._shown is not None:
            self._shown.advance(rows)

    def end(self) -> None:
        self._scan.seconds = time.perf_counter() - self._began
        if self._shown is not None:
            self._shown.end()


@dataclass
class Meter:
    """Counts scans and times stages; passes progress on to ``shown``. Threads may call it at once."""

    shown: Progress | None = None
    scans: list[MeasuredScan] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def begin(self, stage: str, rows: int, size: int) -> ScanMeter:
        scan = MeasuredScan(stage, rows)
        self.scans.append(scan)
        return ScanMeter(scan, None if self.shown is None else self.shown.begin(stage, rows, size))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def forget_peak() -> None:
    """Let the peak of memory begin anew, where Linux allows it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as control:
        control.write("5")


def peak_memory() -> int:
    """Bytes that this process held at most, since it began or since :func:`forget_peak`.

    ``ru_maxrss``, which it is where there is no /proc, cannot forget, and remembers the parent's memory too.
    """
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def told_of_remade() -> Iterator[list[str]]:
    """Gathers what the log says within of damaged things of our own that are made again."""
    found: list[str] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.__dict__.get("remade"):
                found.append(record.getMessage())

    log, handler = logging.getLogger("eigenmill"), Told()
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


__all__ = ["MeasuredScan", "Meter", "forget_peak", "peak_memory", "told_of_remade"]
