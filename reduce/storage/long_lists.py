"""JSON with long lists in it, read and written item by item.

A manifest lists every input file and every part, a saved state every file that it has seen. As Python values an item
takes a kilobyte; here it takes the length of its text, and it is a value while somebody looks at it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from eigenmill.reduce.storage import plain
from eigenmill.reduce.storage.sequences import OnDemand, PackedTexts

T = TypeVar("T", covariant=True)
Path = tuple[str, ...]
"""Keys from the outermost object to a value."""
PIECE = 1 << 16
"""Bytes read at a time."""
_GOES_ON = ("", ".", "e", "E")
_BLANKS = re.compile(r"[ \t\n\r]+")


class PackedList(OnDemand[Any]):
    """Plain values, each held as its JSON text."""

    __slots__ = ("texts",)

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.texts = PackedTexts(plain.canonical(value).decode() for value in values)

    def append(self, value: object) -> None:
        self.texts.append(plain.canonical(value).decode())

    def __len__(self) -> int:
        return len(self.texts)

    def item(self, index: int) -> Any:
        return json.loads(self.texts[index])


class Mapped(OnDemand[T]):
    """What ``make`` makes of each item of ``whole``, when asked for."""

    __slots__ = ("make", "whole")

    def __init__(self, make: Callable[[Any], T], whole: Sequence[Any]) -> None:
        self.make, self.whole = make, whole

    def __len__(self) -> int:
        return len(self.whole)

    def item(self, index: int) -> T:
        return self.make(self.whole[index])


def parse(read: Callable[[int], bytes], name: str, refusal: plain.Refusal, lists: Collection[Path]) -> Any:
    """As :func:`eigenmill.reduce.storage.plain.parse`, but the lists at ``lists`` become :class:`PackedList`.

    Args:
        read: gives the next so many bytes of the text, none at its end.
        name: what it is, for the message.
        refusal: the error raised for what ``plain.parse`` refuses.
        lists: where there may be a long list: keys from the outermost object on.
    """
    with plain.refused(name, refusal):
        return _Reader(read, lists).document()


class _Reader:
    def __init__(self, read: Callable[[int], bytes], lists: Collection[Path]) -> None:
        self.read, self.lists = read, lists
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.ended = "", 0, False

    def document(self) -> Any:
        found = self.value(())
        if self.next():
            raise ValueError(f"{self.next()!r} after the end")
        return found

    def value(self, path: Path) -> Any:
        first = self.next()
        if first == "[" and path in self.lists:
            return PackedList(self.items(len(path)))
        if first == "{" and any(inner[: len(path)] == path for inner in self.lists):
            return plain.unique(list(self.pairs(path)))
        return self.whole(len(path))

    def items(self, depth: int) -> Iterator[Any]:
        self.take("[")
        if self.next() == "]":
            self.take("]")
            return
        while True:
            yield self.whole(depth + 1)
            if self.take(",", "]") == "]":
                return

    def pairs(self, path: Path) -> Iterator[tuple[str, Any]]:
        self.take("{")
        if self.next() == "}":
            self.take("}")
            return
        while True:
            if self.next() != '"':
                raise ValueError(f"{self.next()!r} in place of a key")
            key = self.whole(len(path))
            self.take(":")
            yield key, self.value((*path, key))
            if self.take(",", "}") == "}":
                return

    def whole(self, depth: int) -> Any:
        """The next value as it is; one at the end of what was read may go on, as 1 does in 12 or 1.5."""
        self.next()
        while True:
            try:
                found, end = plain.DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                if self.ended:
                    raise
            else:
                if self.ended or self.text[end : end + 1] not in _GOES_ON:
                    self.at = end
                    plain.check_depth(found, plain.MAX_DEPTH - depth)
                    return found
            self.fill()

    def take(self, *expected: str) -> str:
        found = self.next()
        if found not in expected:
            raise ValueError(f"{found!r} in place of {' or '.join(expected)}")
        self.at += 1
        return found

    def next(self) -> str:
        """The next character that is not white space, which stays; empty at the end."""
        while True:
            if found := _BLANKS.match(self.text, self.at):
                self.at = found.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.fill()

    def fill(self) -> None:
        # As much again as is left, so that a long value is not decoded over and over.
        rest = self.text[self.at :]
        piece = self.read(max(PIECE, len(rest)))
        self.text, self.at, self.ended = rest + self.decoder.decode(piece, final=not piece), 0, not piece


__all__ = ["Mapped", "PackedList", "parse"]
