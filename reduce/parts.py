"""Parts: the runs of consecutive fragments that become one file each. A function of data, model and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reduce.dataset import Fragment

PART_BYTES = (8 << 20, 128 << 20)
"""Bounds of a part's feature bytes; between them an output has about 64 parts. Format constants."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of consecutive fragments that becomes one part.

    ``rows`` is an upper bound: transforms may drop rows. ``source`` lists (file, start, stop): row groups
    ``start:stop`` of the input file with that number (rows ``start:stop`` of an array).
    """

    index: int
    fragments: range
    rows: int
    source: tuple[tuple[int, int, int], ...]

    @property
    def name(self) -> str:
        return f"part-{self.index:05d}"


def plan_parts(
    fragments: Sequence[Fragment], n_features: int, itemsize: int, part_bytes: int | None
) -> tuple[Part, ...]:
    """Cuts ``fragments`` into parts: runs, closed as soon as they hold the target's rows.

    The target depends on the numbers of rows and features and on ``itemsize`` (bytes of one value) only.
    Data without fragments make one empty part, so that an output always has a schema.
    """
    row_bytes = max(n_features * itemsize, 1)
    total = sum(f.rows for f in fragments) * row_bytes
    target = max((part_bytes or min(max(total // 64, PART_BYTES[0]), PART_BYTES[1])) // row_bytes, 1)
    parts, start, rows = list[Part](), 0, 0
    for i, fragment in enumerate(fragments):
        rows += fragment.rows
        if rows >= target or i + 1 == len(fragments):
            parts.append(Part(len(parts), range(start, i + 1), rows, _sources(fragments[start : i + 1])))
            start, rows = i + 1, 0
    return tuple(parts) or (Part(0, range(0), 0, ()),)


def _sources(fragments: Sequence[Fragment]) -> tuple[tuple[int, int, int], ...]:
    found: list[tuple[int, int, int]] = []
    for f in fragments:
        if found and found[-1][0] == f.file and found[-1][2] == f.start:
            found[-1] = (f.file, found[-1][1], f.stop)
        else:
            found.append((f.file, f.start, f.stop))
    return tuple(found)
