"""The weights of a packed layer, as bytes and back: coded one by one, or given by the name of a transform."""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.transforms import block_of, cosines, frequencies, tiles
from eigenmill.compress.packed import huffman
from eigenmill.compress.packed.coder import DECISIONS_PER_BYTE, Decoder, Encoder, code_weights
from eigenmill.compress.packed.flat import MAX_FILE, FlatReader, signed, varint
from eigenmill.reduce.errors import ArtifactError

I64 = npt.NDArray[np.int64]

PLAIN, LISTED, TILES, COSINES = range(4)
"""How the weights of a layer are given: as they are, as places in lists of values, or by the name of a transform."""
Form = tuple[int, int, int]
"""Of a layer: how its weights are given, the side of a transform, and the width of the picture that it reads."""


def forms_of(net: WholeNet, width: int) -> list[Form]:
    """The form of every layer of a net that reads pictures ``width`` inputs wide, 0 for none."""
    forms = list[Form]()
    for layer in net.layers:
        tile, block = side_of_tiles(layer.weights, width), block_of(layer.weights, width)
        if tile > 1:
            forms.append((TILES, tile, width))
        else:
            forms.append((PLAIN, 0, width) if block is None else (COSINES, block, width))
        width = width_after(*forms[-1])
    return forms


def width_after(kind: int, side: int, width: int) -> int:
    """The width of the picture that a layer's results are; 0 if they are none."""
    if kind == TILES:
        return width // side
    return side if kind == COSINES else 0


def word_bytes(side: Encoder) -> bytes:
    """Counted in words; those that are 0 at the end are what a decoder reads past it."""
    content = side.content()
    return varint(len(content) // 4) + content


def weight_bytes(weights: I64, coder: str, form: Form) -> bytes:
    """Largest value, the values that occur if they are few, and the coded places among them; or a transform's side."""
    kind, side, width = form
    most = int(np.abs(weights).max(initial=0))
    if kind != PLAIN:
        return varint(most) + bytes([kind]) + varint(side)
    positive, negative = np.unique(weights[weights > 0]), np.unique(-weights[weights < 0])
    few = 2 * max(len(positive), len(negative)) < most
    ranks = weights.copy()
    head = varint(most) + bytes([LISTED if few else PLAIN])
    if few:
        ranks[weights > 0] = np.searchsorted(positive, weights[weights > 0]) + 1
        ranks[weights < 0] = -np.searchsorted(negative, -weights[weights < 0]) - 1
        for values in (positive, negative):
            head += varint(len(values)) + b"".join(varint(int(g) - 1) for g in np.diff(values, prepend=0))
    if coder == "zstd":
        import zstandard

        size = "<i1" if np.abs(ranks).max(initial=0) < 128 else "<i2"
        raw = np.ascontiguousarray(ranks.T).astype(size).tobytes()
        content: bytes = bytes([size == "<i2"]) + zstandard.ZstdCompressor(19).compress(raw)
    elif coder == "huffman":
        return head + _huffman(ranks)
    else:
        encoder = Encoder()
        code_weights(encoder, ranks, width, 1 << 16)
        return head + word_bytes(encoder)
    return head + varint(len(content)) + content


def side_of_tiles(weights: I64, width: int) -> int:
    """The side of the tiles of a picture ``width`` inputs wide, whose sums the layer is; 1 if it is something else."""
    n_in, n_out = weights.shape
    side = math.isqrt(n_in // n_out)
    if side < 2 or side * side * n_out != n_in or not width or n_in % width or width % side or n_in // width % side:
        return 1
    most = int(weights.max(initial=0))
    return side if most > 0 and np.array_equal(weights, most * tiles(n_in // width, width, side)) else 1


def _huffman(ranks: I64) -> bytes:
    """Count of weights, two tables of symbols and lengths, and the coded bits."""
    parts, head = [], varint(int(np.count_nonzero(ranks)))
    for symbols in huffman.symbols_of(ranks):
        lengths = huffman.lengths_of(symbols)
        head += varint(len(lengths))
        head += b"".join(signed(symbol) + bytes([lengths[symbol]]) for symbol in sorted(lengths))
        parts.append((symbols, huffman.words_of(lengths)))
    content = huffman.encode(parts)
    return head + varint(len(content)) + content


def read_words(reader: FlatReader, size: int) -> bytes:
    """The words of ``size`` numbers, refused if they are too few for as many."""
    content = reader.take(4 * reader.varint(MAX_FILE // 4))
    if size > DECISIONS_PER_BYTE * (len(content) + 8):
        raise ArtifactError(f"expected at least a byte for {DECISIONS_PER_BYTE} weights, found {len(content)}")
    return content


def read_weights(reader: FlatReader, shape: tuple[int, int], coder: str, width: int) -> tuple[I64, tuple[int, int]]:
    """The weights, how they were given, and the side of a transform."""
    most = reader.varint((1 << 15) - 1)
    tables: list[I64] = []
    kind = reader.byte(COSINES)
    if kind in (TILES, COSINES):
        return _read_transform(reader, kind, most, shape, width)
    if kind == LISTED:
        for _ in range(2):
            gaps = reader.many(reader.varint(most), lambda: reader.varint(most) + 1)
            tables.append(np.concatenate([[0], np.cumsum(np.array(gaps, np.int64))]).astype(np.int64))
            if tables[-1][-1] > most:
                raise ArtifactError(f"expected values up to {most}, found {tables[-1][-1]}")
    limit = max(len(table) - 1 for table in tables) if tables else most
    size = shape[0] * shape[1]
    if coder == "zstd":
        ranks = _read_zstd(reader, shape)
    elif coder == "huffman":
        ranks = _read_huffman(reader, shape, limit)
    else:
        side = Decoder(read_words(reader, size))
        ranks = np.zeros(shape, np.int64)
        code_weights(side, ranks, width, limit)
        side.finish()
    if not tables:
        if np.abs(ranks).max(initial=0) > most:
            raise ArtifactError(f"expected weights up to {most}, found larger ones")
        return ranks, (PLAIN, 0)
    positive, negative = tables
    if ranks.max(initial=0) >= len(positive) or -ranks.min(initial=0) >= len(negative):
        raise ArtifactError("expected weights among the values listed, found others")
    return np.where(ranks >= 0, positive[np.maximum(ranks, 0)], -negative[np.maximum(-ranks, 0)]), (PLAIN, 0)


def _read_transform(
    reader: FlatReader, kind: int, most: int, shape: tuple[int, int], width: int
) -> tuple[I64, tuple[int, int]]:
    """The weights of a declared transform of a picture."""
    n_in, n_out = shape
    height = n_in // width if width and n_in % width == 0 else 0
    if kind == TILES:
        side = reader.varint(n_in, 2)
        if not height or width % side or height % side or side * side * n_out != n_in:
            raise ArtifactError(f"expected tiles that fill a picture, found {side} x {side} of {n_in} inputs")
        return most * tiles(height, width, side), (kind, side)
    block = reader.varint(n_out)
    if not height or n_out > n_in or (block and (block * block != n_out or block > min(height, width))):
        raise ArtifactError(f"expected at most {n_in} frequencies of a picture, found {n_out} in a block of {block}")
    weights = cosines(height, width, frequencies(height, width, block, n_out))
    if int(np.abs(weights).max()) != most:
        raise ArtifactError(f"expected weights up to {most}, found others")
    return weights, (kind, block)


def _read_huffman(reader: FlatReader, shape: tuple[int, int], limit: int) -> I64:
    size = shape[0] * shape[1]
    count = reader.varint(size)
    tables = []
    for least, most in ((0, huffman.SKIP), (-limit, limit)):
        pairs = reader.many(reader.varint(size), lambda: (reader.signed(1 << 15), reader.byte(huffman.MAX_LENGTH)))
        symbols = [symbol for symbol, _ in pairs]
        if symbols != sorted(set(symbols)) or (symbols and not least <= symbols[0] <= symbols[-1] <= most):
            raise ArtifactError(f"expected symbols from {least} to {most} in order, found others")
        tables.append(dict(pairs))
    return huffman.decode(reader.take(reader.varint(MAX_FILE)), shape, count, tables[0], tables[1])


def _read_zstd(reader: FlatReader, shape: tuple[int, int]) -> I64:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ArtifactError(f"a file packed with zstd wants pip install 'eigenmill[compress]' ({error})") from error

    content = reader.take(reader.varint(MAX_FILE, 1))
    kind = "<i2" if content[0] else "<i1"
    wanted = shape[0] * shape[1] * np.dtype(kind).itemsize
    try:
        # At most the wanted bytes are read from a stream: the size that a frame states is not trusted.
        source: BinaryIO = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(content[1:])
        raw = source.read(wanted + 1)
    except zstandard.ZstdError as error:
        raise ArtifactError(f"expected a zstd frame, found: {error}") from error
    if content[0] > 1 or len(raw) != wanted:
        raise ArtifactError(f"expected {wanted} bytes of weights, found others")
    return np.frombuffer(raw, kind).reshape(shape[::-1]).T.astype(np.int64)


__all__ = [
    "COSINES",
    "PLAIN",
    "TILES",
    "Form",
    "forms_of",
    "read_weights",
    "read_words",
    "side_of_tiles",
    "weight_bytes",
    "width_after",
    "word_bytes",
]
