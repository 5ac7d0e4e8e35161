"""Pack: an integer net as one flat file, and back. Writing and reading below specify every byte.

The bytes of the input are in :mod:`eigenmill.compress.packed.pack_front`, those of weights in
:mod:`eigenmill.compress.packed.pack_weights`, those of numbers and names in :mod:`eigenmill.compress.packed.flat`.

A file is all that a prediction needs: names of the columns, codes of the input, weights, labels. Reading one runs no
code, allocates nothing before the sizes have been checked, and needs neither torch nor constriction. The digest
detects damage, **not forgery**: who can write a file can write a digest.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.integer import MAX_ACC, MAX_PARAMETERS, WholeLayer, WholeNet, check
from eigenmill.compress.core.layers import MAX_LAYERS, MAX_WIDTH, Label
from eigenmill.compress.core.model import Model, whole_net
from eigenmill.compress.core.transforms import picture_of
from eigenmill.compress.packed.coder import Decoder, Encoder, code_numbers
from eigenmill.compress.packed.flat import MAX_FILE, FlatReader, signed, text, varint
from eigenmill.compress.packed.pack_front import category_bytes, front_bytes, read_categories, read_front
from eigenmill.compress.packed.pack_weights import (
    COSINES,
    PLAIN,
    TILES,
    Form,
    forms_of,
    read_weights,
    read_words,
    side_of_tiles,
    weight_bytes,
    width_after,
    word_bytes,
)
from eigenmill.reduce.errors import ArtifactError, ConfigError, SchemaError
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.digest import sha256_of

MAGIC = b"EMILL\x01"
"""The last byte is the version of the format."""
MAGIC_CATEGORIES = b"EMILL\x02"
"""Of files with categories."""
MAGIC_COSINES = b"EMILL\x03"
"""Of files with a cosine transform; all others are of version 1, so that older readers take them."""
MAGICS = (MAGIC, MAGIC_CATEGORIES, MAGIC_COSINES)
DIGEST = 8
"""Bytes of the SHA-256 over all that follows it."""
MAX_LABELS = 1 << 12
MAX_CODED = 1 << 22
"""Weights of a file: plain Python decodes as many in some ten seconds."""
CODERS = ("range", "zstd", "huffman")

_CODED_BIASES = 3
"""In the place of a coder: the range coder, for the biases too."""
_LABELS = ("count", "whole", "text", "boolean")


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A model as its file has it.

    Attributes:
        content: the bytes of the file.
        net: what they give when they are read.
    """

    content: bytes
    net: WholeNet

    @property
    def sha256(self) -> str:
        """Of the file."""
        return sha256_of([self.content])


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
    content = packed_bytes(model, coder=coder, width=width)
    fs, target = places.resolve(path)
    files.write_bytes(fs, target, content)
    return len(content)


def packed_bytes(model: Model | WholeNet, *, coder: str = "range", width: int | None = None) -> bytes:
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
    choices = [forms_of(net, w) for w in widths]

    @functools.cache  # two variants, and most choices, have most weights in common
    def weights(layer: int, form: Form) -> bytes:
        return weight_bytes(net.layers[layer].weights, coder, form)

    body = min((_body(net, variant, forms, weights) for forms in choices for variant in variants), key=len)
    if len(body) > MAX_FILE:
        raise ConfigError(f"expected a file of at most {MAX_FILE} bytes, found {len(body)}; prune or take fewer bits")
    cosine = any(kind == COSINES for kind, _, _ in choices[0])
    magic = MAGIC_CATEGORIES if net.front.categories else MAGIC_COSINES if cosine else MAGIC
    return magic + _checksum(body) + body


def packed_model(model: Model | WholeNet, *, coder: str = "range", width: int | None = None) -> PackedModel:
    """The file that :func:`pack` writes, in memory, read back."""
    content = packed_bytes(model, coder=coder, width=width)
    return PackedModel(content, unpack(content))


def load(path: str | os.PathLike[str]) -> WholeNet:
    """The model in a packed file: it has ``predict``, ``predict_proba`` and ``scores``.

    Raises:
        ArtifactError: there is no such file, or it is damaged or of a newer format.
    """
    return read_packed(path).net


def read_packed(path: str | os.PathLike[str]) -> PackedModel:
    """The packed file at a path; raises as :func:`load` does."""
    content, where = read_content(path)
    return PackedModel(content, unpack(content, where))


def read_content(path: str | os.PathLike[str]) -> tuple[bytes, str]:
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


def unpack(content: bytes, where: str = "the file") -> WholeNet:
    """The model in the bytes of a packed file; raises as :func:`load` does."""
    return sections(content, where)[0]


def sections(content: bytes, where: str = "the file") -> tuple[WholeNet, dict[str, int]]:
    """The model in the bytes of a packed file, and how many of the bytes are whose; they add up to all of them.

    Raises:
        ArtifactError: as of :func:`load`.
    """
    if len(content) > MAX_FILE + len(MAGIC) + DIGEST:
        raise ArtifactError(f"expected at most {MAX_FILE} bytes in {where}, found more; it is no packed model")
    if content[: len(MAGIC)] not in MAGICS:
        raise ArtifactError(
            f"expected {where} to be a packed model of version 1 to {len(MAGICS)}, found other bytes; "
            "load it with the eigenmill that packed it"
        )
    body = content[len(MAGIC) + DIGEST :]
    if _checksum(body) != content[len(MAGIC) : len(MAGIC) + DIGEST]:
        raise ArtifactError(f"expected {where} as it was packed, found another digest; restore it, or pack again")
    reader = FlatReader(body)
    try:
        net = _read(reader, content[: len(MAGIC)])
    except (ArtifactError, ConfigError, SchemaError, UnicodeDecodeError) as error:
        raise ArtifactError(f"expected a whole packed model in {where}: {error}") from error
    return net, {"magic and digest": len(MAGIC) + DIGEST, **reader.taken}


# Writing


def _checksum(body: bytes) -> bytes:
    """The first bytes of the SHA-256 of what follows them in a file."""
    return bytes.fromhex(sha256_of([body]))[:DIGEST]


def _body(net: WholeNet, variant: int, forms: Sequence[Form], weights: Callable[[int, Form], bytes]) -> bytes:
    """All that follows the digest; ``weights`` gives the bytes of a layer's weights by its form."""
    parts = [bytes([variant, net.task == "regression"]), struct.pack("<dd", net.scale, net.offset)]
    if net.task == "classification":
        parts.append(_labels(net.labels))
    parts += [front_bytes(net.front), category_bytes(net.front), varint(forms[0][2]), bytes([len(net.layers)])]
    if sum(layer.weights.size for layer in net.layers) > MAX_CODED:
        raise ConfigError(f"expected at most {MAX_CODED} weights, found more; prune neurons")
    for i, layer in enumerate(net.layers):
        parts.append(varint(layer.weights.shape[1]))
        if i + 1 < len(net.layers):
            parts += [bytes([layer.bits << 1 | layer.relu]), varint(layer.multiplier), bytes([layer.shift])]
        if variant != _CODED_BIASES:
            parts += [signed(int(b)) for b in layer.bias]
        parts.append(weights(i, forms[i]))
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
    return bytes(shifts) + word_bytes(side)


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


# Reading


def _read(reader: FlatReader, magic: bytes) -> WholeNet:
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
        weights, (kind, side) = read_weights(reader, (n_in, n_out), coder, width)
        if kind == PLAIN and side_of_tiles(weights, width) > 1:
            kind, side = TILES, side_of_tiles(weights, width)
        width = width_after(kind, side, width)
        kinds.append(kind)
        layers.append(WholeLayer(weights, bias, bool(relu), multiplier, shift, bits))
        reader.mark(f"layer {i}")
        n_in = n_out
    if variant == _CODED_BIASES:
        _read_biases(reader, [layer.bias for layer in layers])
        reader.mark("biases")
    if (COSINES in kinds) != (magic == MAGIC_COSINES):
        raise ArtifactError("expected a cosine transform in a file of version 3 only, found it otherwise")
    if reader.left:
        raise ArtifactError(f"expected the end, found {reader.left} more bytes")
    net = WholeNet("regression" if regression else "classification", labels, front, tuple(layers), scale, offset)
    check(net)
    return net


def _read_biases(reader: FlatReader, biases: Sequence[npt.NDArray[np.int64]]) -> None:
    """Fills the biases of all layers."""
    shifts = [reader.byte(46) for _ in biases]
    side = Decoder(read_words(reader, sum(map(len, biases))))
    for bias, shift in zip(biases, shifts, strict=True):
        code_numbers(side, bias, MAX_ACC >> shift)
        bias <<= shift
    side.finish()


def _read_labels(reader: FlatReader) -> tuple[Label, ...]:
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


__all__ = [
    "CODERS",
    "PackedModel",
    "load",
    "net_of",
    "pack",
    "packed_bytes",
    "packed_model",
    "read_content",
    "read_packed",
    "sections",
    "unpack",
]
