"""Plain JSON values: one exact text for each, from which digests are made, and a parser that takes nothing else."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from eigenmill.reduce.errors import ArtifactError, EigenmillError, OutputError
from eigenmill.reduce.storage.digest import sha256_of
from eigenmill.reduce.storage.sequences import OnDemand

MAX_DEPTH = 64
"""Deepest nesting of a JSON file."""
PIECE = 1 << 16
"""Characters that are encoded at a time."""

_CANONICAL = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
Refusal = type[OutputError] | type[ArtifactError]


def canonical(value: object) -> bytes:
    """The one JSON text of ``value`` that digests are made of."""
    return _CANONICAL.encode(value).encode()


def pieces(value: object, indent: int | None = None) -> Iterator[bytes]:
    """The JSON text of ``value`` in pieces: keys sorted, no NaN; canonical unless indented.

    A list may be any sequence that makes its items when asked for them: it is never held as a whole.
    """
    encoder = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=True, indent=indent, default=_Items)
    held, size = list[str](), 0
    for piece in _canonical_pieces(value) if indent is None else encoder.iterencode(value):
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


def _canonical_pieces(value: object) -> Iterator[str]:
    """As the encoder has it, which is ten times faster where it may hold a whole item."""
    if isinstance(value, OnDemand | list | tuple):
        yield "["
        for i, item in enumerate(value):
            yield ("," if i else "") + _CANONICAL.encode(item)
        yield "]"
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for i, key in enumerate(sorted(value)):
            yield ("," if i else "{") + _CANONICAL.encode(key) + ":"
            yield from _canonical_pieces(value[key])
        yield "}" if value else "{}"
    else:
        yield _CANONICAL.encode(value)


class _Items(list[Any]):
    """A made sequence for the encoder, which takes nothing but lists, and asks for their items one by one."""

    def __init__(self, items: object) -> None:
        if not isinstance(items, OnDemand):
            raise TypeError(f"expected a plain JSON value, found {type(items).__name__}; convert it to one")
        super().__init__()
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return sha256_of(pieces(value))


def checked(value: object, where: str, depth: int = MAX_DEPTH - 8) -> Any:
    """``value`` when JSON gives it back as it is (tuples become lists)."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        if isinstance(value, float) and not math.isfinite(value):
            raise ArtifactError(f"expected finite numbers in {where}, found {value}; leave it out, or use None")
        return value
    if depth and isinstance(value, OnDemand):
        for item in value:
            checked(item, where, depth - 1)
        return value
    if depth and isinstance(value, list | tuple):
        return [checked(item, where, depth - 1) for item in value]
    if depth and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: checked(item, f"{where}.{key}", depth - 1) for key, item in value.items()}
    raise ArtifactError(f"expected plain JSON values in {where}, found {type(value).__name__}; convert it to one")


def parse(content: bytes, name: str, refusal: Refusal) -> Any:
    """The value of a JSON text, ``name`` is for the message.

    Refused are: other encodings than UTF-8, NaN and infinities, keys given twice, and nesting deeper than
    ``MAX_DEPTH``.
    """
    with refused(name, refusal):
        value = json.loads(content.decode("utf-8"), **_HOOKS)
        check_depth(value, MAX_DEPTH)
    return value


@contextlib.contextmanager
def refused(name: str, refusal: Refusal) -> Iterator[None]:
    """Turns what is wrong with the JSON text ``name`` into a ``refusal``."""
    try:
        yield
    except EigenmillError:
        raise
    except (ValueError, RecursionError) as error:
        raise refusal(
            f"expected {name} to be plain JSON, found: {str(error)[:200]}; "
            "the file is damaged or not ours: restore it or remove it"
        ) from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; a key given twice is a ValueError."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that is given twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]}, which is beyond float64")
    return value


def check_depth(value: object, left: int) -> None:
    """Refuses nesting deeper than ``left`` as a ValueError."""
    if isinstance(value, dict | list):
        if left == 0:
            raise ValueError(f"nesting deeper than {MAX_DEPTH}")
        for item in value.values() if isinstance(value, dict) else value:
            check_depth(item, left - 1)


_HOOKS: dict[str, Any] = {"object_pairs_hook": unique, "parse_constant": _no_constant, "parse_float": _finite}
DECODER = json.JSONDecoder(**_HOOKS)
"""Decodes one value as :func:`parse` does, its depth aside."""
