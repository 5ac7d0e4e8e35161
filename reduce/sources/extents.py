"""What decoding takes, column by column: from footers, and page headers where these do not say.

A footer tells the values and the decompressed bytes of every column chunk. Of numbers that is all. It does not tell

- the size of a page, of which one is decompressed at a time: the headers of the largest chunks are looked at;
- how long the values are that a dictionary holds, each of which may stand in any number of rows: the dictionary of
  the largest chunk is looked at;
- which rows of a row group are long: those that lie together are taken to hold ``SKEW`` times the mean at most.

Who reads within a budget checks the last two as it reads (:mod:`eigenmill.reduce.sources.pieces`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.errors import DataError
from eigenmill.reduce.sources.pages import DICTIONARY_PAGE, Page, longest_value, pages
from eigenmill.reduce.sources.pieces import WHOLE, piece_rows

PAGE = (1 << 20) + (128 << 10)
"""Bytes that one column chunk holds while it streams: a data page of Parquet's usual size and a read buffer."""
SKEW = 4
"""Rows that lie together hold so many times the mean of their row group, at most."""
SMALL_DICTIONARY = 2 << 10
"""Bytes of a dictionary whose values are short enough, whichever they are."""
LOOKS, HEADERS, REMOTE_HEADERS = 16, 64, 2
"""Chunks of numbers whose page headers are looked at, and headers of each, on a local disk and on a store."""
SQUEEZED = 64
"""A row group that is so many times larger than its file may hold pages of any size."""
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "FIXED_LEN_BYTE_ARRAY": 16}


@dataclass(frozen=True, slots=True)
class Extent:
    """What one column takes, in bytes.

    Attributes:
        row: of a decoded row, the mean of a row group; of values in a dictionary, the longest.
        near: of each of some rows that lie together.
        pages: while it streams: a page as it lies in the file and decompressed, and what decodes a dictionary.
        dictionary: of a dictionary that comes with every batch.
        values: numbers of a row, the mean of a row group.
    """

    row: float
    near: float
    pages: int = 0
    dictionary: int = 0
    values: float = 1.0

    def over(self, other: Extent) -> Extent:
        """The larger of both in all."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Extent(*[max(pair) for pair in pairs])


def fixed_row(type_: pa.DataType) -> float | None:
    """Bytes of a row of a flat type of numbers and the like; None where rows differ."""
    if pa.types.is_nested(type_) or pa.types.is_dictionary(type_):
        return None
    if isinstance(type_, pa.BaseExtensionType):
        return fixed_row(type_.storage_type)
    try:
        return float(type_.bit_width) / 8 + 1 / 8
    except ValueError:
        return 1.0 if pa.types.is_null(type_) else None


def row_extent(
    group: pq.RowGroupMetaData, leaves: Sequence[int], type_: pa.DataType, file: pa.NativeFile | None = None
) -> Extent:
    """What a decoded row of the column takes in a row group.

    Of texts that a dictionary holds the longest one counts, which takes a look into the ``file``.
    """
    if pa.types.is_dictionary(type_):
        return Extent(4.0, 4.0)
    rows, nested = max(group.num_rows, 1), pa.types.is_nested(type_)
    mean = listed = 4.0 * rows
    for leaf in leaves:
        chunk = group.column(leaf)
        value = longest = float(WIDTHS.get(chunk.physical_type, 16))
        if chunk.physical_type == "BYTE_ARRAY":
            value = longest = chunk.total_uncompressed_size / max(chunk.num_values, 1) + 4
            first = look(file, chunk, 1) if file is not None and chunk.has_dictionary_page else []
            if first and first[0].kind == DICTIONARY_PAGE:
                small = first[0].size <= SMALL_DICTIONARY
                longest = 4 + float(first[0].size if small else longest_value(file, first[0], chunk.compression))
        # Of lists, levels of two bytes are decoded with the values.
        mean += chunk.num_values * (value + 4 * nested)
        listed += chunk.num_values * (max(value, longest) + 4 * nested)
    values = group.column(leaves[-1]).num_values / rows
    return Extent(listed / rows, max(SKEW * mean, listed) / rows, values=values)


def streamed(chunk: pq.ColumnChunkMetaData, found: Sequence[Page]) -> tuple[int, int]:
    """Bytes that a column chunk holds while it streams, by those of its pages that are known; those of a dictionary.

    A page lies there as in the file and decompressed. A dictionary is decompressed and copied.
    """
    if not found:
        return min(chunk.total_uncompressed_size + chunk.total_compressed_size, 2 * PAGE), 0
    data = [page.size + page.compressed for page in found if page.kind != DICTIONARY_PAGE]
    held = [page for page in found if page.kind == DICTIONARY_PAGE]
    # What came from the file is let go with the next page.
    return max(data, default=0) + sum(2 * page.size + page.compressed for page in held), sum(p.size for p in held)


def column_extent(
    group: pq.RowGroupMetaData, leaves: Sequence[int], type_: pa.DataType, file: pa.NativeFile, most: int
) -> Extent:
    """What the column takes in a row group, by ``most`` headers of its pages."""
    chunks = [group.column(leaf) for leaf in leaves]
    found = [streamed(chunk, look(file, chunk, most)) for chunk in chunks]
    pages, held = (sum(each) for each in zip(*found, strict=True))
    if pa.types.is_dictionary(type_):
        return Extent(4.0, 4.0, pages + 2 * held, held)
    fixed = fixed_row(type_)
    return replace(row_extent(group, leaves, type_, file) if fixed is None else Extent(fixed, fixed), pages=pages)


def look(file: pa.NativeFile, chunk: pq.ColumnChunkMetaData, most: int) -> list[Page]:
    """The first pages of a column chunk."""
    if not chunk.num_values:
        return []
    start = chunk.data_page_offset
    if chunk.has_dictionary_page:
        start = min(start, chunk.dictionary_page_offset)
    return pages(file, start, start + chunk.total_compressed_size, most)


class Ended(Protocol):
    """The footer of a file, as far as it is needed here."""

    @property
    def metadata(self) -> pq.FileMetaData:
        """What it says."""


@dataclass
class Extents:
    """Collects the extents of the columns that are read, as footers come by.

    Attributes:
        types: of the columns, by name.
        found: of the columns whose rows differ.
    """

    types: Mapping[str, pa.DataType]
    found: dict[str, Extent] = field(default_factory=dict)
    varying: list[str] = field(init=False)
    largest: dict[str, tuple[int, str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.varying = [name for name, type_ in self.types.items() if fixed_row(type_) is None]

    @property
    def schema(self) -> pa.Schema:
        """The columns whose rows differ."""
        return pa.schema([pa.field(name, self.types[name]) for name in self.varying])

    def add(self, path: str, size: int, metadata: pq.FileMetaData) -> None:
        """Take in the footer of a file of ``size`` bytes."""
        leaves = leaves_of(metadata) if self.varying else []
        at = {name: indices_of(leaves, name) for name in self.varying}
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            whole = group.total_byte_size
            self._keep("", whole, path, number)
            if whole > SQUEEZED * size:
                self._keep("squeezed", whole, path, number)
            for name, indices in at.items():
                self._take(name, row_extent(group, indices, self.types[name]))
                self._keep("of " + name, sum(group.column(i).total_uncompressed_size for i in indices), path, number)

    def _take(self, name: str, extent: Extent) -> None:
        self.found[name] = extent.over(self.found.get(name, extent))

    def _keep(self, what: str, size: int, path: str, group: int) -> None:
        if size > self.largest.get(what, (-1,))[0]:
            self.largest[what] = size, path, group

    def look(
        self,
        opened: Callable[[str], pa.NativeFile],
        footer: Callable[[pa.NativeFile, str], Ended],
        *,
        remote: bool,
    ) -> dict[str, Extent]:
        """The extents, once the largest chunks have been looked at.

        Args:
            opened: opens a file by its path.
            footer: reads the footer of an open file.
            remote: whether a look takes long.
        """
        most = REMOTE_HEADERS if remote else HEADERS
        for what, (_, path, number) in self.largest.items():
            with opened(path) as file:
                metadata = footer(file, path).metadata
                group, leaves = metadata.row_group(number), leaves_of(metadata)
                names = [what.removeprefix("of ")] if what.startswith("of ") else self._suspects(group, leaves)
                for name in names:
                    with contextlib.suppress(DataError):  # whoever reads the column says what is wrong
                        self._take(name, column_extent(group, indices_of(leaves, name), self.types[name], file, most))
        return self.found

    def _suspects(self, group: pq.RowGroupMetaData, leaves: Sequence[str]) -> list[str]:
        """The columns of numbers with the largest chunks, if these are larger than a usual page."""
        sizes = [
            (group.column(i).total_uncompressed_size, name)
            for i, name in enumerate(leaves)
            if name in self.types and name not in self.varying
        ]
        return [name for size, name in sorted(sizes, reverse=True)[:LOOKS] if size > PAGE]


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading blocks takes beside dense features, at most, in bytes.

    Attributes:
        pages: of all columns while they stream.
        piece: decoded at a time, of lists, texts, and what is carried or filtered by.
        carried: the carried columns of a block.
        whole: whether blocks come in one piece.
        column: which takes most.
    """

    pages: int = 0
    piece: int = 0
    carried: int = 0
    whole: bool = True
    column: str = ""


def reading(extents: Mapping[str, Extent], carried: Collection[str], height: int, rows: int, most: int) -> Reading:
    """What reading takes.

    Args:
        extents: of the columns, but for dense features.
        carried: those that travel along.
        height: of a block.
        rows: of the largest fragment.
        most: bytes of carried columns with which a block ends.
    """
    step = piece_rows(height, sum(each.row for each in extents.values()))
    pieces = {n: min(rows * each.row, step * each.near) + each.dictionary for n, each in extents.items()}
    whole = min(rows, SKEW * height) * sum(each.row for each in extents.values())
    held = {n: min(rows * e.row, height * e.near) + e.dictionary for n, e in extents.items() if n in carried}
    # Where some row groups come in pieces, others may come whole.
    piece = sum(pieces.values()) if step == height else max(sum(pieces.values()), min(SKEW * WHOLE / 2, whole))
    costs = {name: each.pages + pieces[name] + held.get(name, 0) for name, each in extents.items()}
    return Reading(
        sum(each.pages for each in extents.values()),
        int(piece),
        int(min(sum(held.values()), most + piece)),
        step == height,
        max(costs, key=lambda name: costs[name], default=""),
    )


def indices_of(leaves: Sequence[str], column: str) -> list[int]:
    """Which leaves belong to a column."""
    return [i for i, leaf in enumerate(leaves) if leaf == column or leaf.startswith(column + ".")]


def leaves_of(metadata: pq.FileMetaData, number: int = 0) -> list[str]:
    """Paths of the leaf columns; none in a file without row groups.

    Not from ``metadata.schema``: that and the metadata refer to each other, and stay until the garbage is collected.
    """
    if not metadata.num_row_groups:
        return []
    group = metadata.row_group(number)
    return [group.column(i).path_in_schema for i in range(group.num_columns)]
