"""Digests of parameters and arrays: equal values give equal digests, on every engine and in every process."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eigenmill.reduce.format import FORMAT_1


def digest_of(value: Any) -> str:
    """A 128-bit hexadecimal digest of nested dataclasses, mappings, sequences, arrays and plain values."""
    h = hashlib.blake2b(digest_size=16)
    _feed(h, value)
    return h.hexdigest()


def _feed(h: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        h.update(f"array:{value.dtype.str}:{value.shape}:".encode())
        h.update(np.ascontiguousarray(value).view(np.uint8).data)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        h.update(f"{type(value).__name__}(".encode())
        for f in dataclasses.fields(value):
            if f.compare and not (f.name == "format" and getattr(value, f.name) == FORMAT_1):
                h.update(f"{f.name}=".encode())
                _feed(h, getattr(value, f.name))
        h.update(b")")
    elif isinstance(value, Mapping):
        h.update(b"{")
        for key in sorted(value, key=str):
            h.update(f"{key!r}:".encode())
            _feed(h, value[key])
        h.update(b"}")
    elif isinstance(value, Sequence | Iterator) and not isinstance(value, str | bytes):
        h.update(b"[")
        for item in value:
            _feed(h, item)
            h.update(b",")
        h.update(b"]")
    elif value is None or isinstance(value, str | bytes | bool | int | float | np.generic | np.dtype | datetime.date):
        plain = value.item() if isinstance(value, np.generic) else value
        h.update(f"{type(plain).__name__}:{plain!r};".encode())
    else:
        raise TypeError(f"no digest for a value of type {type(value).__name__}")
