"""The footer of a Parquet file, and what its reader's errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.errors import DataError, EigenmillError
from eigenmill.reduce.storage.digest import digest_of_bytes

TAIL = 64 << 10
"""Bytes read from a file's end to get its footer; a longer footer costs a second read."""


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
