"""Huffman coding of sparse weights, as in Deep Compression (Han, Mao and Dally 2016, sections 2 and 4).

The weights other than 0 are a list of distances from one to the next, row by row, and a list of values. A distance
of ``SKIP`` or more is written as skips of ``SKIP`` zeros and a rest (their figure 2). Distances and values each have a
canonical Huffman code, of which the file holds the lengths only. For comparison: the adaptive range coder of
``eigenmill.compress.packed.coder`` makes smaller files. Encoder and decoder are plain Python, and are the reference of
the format.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from eigenmill.compress.format import FORMAT_1
from eigenmill.reduce.errors import ArtifactError

SKIP = FORMAT_1.skip
"""The symbol ``SKIP`` stands for as many zeros and no weight: 5 bits before Huffman coding, as in the paper."""
MAX_LENGTH = 40
"""Bits of a code word; a word of 40 bits wants as many symbols as the 40th Fibonacci number, more than a file holds."""


def lengths_of(symbols: Iterable[int]) -> dict[int, int]:
    """Bits of the code word of each symbol that occurs (Huffman 1952); the same symbols give the same lengths."""
    counts = Counter(symbols)
    if len(counts) < 2:
        return dict.fromkeys(counts, 1)
    heap: list[tuple[int, int, list[int]]] = [(n, s, [s]) for s, n in counts.items()]
    heapq.heapify(heap)
    lengths = dict.fromkeys(counts, 0)
    while len(heap) > 1:
        (n, s, a), (m, t, b) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in a + b:
            lengths[symbol] += 1
        heapq.heappush(heap, (n + m, min(s, t), a + b))
    return lengths


def words_of(lengths: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """Symbol -> (word, bits) of the canonical code: words count up in the order of length, then symbol.

    Raises:
        ArtifactError: no complete code has such lengths.
    """
    order = sorted(lengths, key=lambda symbol: (lengths[symbol], symbol))
    word, before, found = 0, 0, {}
    for symbol in order:
        bits = lengths[symbol]
        if not 1 <= bits <= MAX_LENGTH:
            raise ArtifactError(f"expected code words of 1 to {MAX_LENGTH} bits, found {bits}; the file is damaged")
        word <<= bits - before
        found[symbol] = (word, bits)
        word, before = word + 1, bits
    if order and len(order) > 1 and word != 1 << before:
        raise ArtifactError("expected lengths of a complete code, found others; the file is damaged")
    if len(order) == 1 and before != 1:
        raise ArtifactError(f"expected one bit for the only symbol, found {before}; the file is damaged")
    return found


def symbols_of(ranks: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """(distances with skips, values) of a matrix of weights."""
    flat = ranks.ravel()
    places = np.flatnonzero(flat)
    distances: list[int] = []
    for distance in np.diff(places, prepend=-1) - 1:
        distances += [SKIP] * (int(distance) // SKIP) + [int(distance) % SKIP]
    return distances, [int(v) for v in flat[places]]


def encode(parts: Sequence[tuple[Sequence[int], Mapping[int, tuple[int, int]]]]) -> bytes:
    """The words of all symbols one after the other, high bits first, filled up with zeros to a whole byte."""
    bits = "".join(f"{word:0{size}b}" for symbols, words in parts for word, size in (words[s] for s in symbols))
    return int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big") if bits else b""


class Bits:
    """The bits of some bytes in order, high ones first."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def symbol(self, known: Mapping[tuple[int, int], int]) -> int:
        """The next symbol of a code ``(word, bits) -> symbol``."""
        word = 0
        for size in range(1, MAX_LENGTH + 1):
            if self._at >= 8 * len(self._content):
                break
            word = word << 1 | (self._content[self._at >> 3] >> (7 - (self._at & 7)) & 1)
            self._at += 1
            found = known.get((word, size))
            if found is not None:
                return found
        raise ArtifactError("expected a code word, found bits that are none; the file is damaged")

    def finish(self) -> None:
        """Refuses bits that are left over."""
        rest = 8 * len(self._content) - self._at
        if rest > 7 or (rest and self._content[-1] & ((1 << rest) - 1)):
            raise ArtifactError(f"expected the end of the weights, found {rest} more bits; the file is damaged")


def decode(
    content: bytes, shape: tuple[int, int], count: int, distances: Mapping[int, int], values: Mapping[int, int]
) -> npt.NDArray[np.int64]:
    """The matrix with ``count`` weights other than 0, from lengths of distances and values.

    Raises:
        ArtifactError: the bits are not those of such a matrix.
    """
    flat = np.zeros(shape[0] * shape[1], np.int64)
    steps, numbers = ({word: s for s, word in words_of(lengths).items()} for lengths in (distances, values))
    bits, at = Bits(content), -1
    places: list[int] = []
    while len(places) < count:
        step = bits.symbol(steps)
        at += step if step == SKIP else step + 1
        if at >= flat.size:
            raise ArtifactError(f"expected weights within {flat.size} places, found one outside; the file is damaged")
        if step != SKIP:
            places.append(at)
    for place in places:
        flat[place] = bits.symbol(numbers)
    bits.finish()
    return flat.reshape(shape)


__all__ = ["SKIP", "decode", "encode", "lengths_of", "symbols_of", "words_of"]
