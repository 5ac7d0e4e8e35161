"""Plain JSON values: one exact text for each, from which digests are made, and a parser that takes nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from reduce.errors import ArtifactError, OutputError

MAX_DEPTH = 64
"""Deepest nesting of a JSON file."""

_CANONICAL = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
Refusal = type[OutputError] | type[ArtifactError]


def canonical(value: Any) -> bytes:
    """The one JSON text of ``value`` that digests are made of."""
    return _CANONICAL.encode(value).encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    h = hashlib.sha256()
    for piece in _CANONICAL.iterencode(value):
        h.update(piece.encode())
    return h.hexdigest()


def checked(value: Any, where: str, depth: int = MAX_DEPTH - 8) -> Any:
    """``value`` when JSON gives it back as it is (tuples become lists)."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        if isinstance(value, float) and not math.isfinite(value):
            raise ArtifactError(f"expected finite numbers in {where}, found {value}; leave it out, or use None")
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
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        _check_depth(value, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise refusal(
            f"expected {name} to be plain JSON, found: {str(error)[:200]}; "
            "the file is damaged or not ours: restore it or remove it"
        ) from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise ValueError(f"nesting deeper than {MAX_DEPTH}")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
