"""Parts: the runs of consecutive fragments that become one file each. A function of data, model and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eigenmill.reduce.format import Format
from eigenmill.reduce.sources.catalog import Fragment, runs_of, total_rows
from eigenmill.reduce.storage.sequences import Integers, OnDemand


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


class Parts(OnDemand[Part]):
    """The parts of an output, by the end of each in fragments and its rows: a few bytes a part."""

    __slots__ = ("fragments", "rows", "stops")

    def __init__(self, fragments: Sequence[Fragment], stops: Integers, rows: Integers) -> None:
        self.fragments, self.stops, self.rows = fragments, stops, rows

    def __len__(self) -> int:
        return len(self.stops)

    def item(self, index: int) -> Part:
        start, stop = int(self.stops[index - 1]) if index else 0, int(self.stops[index])
        return Part(index, range(start, stop), int(self.rows[index]), _sources(self.fragments[start:stop]))


def plan_parts(
    fragments: Sequence[Fragment], n_features: int, itemsize: int, part_bytes: int | None, format: Format
) -> Sequence[Part]:
    """Cuts ``fragments`` into parts: runs, closed as soon as they hold the target's rows.

    The target depends on the numbers of rows and features, on ``itemsize`` (bytes of one value) and the format only.
    Data without fragments make one empty part, so that an output always has a schema.
    """
    row_bytes = max(n_features * itemsize, 1)
    total = total_rows(fragments) * row_bytes
    usual = min(max(total // format.parts, format.part_least), format.part_most)
    target = max((part_bytes or usual) // row_bytes, 1)
    if not len(fragments):
        return (Part(0, range(0), 0, ()),)
    stops, rows, _ = runs_of(fragments, target)
    return Parts(fragments, stops, rows)


def _sources(fragments: Sequence[Fragment]) -> tuple[tuple[int, int, int], ...]:
    found: list[tuple[int, int, int]] = []
    for f in fragments:
        if found and found[-1][0] == f.file and found[-1][2] == f.start:
            found[-1] = (f.file, found[-1][1], f.stop)
        else:
            found.append((f.file, f.start, f.stop))
    return tuple(found)
