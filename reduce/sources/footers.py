"""The end of a Parquet file: what it says of rows and columns, and whether its counts agree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.errors import DataError, EigenmillError
from eigenmill.reduce.sources.catalog import FileInfo, RowGroups
from eigenmill.reduce.sources.extents import leaves_of
from eigenmill.reduce.sources.layouts import DENSE
from eigenmill.reduce.storage.digest import digest_of_bytes

TAIL = 64 << 10
"""Bytes read from a file's end to get its footer, and digested with it; a longer footer costs a second read."""


@contextmanager
def parquet_errors(where: str) -> Iterator[None]:
    """Turns what pyarrow raises on damaged, truncated or forbidden files into a DataError about ``where``."""
    try:
        yield
    except (EigenmillError, MemoryError):
        raise
    except (OSError, pa.ArrowException) as error:
        found = " ".join(str(error).split())
        raise DataError(
            f"expected a readable Parquet file, found an error in {where}: {found}; check that the file is "
            "complete and that you may read it, or write it again"
        ) from error


@dataclass(frozen=True)
class Footer:
    """The end of a file: its metadata as it lies there, and the data before it that the same read brought."""

    size: int
    tail: bytes
    before: bytes
    content: str = ""
    """SHA-256 of the whole file, where it was asked for."""

    @property
    def digest(self) -> str:
        # Without statistics, files of equal size may have equal footers: the last data tell most apart.
        return digest_of_bytes([self.before, self.tail, self.size.to_bytes(8, "little")])

    @property
    def metadata(self) -> pq.FileMetaData:
        return _parsed(self.tail)


@lru_cache(maxsize=2)
def _parsed(tail: bytes) -> pq.FileMetaData:
    # Kept: fragments of one file are read one after the other, and a wide footer takes long to parse.
    return pq.read_metadata(pa.BufferReader(tail))


def read_footer(file: pa.NativeFile, path: str) -> Footer:
    """The footer of an open file.

    Raises:
        DataError: the file does not end like a Parquet file.
    """
    size = file.size()
    end = file.read_at(min(TAIL, size), max(size - TAIL, 0))
    length = int.from_bytes(end[-8:-4], "little") + 8
    if end[-4:] != b"PAR1" or length > size:
        raise DataError(
            f"expected a Parquet file, found {size} bytes that do not end like one in {path}; "
            "the file is truncated, encrypted or of another kind: remove it, or write it again"
        )
    tail = end[-length:] if length <= len(end) else file.read_at(length, size - length)
    return Footer(size, tail, end[:-length] if length < len(end) else b"")


def _count(
    metadata: pq.FileMetaData,
    groups: Sequence[pq.RowGroupMetaData],
    read: Sequence[tuple[int, str]],
    flat: Collection[str],
    path: str,
) -> None:
    """Refuse a file whose row groups do not have the rows of the file, or whose columns not those of their group."""
    rows = sum(group.num_rows for group in groups)
    if rows != metadata.num_rows or any(group.num_rows < 0 for group in groups):
        raise miscounted(path, f"{metadata.num_rows} rows in its row groups, as the file says", f"{rows}")
    for number, group in enumerate(groups):
        expected = group.num_rows
        for i, leaf in read:
            found = group.column(i).num_values
            # A list has a value for each element, and one if it is empty.
            if found != expected and (found < expected or leaf in flat):
                raise miscounted(f"{path}, row group {number}, column {leaf!r}", f"{expected} values", f"{found}")


def miscounted(where: str, expected: str, found: str) -> DataError:
    """The error for numbers of rows or values that disagree."""
    return DataError(f"expected {expected}, found {found} in {where}; the file is damaged: write it again")


def info_of(
    footer: Footer, relative: str, path: str, columns: Sequence[str], flat: Collection[str], counted: str | None
) -> FileInfo:
    """What is known of a file by its footer.

    Args:
        footer: of the file.
        relative: its path below the root.
        path: its full path, for messages.
        columns: those that are read.
        flat: those of them that have one value in every row.
        counted: the column whose values are counted.

    Raises:
        DataError: numbers of rows or values disagree.
    """
    metadata, wanted = footer.metadata, set(columns)
    leaves, groups = leaves_of(metadata), [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    found = [(i, leaf) for i, leaf in enumerate(leaves) if leaf in wanted or leaf.split(".", 1)[0] in wanted]
    _count(metadata, groups, found, flat, path)
    read = [i for i, _ in found]
    if len(read) == len(leaves):
        encoded = footer.size - len(footer.tail)
    else:
        encoded = sum(group.column(i).total_compressed_size for group in groups for i in read)
    rows = RowGroups.of(group.num_rows for group in groups)
    stored = [i for i, leaf in enumerate(leaves) if leaf.split(".", 1)[0] == counted]
    # The leaf of the values is the last one, in Spark's vectors too.
    values = sum(group.column(stored[-1]).num_values for group in groups) if stored else 0
    return FileInfo(relative, footer.size, footer.digest, rows, encoded, values)


def all_dense(metadata: pq.FileMetaData, column: str) -> bool:
    """Whether the statistics say that every Spark vector of the column is dense."""
    for group in range(metadata.num_row_groups):
        leaf = leaves_of(metadata).index(f"{column}.type")
        chunk = metadata.row_group(group).column(leaf)
        known = chunk.statistics
        if known is None:
            return False
        empty = known.has_null_count and known.null_count == chunk.num_values
        if not empty and not (known.has_min_max and known.min == DENSE):
            return False
    return True
