"""Page headers of a column chunk: what its pages take when they are decompressed, which no footer says.

A header is a Thrift struct in the compact protocol (parquet-format, ``PageHeader``); only its numbers are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from eigenmill.reduce.errors import DataError

HEADER = 512
"""Bytes read for a header; one with long statistics costs a second read."""
LONGEST = 16 << 20
"""Most bytes of a header."""
Field: TypeAlias = int | dict[int, "Field"] | None
"""A number, a struct by the numbers of its fields, or what has only been passed over."""
DICTIONARY_PAGE = 2
PIECE = 1 << 20
"""Bytes of a page that are decompressed at a time."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: where its data begin, their bytes in the file and decompressed, and its values."""

    kind: int
    start: int
    compressed: int
    size: int
    values: int


class Cursor:
    """Reads the compact protocol from bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def value(self, kind: int) -> Field:
        """A number, a struct as a dict by field, or None for what has only been passed over."""
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.integer()
        if kind == 7:
            self.at += 8
        elif kind == 8:
            size = self.varint()
            self.at += size
        elif kind in (9, 10):
            head = self.byte()
            for _ in range(self.varint() if head >> 4 == 15 else head >> 4):
                self.value(max(head & 15, 3))  # in a list, truth takes a byte
        elif kind == 12:
            return self.struct()
        else:
            raise ValueError(f"a field of kind {kind}")
        if self.at > len(self.data):
            raise IndexError(self.at)
        return None

    def struct(self) -> dict[int, Field]:
        found: dict[int, Field] = {}
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.integer()
            found[field] = self.value(head & 15)
        return found


def pages(file: pa.NativeFile, start: int, stop: int, most: int) -> list[Page]:
    """The first ``most`` pages of the column chunk in bytes ``start:stop``, its dictionary among them.

    Raises:
        DataError: there are no headers.
    """
    found = list[Page]()
    while start < stop and len(found) < most:
        fields, length = _header(file, start, stop)
        inner = next((each for each in map(fields.get, (5, 7, 8)) if isinstance(each, dict)), dict[int, Field]())
        told = [fields.get(1), fields.get(3), fields.get(2), inner.get(1, 0)]
        numbers = [n for n in told if isinstance(n, int) and n >= 0]
        if len(numbers) < len(told):
            raise DataError(f"expected the header of a page, found other bytes at byte {start}; write the file again")
        kind, compressed, size, values = numbers
        found.append(Page(kind, start + length, compressed, size, values))
        start += length + compressed
    return found


def _header(file: pa.NativeFile, start: int, stop: int) -> tuple[dict[int, Field], int]:
    size = HEADER
    while True:
        cursor = Cursor(file.read_at(min(size, stop - start), start))
        try:
            return cursor.struct(), cursor.at
        except (IndexError, ValueError, RecursionError) as error:
            if size >= min(stop - start, LONGEST):
                raise DataError(
                    f"expected the header of a page, found other bytes at byte {start}; write the file again"
                ) from error
            size *= 16


def longest_value(file: pa.NativeFile, page: Page, codec: str) -> int:
    """Bytes of the longest value in a dictionary page of texts or bytes.

    What is compressed as a stream is decompressed a little at a time.
    """
    longest = skip = 0
    rest = b""
    for chunk in _decompressed(file, page, codec):
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        data, at = rest + chunk[skip:], 0
        skip = 0
        while at + 4 <= len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            if size > longest:
                longest = size
            at += 4 + size
        rest = data[at:]
        skip = max(at - len(data), 0)
    return min(longest, page.size)


def _decompressed(file: pa.NativeFile, page: Page, codec: str) -> Iterator[bytes]:
    """The bytes of a page, piece by piece where the codec allows it."""
    if codec in ("ZSTD", "GZIP", "BROTLI"):
        with pa.CompressedInputStream(
            pa.BufferReader(file.read_at(page.compressed, page.start)), codec.lower()
        ) as all_:
            while chunk := all_.read(PIECE):
                yield chunk
        return
    data = file.read_at(page.compressed, page.start)
    if codec != "UNCOMPRESSED" and page.size:
        name = "lz4_raw" if codec.startswith("LZ4") else codec.lower()
        data = pa.decompress(data, decompressed_size=page.size, codec=name, asbytes=True)
    yield data
