"""What a recipe's target asked for, and what the file came to."""

from __future__ import annotations

from eigenmill.compress.judging.evaluate import Evaluation
from eigenmill.compress.search import Search, Target
from eigenmill.jobs.shown.words import count, number, percent


def limits(target: Target, after: Evaluation, found: Search | None, machine: str) -> list[tuple[str, str, str]]:
    """For each limit what it is of, the limit, and what was reached.

    Args:
        target: what was asked for.
        after: the file, on the rows held out.
        found: the search, if there was one; it alone measures how long a call takes.
        machine: on which.
    """
    rows = []
    if target.max_bytes is not None:
        rows.append(("file", f"{count(target.max_bytes)} bytes", f"{count(after.bytes or 0)} bytes"))
    if target.max_error is not None:
        shown = percent if after.task == "classification" else number
        rows.append(("error on the rows held out", shown(target.max_error), shown(after.error)))
    if target.max_latency_us is not None:
        took = None if found is None else found.best.latency_us
        called = f"{target.backend}, {count(target.batch)} row{'s' if target.batch > 1 else ''} a call"
        what = f"time of {called}, quantile {target.quantile:g}, one thread, on {machine}"
        rows.append((what, f"{target.max_latency_us:,.1f} µs", "–" if took is None else f"{took:,.1f} µs"))
    return rows


__all__ = ["limits"]
