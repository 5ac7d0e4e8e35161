"""Pack: an integer net as one flat file, and back. Writing and reading below specify every byte.

The bytes of the input are in :mod:`eigenmill.compress.pack_front`, those of numbers and names in
:mod:`eigenmill.compress.flat`.

A file is all that a prediction needs: names of the columns, codes of the input, weights, labels. Reading one runs no
code, allocates nothing before the sizes have been checked, and needs neither torch nor constriction. The digest
detects damage, **not forgery**: who can write a file can write a digest.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from eigenmill.compress import huffman
from eigenmill.compress.coder import DECISIONS_PER_BYTE, Decoder, Encoder, code_numbers, code_weights
from eigenmill.compress.flat import Reader, signed, text, varint
from eigenmill.compress.integer import MAX_ACC, MAX_PARAMETERS, WholeLayer, WholeNet, check, whole_net
from eigenmill.compress.model import MAX_LAYERS, MAX_WIDTH, Label, Model
from eigenmill.compress.pack_front import category_bytes, front_bytes, read_categories, read_front
from eigenmill.compress.transforms import block_of, cosines, frequencies, picture_of, tiles
from eigenmill.reduce import files, places
from eigenmill.reduce.errors import ArtifactError, ConfigError, SchemaError

MAGIC = b"EMILL\x01"
"""The last byte is the version of the format."""
MAGIC_CATEGORIES = b"EMILL\x02"
"""Of files with categories."""
MAGIC_COSINES = b"EMILL\x03"
"""Of files with a cosine transform; all others are of version 1, so that older readers take them."""
MAGICS = (MAGIC, MAGIC_CATEGORIES, MAGIC_COSINES)
DIGEST = 8
"""Bytes of the SHA-256 over all that follows it."""
MAX_FILE = 1 << 28
MAX_LABELS = 1 << 12
MAX_CODED = 1 << 22
"""Weights of a file: plain Python decodes as many in some ten seconds."""
CODERS = ("range", "zstd", "huffman")

_CODED_BIASES = 3
"""In the place of a coder: the range coder, for the biases too."""
_PLAIN, _LISTED, _TILES, _COSINES = range(4)
"""How the weights of a layer are given: as they are, as places in lists of values, or by the name of a transform."""
_LABELS = ("count", "whole", "text", "boolean")


def pack(
    model: Model | WholeNet, path: str | os.PathLike[str], *, coder: str = "range", width: int | None = None
) -> int:
    """Write a quantized model to one file, whole or not at all; the same model gives the same bytes.

    Args:
        model: quantized.
        path: a local path or URI.
        coder: ``"range"`` adaptive decisions and a range coder, or for comparison ``"zstd"``, or ``"huffman"`` as in
            Deep Compression.
        width: of the picture that the inputs are, which the coder then makes use of; 0 for none; by default that of
            a cosine transform in front, else tried with the square root of the number of inputs, if that is whole,
            and kept if the file is smaller.

    Returns:
        Bytes of the file.

    Raises:
        ConfigError: the model is not quantized, or too large.
        OutputError: it cannot be written.
    """
    content = packed(model, coder=coder, width=width)
    fs, target = places.resolve(path)
    files.write_bytes(fs, target, content)
    return len(content)


def packed(model: Model | WholeNet, *, coder: str = "range", width: int | None = None) -> bytes:
    """The bytes of the file that :func:`pack` writes."""
    net = net_of(model)
    if coder not in CODERS:
        raise ConfigError(f"expected a coder among {', '.join(CODERS)}, found {coder!r}")
    d = net.front.width
    if width is not None and not 0 <= width <= d:
        raise ConfigError(f"expected a width of at most {d} inputs, found {width}")
    root = math.isqrt(d)
    pictured = root * root == d and root > 1 and not net.front.categories
    waved = picture_of(net.layers[0].weights) if width is None else None
    widths = [width] if width is not None else [waved] if waved else [0, root] if pictured else [0]
    variants = [CODERS.index(coder), *([_CODED_BIASES] if coder == "range" else [])]
    plans = [_plan(net, w) for w in widths]
    body = min((_body(net, variant, plan) for plan in plans for variant in variants), key=len)
    if len(body) > MAX_FILE:
        raise ConfigError(f"expected a file of at most {MAX_FILE} bytes, found {len(body)}; prune or take fewer bits")
    cosine = any(kind == _COSINES for kind, _, _ in plans[0])
    magic = MAGIC_CATEGORIES if net.front.categories else MAGIC_COSINES if cosine else MAGIC
    return magic + hashlib.sha256(body).digest()[:DIGEST] + body


def load(path: str | os.PathLike[str]) -> WholeNet:
    """The model in a packed file: it has ``predict``, ``predict_proba`` and ``scores``.

    Raises:
        ArtifactError: there is no such file, or it is damaged or of a newer format.
    """
    return unpacked(*content_of(path))


def content_of(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The bytes of a packed file, not yet looked at, and where it is.

    Raises:
        ArtifactError: there is no such file, or it is too large for one.
    """
    fs, target = places.resolve(path)
    try:
        return files.read_bytes(fs, target, MAX_FILE + len(MAGIC) + DIGEST, ArtifactError), target
    except FileNotFoundError as error:
        raise ArtifactError(f"expected a packed model at {target}, found: {error}; check the path") from error


def net_of(model: Model | WholeNet | str | os.PathLike[str]) -> WholeNet:
    """The integer net of a quantized model, or of the packed file at a path."""
    if isinstance(model, WholeNet):
        return model
    return whole_net(model) if isinstance(model, Model) else load(model)


def unpacked(content: bytes, where: str = "the file") -> WholeNet:
    """The model in the bytes of a packed file."""
    if len(content) > MAX_FILE + len(MAGIC) + DIGEST:
        raise ArtifactError(f"expected at most {MAX_FILE} bytes in {where}, found more; it is no packed model")
    if content[: len(MAGIC)] not in MAGICS:
        raise ArtifactError(
            f"expected {where} to be a packed model of version 1 to {len(MAGICS)}, found other bytes; "
            "load it with the eigenmill that packed it"
        )
    body = content[len(MAGIC) + DIGEST :]
    if hashlib.sha256(body).digest()[:DIGEST] != content[len(MAGIC) : len(MAGIC) + DIGEST]:
        raise ArtifactError(f"expected {where} as it was packed, found another digest; restore it, or pack again")
    try:
        return _read(Reader(body), content[: len(MAGIC)])
    except (ArtifactError, ConfigError, SchemaError, UnicodeDecodeError) as error:
        raise ArtifactError(f"expected a whole packed model in {where}: {error}") from error


def sections(content: bytes, where: str = "the file") -> tuple[WholeNet, dict[str, int]]:
    """The model in the bytes of a packed file, and how many of the bytes are whose; they add up to all of them.

    Raises:
        ArtifactError: as of :func:`load`.
    """
    net = unpacked(content, where)
    reader = Reader(content[len(MAGIC) + DIGEST :])
    _read(reader, content[: len(MAGIC)])
    return net, {"magic and digest": len(MAGIC) + DIGEST, **reader.taken}


# Writing


Plan = tuple[int, int, int]
"""Of a layer: how its weights are given, the side of a transform, and the width of the picture that it reads."""


def _plan(net: WholeNet, width: int) -> list[Plan]:
    """The plan of every layer of a net that reads pictures ``width`` inputs wide, 0 for none."""
    plans = list[Plan]()
    for layer in net.layers:
        tile, block = _tile(layer.weights, width), block_of(layer.weights, width)
        if tile > 1:
            plans.append((_TILES, tile, width))
        else:
            plans.append((_PLAIN, 0, width) if block is None else (_COSINES, block, width))
        width = _width_after(*plans[-1])
    return plans


def _width_after(kind: int, side: int, width: int) -> int:
    """The width of the picture that a layer's results are; 0 if they are none."""
    if kind == _TILES:
        return width // side
    return side if kind == _COSINES else 0


def _body(net: WholeNet, variant: int, plan: Sequence[Plan]) -> bytes:
    coder = "range" if variant == _CODED_BIASES else CODERS[variant]
    parts = [bytes([variant, net.task == "regression"]), struct.pack("<dd", net.scale, net.offset)]
    if net.task == "classification":
        parts.append(_labels(net.labels))
    parts += [front_bytes(net.front), category_bytes(net.front), varint(plan[0][2]), bytes([len(net.layers)])]
    if sum(layer.weights.size for layer in net.layers) > MAX_CODED:
        raise ConfigError(f"expected at most {MAX_CODED} weights, found more; prune neurons")
    for i, layer in enumerate(net.layers):
        parts.append(varint(layer.weights.shape[1]))
        if i + 1 < len(net.layers):
            parts += [bytes([layer.bits << 1 | layer.relu]), varint(layer.multiplier), bytes([layer.shift])]
        if variant != _CODED_BIASES:
            parts += [signed(int(b)) for b in layer.bias]
        parts.append(_weights(layer.weights, coder, plan[i]))
    if variant == _CODED_BIASES:
        parts.append(_biases([layer.bias for layer in net.layers]))
    return b"".join(parts)


def _biases(biases: Sequence[npt.NDArray[np.int64]]) -> bytes:
    """A power of two for each layer, and all multiples of it, coded."""
    side, shifts = Encoder(), []
    for bias in biases:
        low = int(np.bitwise_or.reduce(bias))
        shifts.append((low & -low).bit_length() - 1 if low else 0)
        code_numbers(side, bias >> shifts[-1], MAX_ACC)
    return bytes(shifts) + _words(side)


def _words(side: Encoder) -> bytes:
    """Counted in words; those that are 0 at the end are what a decoder reads past it."""
    content = side.content()
    return varint(len(content) // 4) + content


def _labels(labels: tuple[Label, ...]) -> bytes:
    if all(isinstance(label, str) for label in labels):
        kind, parts = 2, [text(str(label)) for label in labels]
    elif all(isinstance(label, bool) for label in labels):
        kind, parts = 3, [bytes([bool(label)]) for label in labels]
    elif labels == tuple(range(len(labels))):
        kind, parts = 0, []
    else:
        kind, parts = 1, [signed(int(label)) for label in labels]
    return bytes([kind]) + varint(len(labels)) + b"".join(parts)


def _weights(weights: npt.NDArray[np.int64], coder: str, plan: Plan) -> bytes:
    """Largest value, the values that occur if they are few, and the coded places among them; or a transform's side."""
    kind, side, width = plan
    most = int(np.abs(weights).max(initial=0))
    if kind != _PLAIN:
        return varint(most) + bytes([kind]) + varint(side)
    positive, negative = np.unique(weights[weights > 0]), np.unique(-weights[weights < 0])
    few = 2 * max(len(positive), len(negative)) < most
    ranks = weights.copy()
    head = varint(most) + bytes([_LISTED if few else _PLAIN])
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
        return head + _words(encoder)
    return head + varint(len(content)) + content


def _tile(weights: npt.NDArray[np.int64], width: int) -> int:
    """The side of the tiles of a picture ``width`` inputs wide, whose sums the layer is; 1 if it is something else."""
    n_in, n_out = weights.shape
    side = math.isqrt(n_in // n_out)
    if side < 2 or side * side * n_out != n_in or not width or n_in % width or width % side or n_in // width % side:
        return 1
    most = int(weights.max(initial=0))
    return side if most > 0 and np.array_equal(weights, most * tiles(n_in // width, width, side)) else 1


def _huffman(ranks: npt.NDArray[np.int64]) -> bytes:
    """Count of weights, two tables of symbols and lengths, and the coded bits."""
    parts, head = [], varint(int(np.count_nonzero(ranks)))
    for symbols in huffman.symbols_of(ranks):
        lengths = huffman.lengths_of(symbols)
        head += varint(len(lengths))
        head += b"".join(signed(symbol) + bytes([lengths[symbol]]) for symbol in sorted(lengths))
        parts.append((symbols, huffman.words_of(lengths)))
    content = huffman.encoded(parts)
    return head + varint(len(content)) + content


# Reading


def _read(reader: Reader, magic: bytes) -> WholeNet:
    categories, kinds = magic == MAGIC_CATEGORIES, list[int]()
    variant, regression = reader.byte(_CODED_BIASES), reader.byte(1)
    coder = "range" if variant == _CODED_BIASES else CODERS[variant]
    scale, offset = struct.unpack("<dd", reader.take(16))
    labels: tuple[Label, ...] = () if regression else _read_labels(reader)
    reader.mark("task and labels")
    front = read_front(reader, 0 if categories else 1)
    reader.mark("input")
    if categories:
        front = read_categories(reader, front)
        reader.mark("categories")
    width = reader.varint(front.width)
    count = reader.byte(MAX_LAYERS)
    layers: list[WholeLayer] = []
    n_in, total = front.width, 0
    for i in range(count):
        n_out = reader.varint(MAX_WIDTH, 1)
        total += n_in * n_out
        if total > min(MAX_CODED, MAX_PARAMETERS):
            raise ArtifactError(f"expected at most {MAX_CODED} weights, found {total}")
        relu = bits = multiplier = shift = 0
        if i + 1 < count:
            flags = reader.byte(63)
            relu, bits, multiplier, shift = flags & 1, flags >> 1, reader.varint(1 << 15), reader.byte(62)
        bias = np.zeros(n_out, np.int64)
        if variant != _CODED_BIASES:
            bias[:] = reader.many(n_out, lambda: reader.signed(MAX_ACC))
        weights, (kind, side) = _read_weights(reader, (n_in, n_out), coder, width)
        if kind == _PLAIN and _tile(weights, width) > 1:
            kind, side = _TILES, _tile(weights, width)
        width = _width_after(kind, side, width)
        kinds.append(kind)
        layers.append(WholeLayer(weights, bias, bool(relu), multiplier, shift, bits))
        reader.mark(f"layer {i}")
        n_in = n_out
    if variant == _CODED_BIASES:
        _read_biases(reader, [layer.bias for layer in layers])
        reader.mark("biases")
    if (_COSINES in kinds) != (magic == MAGIC_COSINES):
        raise ArtifactError("expected a cosine transform in a file of version 3 only, found it otherwise")
    if reader.left:
        raise ArtifactError(f"expected the end, found {reader.left} more bytes")
    net = WholeNet("regression" if regression else "classification", labels, front, tuple(layers), scale, offset)
    check(net)
    return net


def _read_biases(reader: Reader, biases: Sequence[npt.NDArray[np.int64]]) -> None:
    """Fills the biases of all layers."""
    shifts = [reader.byte(46) for _ in biases]
    side = Decoder(_read_words(reader, sum(map(len, biases))))
    for bias, shift in zip(biases, shifts, strict=True):
        code_numbers(side, bias, MAX_ACC >> shift)
        bias <<= shift
    side.finish()


def _read_words(reader: Reader, size: int) -> bytes:
    """The words of ``size`` numbers, refused if they are too few for as many."""
    content = reader.take(4 * reader.varint(MAX_FILE // 4))
    if size > DECISIONS_PER_BYTE * (len(content) + 8):
        raise ArtifactError(f"expected at least a byte for {DECISIONS_PER_BYTE} weights, found {len(content)}")
    return content


def _read_labels(reader: Reader) -> tuple[Label, ...]:
    kind, count = _LABELS[reader.byte(len(_LABELS) - 1)], reader.varint(MAX_LABELS, 2)
    if kind == "count":
        return tuple(range(count))
    readers: dict[str, Callable[[], Label]] = {
        "whole": lambda: reader.signed(1 << 62),
        "text": reader.text,
        "boolean": lambda: bool(reader.byte(1)),
    }
    labels = tuple(reader.many(count, readers[kind]))
    if len(set(labels)) != count:
        raise ArtifactError("expected every label once, found one again")
    return labels


def _read_weights(
    reader: Reader, shape: tuple[int, int], coder: str, width: int
) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """The weights, how they were given, and the side of a transform."""
    most = reader.varint((1 << 15) - 1)
    tables: list[npt.NDArray[np.int64]] = []
    kind = reader.byte(_COSINES)
    if kind in (_TILES, _COSINES):
        return _read_transform(reader, kind, most, shape, width)
    if kind == _LISTED:
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
        side = Decoder(_read_words(reader, size))
        ranks = np.zeros(shape, np.int64)
        code_weights(side, ranks, width, limit)
        side.finish()
    if not tables:
        if np.abs(ranks).max(initial=0) > most:
            raise ArtifactError(f"expected weights up to {most}, found larger ones")
        return ranks, (_PLAIN, 0)
    positive, negative = tables
    if ranks.max(initial=0) >= len(positive) or -ranks.min(initial=0) >= len(negative):
        raise ArtifactError("expected weights among the values listed, found others")
    return np.where(ranks >= 0, positive[np.maximum(ranks, 0)], -negative[np.maximum(-ranks, 0)]), (_PLAIN, 0)


def _read_transform(
    reader: Reader, kind: int, most: int, shape: tuple[int, int], width: int
) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """The weights of a declared transform of a picture."""
    n_in, n_out = shape
    height = n_in // width if width and n_in % width == 0 else 0
    if kind == _TILES:
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


def _read_huffman(reader: Reader, shape: tuple[int, int], limit: int) -> npt.NDArray[np.int64]:
    size = shape[0] * shape[1]
    count = reader.varint(size)
    tables = []
    for least, most in ((0, huffman.SKIP), (-limit, limit)):
        pairs = reader.many(reader.varint(size), lambda: (reader.signed(1 << 15), reader.byte(huffman.MAX_LENGTH)))
        symbols = [symbol for symbol, _ in pairs]
        if symbols != sorted(set(symbols)) or (symbols and not least <= symbols[0] <= symbols[-1] <= most):
            raise ArtifactError(f"expected symbols from {least} to {most} in order, found others")
        tables.append(dict(pairs))
    return huffman.decoded(reader.take(reader.varint(MAX_FILE)), shape, count, tables[0], tables[1])


def _read_zstd(reader: Reader, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ArtifactError(f"a file packed with zstd wants pip install 'eigenmill[compress]' ({error})") from error

    content = reader.take(reader.varint(MAX_FILE, 1))
    kind = "<i2" if content[0] else "<i1"
    wanted = shape[0] * shape[1] * np.dtype(kind).itemsize
    try:
        # Read as a stream: a frame's own word for its size is not believed.
        source: BinaryIO = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(content[1:])
        raw = source.read(wanted + 1)
    except zstandard.ZstdError as error:
        raise ArtifactError(f"expected a zstd frame, found: {error}") from error
    if content[0] > 1 or len(raw) != wanted:
        raise ArtifactError(f"expected {wanted} bytes of weights, found others")
    return np.frombuffer(raw, kind).reshape(shape[::-1]).T.astype(np.int64)


__all__ = ["CODERS", "content_of", "load", "net_of", "pack", "packed", "sections", "unpacked"]
