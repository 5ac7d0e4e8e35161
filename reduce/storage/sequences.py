"""Sequences that make their items when asked for them, from a few arrays: many cost little more than one."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from operator import eq
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

T = TypeVar("T", covariant=True)
Integers = npt.NDArray[np.integer[Any]]


class OnDemand(Sequence[T]):
    """A sequence that makes its items when asked for them; equal to any other of equal items."""

    __slots__ = ()

    def item(self, index: int) -> T:
        """Item ``index``, from 0 to ``len(self) - 1``."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        at = range(len(self))[index]
        return tuple(map(self.item, at)) if isinstance(at, range) else self.item(at)

    def __iter__(self) -> Iterator[T]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)})"


class Subset(OnDemand[T]):
    """The items of ``whole`` with these numbers."""

    __slots__ = ("numbers", "whole")

    def __init__(self, whole: Sequence[T], numbers: Iterable[int]) -> None:
        self.whole, self.numbers = whole, narrow(array("q", numbers))

    def __len__(self) -> int:
        return len(self.numbers)

    def item(self, index: int) -> T:
        return self.whole[int(self.numbers[index])]


class PackedTexts(OnDemand[str]):
    """Short texts, end to end in UTF-8."""

    __slots__ = ("content", "ends")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.content, self.ends = bytearray(), array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self.content += text.encode()
        self.ends.append(len(self.content))

    def __len__(self) -> int:
        return len(self.ends)

    def item(self, index: int) -> str:
        return self.content[self.ends[index - 1] if index else 0 : self.ends[index]].decode()


class HashIndex:
    """Where a key may be among many, by sorted hashes: 16 bytes a key, and none of them is kept.

    Keys that are equal are found; whoever looks compares, for others may have the same hash.
    """

    __slots__ = ("hashes", "order")

    def __init__(self, keys: Iterable[Hashable]) -> None:
        hashes = np.array(array("q", map(hash, keys)), np.int64)
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]

    def near(self, key: Hashable) -> list[int]:
        """Numbers of the keys with this one's hash, in order."""
        value = hash(key)
        start = int(np.searchsorted(self.hashes, value))
        stop = int(np.searchsorted(self.hashes, value, "right"))
        return [int(i) for i in self.order[start:stop]]


def narrow(values: array[int]) -> Integers:
    """As an array of the narrowest unsigned type."""
    found = np.frombuffer(values, np.int64) if len(values) else np.empty(0, np.int64)
    return found.astype(np.min_scalar_type(int(found.max()) if len(found) else 0))
