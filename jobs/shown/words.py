"""Numbers as people read them, and what scans are called."""

from __future__ import annotations

import math

SCANS = {
    "moments": "counting and averaging",
    "gram": "forming the products",
    "rows": "gathering the rows",
    "tsqr": "refining",
    "sketch": "sketching",
    "write": "writing",
    "train": "training",
    "search": "searching",
}
"""What the scans do, by the names that engines report."""


def count(number: float) -> str:
    """A whole number with groups of digits."""
    return f"{number:,.0f}"


def seconds(duration: float) -> str:
    """A duration in fitting units."""
    if duration < 1:
        return f"{duration * 1000:.0f} ms"
    if duration < 120:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def number(value: float | None) -> str:
    """A measured value with five digits; nothing for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.5g}"


def percent(share: float) -> str:
    """A share of one in percent."""
    return f"{100 * share:.2f} %"


def visible(text: str) -> str:
    """Text of unknown origin as a terminal may show it: control characters and the like as escapes, lines kept."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


__all__ = ["SCANS", "count", "number", "percent", "seconds", "visible"]
