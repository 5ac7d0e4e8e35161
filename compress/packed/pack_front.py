"""The input of a packed model: columns, codes, and the vocabularies of categories, as bytes and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from eigenmill.compress.core.categories import MAX_CATEGORIES, MAX_TEXT, Category, Kind, Value
from eigenmill.compress.core.front import MAX_BITS, MAX_INPUTS, Front
from eigenmill.compress.core.layers import MAX_WIDTH
from eigenmill.compress.packed.flat import FlatReader, signed, text, text_bytes, varint
from eigenmill.reduce.errors import ArtifactError

_KINDS: tuple[Kind, ...] = ("whole", "text", "boolean")


def front_bytes(front: Front) -> bytes:
    """The numeric columns and their codes."""
    columns = front.layout.get("columns")
    names = [str(name) for name in columns] if columns is not None else [str(front.layout.get("vector", ""))]
    alike = [len(a) == 1 for a in (front.low, front.fill)]
    parts = [bytes([(columns is not None) << 2 | alike[0] << 1 | alike[1], front.bits]), varint(front.n_features)]
    parts += [text(name) for name in names]
    parts += [front.low.astype("<f4").tobytes(), front.step.astype("<f4").tobytes()]
    return b"".join([*parts, *(varint(int(code) + 1) for code in front.fill)])


def category_bytes(front: Front) -> bytes:
    """Nothing if there are none. A vocabulary that an earlier category has as well is given by that one's place."""
    if not front.categories:
        return b""
    parts, known = [varint(front.hot), varint(len(front.categories))], list[tuple[Kind, tuple[Value, ...]]]()
    for category in front.categories:
        vocabulary = (category.kind, category.values)
        again = vocabulary in known
        flags = _KINDS.index(category.kind) << 2 | category.nulls << 1 | again
        parts += [text(category.name), bytes([flags])]
        parts.append(varint(known.index(vocabulary)) if again else _vocabulary(category))
        known.append(vocabulary)
    return b"".join(parts)


def _vocabulary(category: Category) -> bytes:
    """Ascending values: text by what it shares with the one before and the rest, whole numbers by their gaps."""
    out, before = bytearray(varint(len(category.values))), b""
    for i, value in enumerate(category.values):
        if isinstance(value, str):
            raw = value.encode()
            apart = (j for j, (a, b) in enumerate(zip(before, raw, strict=False)) if a != b)
            same = next(apart, min(len(before), len(raw)))
            out += varint(same) + text_bytes(raw[same:])
            before = raw
        elif category.kind == "boolean":
            out.append(bool(value))
        else:
            out += signed(int(value)) if i == 0 else varint(int(value) - int(category.values[i - 1]) - 1)
    return bytes(out)


def read_categories(reader: FlatReader, front: Front) -> Front:
    """``front`` with the categories of :func:`category_bytes`."""
    begun = reader.at
    hot, count = reader.varint((1 << MAX_BITS) - 1, 1), reader.varint(MAX_INPUTS, 1)
    found: list[Category] = []
    width = front.n_features
    if count > reader.left:
        raise ArtifactError(f"expected {count} categories, found {reader.left} bytes")
    for _ in range(count):
        name, flags = reader.text(), reader.byte(11)
        kind, nulls = _KINDS[flags >> 2], bool(flags & 2)
        if flags & 1:
            values = found[reader.varint(len(found) - 1)].values if found else ()
        else:
            values = _read_vocabulary(reader, kind)
        found.append(Category(name, kind, values, nulls))
        width += found[-1].width
        if width > MAX_INPUTS:
            raise ArtifactError(f"expected at most {MAX_INPUTS} inputs, found {width}")
    whole = replace(front, categories=tuple(found), hot=hot)
    names = [category.name for category in found]
    if len(set(names)) < count or category_bytes(whole) != reader.since(begun):
        raise ArtifactError("expected every category once, as it is packed, found it otherwise")
    return whole


def _read_vocabulary(reader: FlatReader, kind: Kind) -> tuple[Value, ...]:
    """Values, strictly ascending."""
    count, values = reader.varint(MAX_CATEGORIES, 0), list[Value]()
    if count > reader.left:
        raise ArtifactError(f"expected {count} values, found {reader.left} bytes")
    before = b""
    for i in range(count):
        if kind == "boolean":
            value: Value = bool(reader.byte(1))
            ascends = i == 0 or bool(value) > bool(values[-1])
        elif kind == "text":
            same = reader.varint(len(before))
            raw = before[:same] + reader.take(reader.varint(MAX_TEXT))
            ascends, value = (i == 0 or raw > before) and len(raw) <= MAX_TEXT, raw.decode()
            before = raw
        else:
            value = reader.signed(1 << 63) if i == 0 else int(values[-1]) + reader.varint((1 << 64) - 1) + 1
            ascends = -(1 << 63) <= value < 1 << 63
        if not ascends:
            raise ArtifactError("expected the values of a category in order, found others")
        values.append(value)
    return tuple(values)


def read_front(reader: FlatReader, least: int) -> Front:
    """The inverse of :func:`front_bytes`, of at least ``least`` columns."""
    flags, bits = reader.byte(7), reader.byte(MAX_BITS)
    d = reader.varint(MAX_WIDTH, least)
    names = reader.many(d if flags & 4 else 1, reader.text)
    ends = 1 if flags & 2 else d
    low, step = (np.frombuffer(reader.take(4 * ends), "<f4").astype(np.float32) for _ in range(2))
    if not (bits and np.isfinite(low).all() and np.isfinite(step).all() and (step > 0).all()):
        raise ArtifactError("expected finite ends and steps above 0, found others")
    fill = np.array(reader.many(1 if flags & 1 else d, lambda: reader.varint(1 << bits)), np.int64) - 1
    layout: dict[str, Any] = {"vector": names[0], "n_features": d} if names and names[0] else {}
    return Front({"columns": names} if flags & 4 else layout, d, bits, low, step, fill, 0.0, 1.0)


__all__ = ["category_bytes", "front_bytes", "read_categories", "read_front"]
