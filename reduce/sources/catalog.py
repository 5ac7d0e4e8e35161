"""What is known of the input files, held in a few arrays: about a hundred bytes a file, and nothing for a row group.

A data set may have a hundred thousand files and a million row groups, and the process that plans a scan holds all
of them. So a list of files or fragments is a sequence that makes its items when asked for them:

- :class:`Files` keeps paths and digests end to end, and numbers in the narrowest type that holds them;
- :class:`RowGroups` keeps runs of row groups with equal rows, as writers make them;
- :class:`Fragments` keeps how many there are before each file, and cuts a file again when one is asked for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from eigenmill.reduce.storage.digest import tagged
from eigenmill.reduce.storage.sequences import Integers, OnDemand, PackedTexts, narrow


@dataclass(frozen=True, slots=True)
class Fragment:
    """One unit of reading: row groups ``start:stop`` of file number ``file`` (rows ``start:stop`` of an array)."""

    index: int
    file: int
    start: int
    stop: int
    rows: int


@tagged("FileInfo", "path size digest rows encoded")
@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of one input file: its path relative to the source's root, and its footer's digest.

    ``rows`` has one entry per row group; ``encoded`` is the compressed size in bytes of the columns that are read;
    ``values`` counts the numbers that a sparse layout stores, or a few more. ``hint`` and ``content`` tell two files of
    one path apart (:mod:`eigenmill.reduce.sources.seen`); they are no part of what the file is known by in digests.
    """

    path: str
    size: int
    digest: str
    rows: Sequence[int]
    encoded: int
    values: int = field(default=0, compare=False)
    hint: str = field(default="", compare=False)
    content: str = field(default="", compare=False)


class RowGroups(OnDemand[int]):
    """Rows of each row group of a file, as runs: ``rows[i]`` in every one up to number ``ends[i]``."""

    __slots__ = ("ends", "rows")

    def __init__(self, rows: Sequence[int] | Integers, ends: Sequence[int] | Integers) -> None:
        self.rows, self.ends = rows, ends

    @classmethod
    def of(cls, counts: Iterable[int]) -> RowGroups:
        """From the rows of each."""
        if isinstance(counts, RowGroups):
            return counts
        rows, ends, end = list[int](), list[int](), 0
        for value, run in groupby(counts):
            end += sum(1 for _ in run)
            rows.append(value)
            ends.append(end)
        return cls(tuple(rows), tuple(ends))

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(rows, first group, group after the last) of each run."""
        start = 0
        for rows, end in zip(self.rows, self.ends, strict=True):
            yield int(rows), start, int(end)
            start = int(end)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def item(self, index: int) -> int:
        return int(self.rows[bisect_right(self.ends, index)])

    def __iter__(self) -> Iterator[int]:
        for rows, start, end in self.runs():
            for _ in range(start, end):
                yield rows

    def __reduce__(self) -> tuple[type[RowGroups], tuple[tuple[int, ...], tuple[int, ...]]]:
        # Two arrays would travel as a few hundred bytes.
        return RowGroups, (tuple(map(int, self.rows)), tuple(map(int, self.ends)))


class Files(OnDemand[FileInfo]):
    """What is known of many files."""

    __slots__ = ("contents", "digests", "encoded", "ends", "hints", "paths", "row_ends", "rows", "sizes", "values")

    def __init__(self, infos: Iterable[FileInfo] = ()) -> None:
        numbers = [array("q") for _ in range(6)]
        sizes, encoded, values, rows, row_ends, ends = numbers
        self.paths, self.digests, self.hints, self.contents = (PackedTexts() for _ in range(4))
        for info in infos:
            self.paths.append(info.path)
            self.digests.append(info.digest)
            self.hints.append(info.hint)
            self.contents.append(info.content)
            sizes.append(info.size)
            encoded.append(info.encoded)
            values.append(info.values)
            for count, _, end in RowGroups.of(info.rows).runs():
                rows.append(count)
                row_ends.append(end)
            ends.append(len(rows))
        self.sizes, self.encoded, self.values, self.rows, self.row_ends, self.ends = map(narrow, numbers)

    def __len__(self) -> int:
        return len(self.sizes)

    def row_groups(self, index: int) -> RowGroups:
        """Rows of each row group of file ``index``."""
        start, stop = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        return RowGroups(self.rows[start:stop], self.row_ends[start:stop])

    def item(self, index: int) -> FileInfo:
        return FileInfo(
            self.paths[index],
            int(self.sizes[index]),
            self.digests[index],
            self.row_groups(index),
            int(self.encoded[index]),
            int(self.values[index]),
            self.hints[index],
            self.contents[index],
        )

    def __reduce__(self) -> tuple[type[Files], tuple[list[FileInfo]]]:
        # Whoever reads a file elsewhere compares its footer only.
        return Files, ([replace(info, hint="", content="") for info in self],)


class Fragments(OnDemand[Fragment]):
    """The fragments of many files: consecutive row groups of one file with at most ``target`` rows, or a larger one."""

    __slots__ = ("files", "firsts", "last", "n_rows", "target")

    def __init__(self, files: Sequence[FileInfo], target: int) -> None:
        self.files, self.target, self.n_rows = files, target, 0
        firsts, end = array("q", [0]), 0
        for number in range(len(files)):
            for _, _, rows, count in cut(self._row_groups(number), target):
                end += count
                self.n_rows += rows * count
            firsts.append(end)
        self.firsts = narrow(firsts)
        self.last: tuple[int, list[tuple[int, int, int, int]], list[int]] = (-1, [], [])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def item(self, index: int) -> Fragment:
        file = bisect_right(self.firsts, index) - 1
        # Fragments of one file are asked for one after the other; another thread may ask for others meanwhile.
        last, runs, ends = self.last
        if last != file:
            runs, ends = list(cut(self._row_groups(file), self.target)), []
            for *_, count in runs:
                ends.append((ends[-1] if ends else 0) + count)
            self.last = file, runs, ends
        within = index - int(self.firsts[file])
        run = bisect_right(ends, within)
        start, step, rows, count = runs[run]
        start += (within - ends[run] + count) * step
        return Fragment(index, file, start, start + step, rows)

    def counts(self) -> Iterator[tuple[int, int]]:
        """(rows, number of fragments in a row that have so many)."""
        for number in range(len(self.files)):
            for _, _, rows, count in cut(self._row_groups(number), self.target):
                yield rows, count

    def _row_groups(self, number: int) -> RowGroups:
        files = self.files
        return files.row_groups(number) if isinstance(files, Files) else RowGroups.of(files[number].rows)

    def __reduce__(self) -> tuple[type[Fragments], tuple[Sequence[FileInfo], int]]:
        return Fragments, (self.files, self.target)


def cut(groups: RowGroups, target: int) -> Iterator[tuple[int, int, int, int]]:
    """Fragments of one file, in runs: (first row group, row groups of each, rows of each, how many in a row)."""
    start = rows = 0
    for value, at, end in groups.runs():
        while at < end:
            if rows and rows + value > target:
                yield start, at - start, rows, 1
                start, rows = at, 0
            if not value:
                at = end
                continue
            fit = max((target - rows) // value, 0 if rows else 1)
            if not rows and start == at and (count := (end - at - 1) // fit):
                # The last one of a run stays open: the next run may continue it.
                yield start, fit, fit * value, count
                start = at = at + count * fit
            more = min(fit, end - at)
            rows, at = rows + more * value, at + more
    if rows:
        yield start, len(groups) - start, rows, 1


def row_counts(fragments: Sequence[Fragment], among: range | None = None) -> Iterator[tuple[int, int]]:
    """(rows, number of fragments in a row that have so many) of any fragments, or of those ``among`` them."""
    if isinstance(fragments, Fragments) and among is None:
        yield from fragments.counts()
    else:
        for i in range(len(fragments)) if among is None else among:
            yield fragments[i].rows, 1


def total_rows(fragments: Sequence[Fragment]) -> int:
    """Rows of all of them."""
    return sum(rows * count for rows, count in row_counts(fragments))


def runs_of(
    fragments: Sequence[Fragment], target: int, *, among: range | None = None, held: int = 0
) -> tuple[Integers, Integers, bool]:
    """Runs of fragments, each closed as soon as it holds ``target`` rows.

    Args:
        fragments: of which data.
        target: see above.
        among: some of them, by default all.
        held: rows that the first run has before it begins.

    Returns:
        The end of each run, its rows, and whether the last one is closed.
    """
    stops, rows = array("q"), array("q")
    start = end = 0 if among is None else among.start
    for more, count in row_counts(fragments, among):
        for _ in range(count):
            held, end = held + more, end + 1
            if held >= target:
                stops.append(end)
                rows.append(held)
                held = 0
    closed = end == (stops[-1] if stops else start)
    if not closed:
        stops.append(end)
        rows.append(held)
    return narrow(stops), narrow(rows), closed
