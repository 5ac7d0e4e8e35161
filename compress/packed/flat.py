"""Numbers and names of a flat file, written and read: what :mod:`eigenmill.compress.packed.pack` makes one of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from eigenmill.compress.core.categories import MAX_TEXT
from eigenmill.reduce.errors import ArtifactError, ConfigError

T = TypeVar("T")
MAX_FILE = 1 << 28
"""Bytes of a packed file."""


def varint(value: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    """Zigzag: 0, -1, 1, -2 ... as 0, 1, 2, 3 ..."""
    return varint(2 * value if value >= 0 else -2 * value - 1)


def text(value: str) -> bytes:
    """Its length and UTF-8."""
    return text_bytes(value.encode())


def text_bytes(raw: bytes) -> bytes:
    """Their number and the bytes."""
    if len(raw) > MAX_TEXT:
        raise ConfigError(f"expected names and labels of at most {MAX_TEXT} bytes, found {len(raw)}; shorten them")
    return varint(len(raw)) + raw


class FlatReader:
    """The bytes in order; every count is checked against what is left and against its limit."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0
        self.taken: dict[str, int] = {}

    @property
    def at(self) -> int:
        return self._at

    def since(self, at: int) -> bytes:
        return self._content[at : self._at]

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def mark(self, section: str) -> None:
        """What has been read since the last mark is this section."""
        self.taken[section] = self._at - sum(self.taken.values())

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ArtifactError(f"expected {count} more bytes, found {self.left}")
        self._at += count
        return self._content[self._at - count : self._at]

    def byte(self, most: int) -> int:
        value = self.take(1)[0]
        if value > most:
            raise ArtifactError(f"expected a byte of at most {most}, found {value}")
        return value

    def varint(self, most: int, least: int = 0) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise ArtifactError("expected a number of at most 64 bits, found a longer one")
        if not least <= value <= most or (byte == 0 and shift > 7):
            raise ArtifactError(f"expected a number from {least} to {most}, found {value}")
        return value

    def signed(self, most: int) -> int:
        value = self.varint(2 * most)
        return -((value + 1) >> 1) if value & 1 else value >> 1

    def text(self) -> str:
        return self.take(self.varint(MAX_TEXT)).decode()

    def many(self, count: int, read: Callable[[], T]) -> list[T]:
        """``count`` items of at least one byte each."""
        if count > self.left:
            raise ArtifactError(f"expected {count} items, found {self.left} bytes")
        return [read() for _ in range(count)]


__all__ = ["MAX_FILE", "FlatReader", "signed", "text", "text_bytes", "varint"]
