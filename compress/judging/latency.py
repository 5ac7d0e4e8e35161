"""Latency: how long a prediction takes, by backend and batch, on this machine."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eigenmill.compress.core.categories import take_rows
from eigenmill.compress.core.front import RawRows
from eigenmill.reduce.engines.base import one_blas_thread

SECONDS = 0.5
"""Longest measurement of one pair of backend and batch, warm-up apart; at least 20 calls."""
CALLS = 2000


@dataclass(frozen=True)
class Latency:
    """Microseconds of a call on ``batch`` rows, one thread: the median and the 95th percentile of ``calls`` calls."""

    backend: str
    batch: int
    p50_us: float
    p95_us: float
    calls: int


def latency(backend: str, predict: Callable[[RawRows], object], X: RawRows, batch: int) -> Latency:
    """Time ``predict`` on ``batch`` rows of X (n, d) at a time."""
    took = time_calls(predict, X, batch)
    p50, p95 = np.quantile(took, [0.5, 0.95]) * 1e6
    return Latency(backend, batch, float(p50), float(p95), len(took))


def time_calls(predict: Callable[[RawRows], object], X: RawRows, batch: int) -> list[float]:
    """Seconds of many calls on ``batch`` rows of X, an array (n, d) or a table; other rows each time if n allows.

    Calls outside Python are timed with the call from Python.
    """
    rows = np.resize(np.arange(len(X)), max(batch, len(X)))
    starts = np.arange(0, len(rows) - batch + 1, batch)
    parts = [take_rows(X, rows[start : start + batch]) for start in starts[:64]]
    took: list[float] = []
    with one_blas_thread():
        for part in parts[:4]:
            predict(part)
        end = time.perf_counter() + SECONDS
        while len(took) < 20 or (len(took) < CALLS and time.perf_counter() < end):
            part = parts[len(took) % len(parts)]
            began = time.perf_counter()
            predict(part)
            took.append(time.perf_counter() - began)
    return took


def machine() -> str:
    """The processor on which times are measured, as it calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


__all__ = ["Latency", "latency", "machine", "time_calls"]
