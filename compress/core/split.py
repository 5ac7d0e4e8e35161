"""Split: which rows are held out of training."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.rows.blocks import Block
from eigenmill.reduce.storage.digest import tagged

CarriedValue = bool | int | float | str | datetime.date | None


@tagged("Validation", "share by equals since")
@dataclass(frozen=True)
class Validation:
    """Which rows are held out, to stop early and to choose by; they are never trained on.

    Values of categories that only they have are unseen ones, where ``by`` names a column.

    Args:
        share: of the rows, chosen by a hash of the column ``by`` (a row's number without one), so that a row stays
            on its side when others come or go.
        by: a carried column, such as an id: equal values stay on one side.
        equals: instead: rows whose ``by`` has this value are held out, as in a column ``split``.
        since: instead: rows whose ``by`` is at least this, as in a column of dates; of times also as text.
    """

    share: float = 0.1
    by: str | None = None
    equals: CarriedValue = None
    since: CarriedValue = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"expected a validation share of at least 0 and below 1, found {self.share}")
        if (self.equals is not None or self.since is not None) and self.by is None:
            raise ConfigError("expected a column for the validation split, found none; name it with by=")

    def held_out(self, block: Block, first_row: int) -> npt.NDArray[np.bool_]:
        """(h,) whether a row is held out; the block's first row is number ``first_row`` of the data."""
        if self.by is None:
            rows = np.arange(block.rows) if block.offsets is None else block.offsets
            key = (np.uint64(first_row) + rows.astype(np.uint64)).astype(np.uint64)
            return _hashed(key) < self.share
        assert block.carried is not None
        column = block.carried.column(self.by)
        if self.equals is not None or self.since is not None:
            compare, value = (pc.equal, self.equals) if self.equals is not None else (pc.greater_equal, self.since)
            try:
                found = compare(column, _like(value, column.type))
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise SchemaError(
                    f"expected {self.by!r} to compare with {value!r}, found {column.type}: {error}; give a value of "
                    "that type"
                ) from error
            return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)
        if pa.types.is_integer(column.type) and column.null_count == 0:
            return _hashed(column.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)) < self.share
        texts = [str(value).encode() for value in column.to_pylist()]
        key = np.array([int.from_bytes(hashlib.blake2b(t, digest_size=8).digest(), "little") for t in texts], np.uint64)
        return _hashed(key) < self.share


def _like(value: CarriedValue, kind: pa.DataType) -> pa.Scalar:
    """The value as one of a column; of times also as text or as a day, in UTC where the column has a zone."""
    if pa.types.is_timestamp(kind) and isinstance(value, str):
        return pa.scalar(value).cast(pa.timestamp(kind.unit)).cast(kind)
    day = isinstance(value, datetime.date) and not isinstance(value, datetime.datetime)
    if (pa.types.is_timestamp(kind) and day) or (pa.types.is_date(kind) and isinstance(value, str)):
        return pa.scalar(value).cast(kind)
    return pa.scalar(value, type=kind)


def _hashed(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) by splitmix64 (Steele, Lea and Flood 2014)."""
    z = key + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) / 2.0**53


SplitLike = Validation | Mapping[str, Any] | float | None
"""A split, its keywords, a share alone, or none."""


def split_of(value: SplitLike) -> Validation:
    """What a share, keywords or None stand for."""
    if isinstance(value, Validation):
        return value
    if isinstance(value, Mapping):
        known = [field.name for field in fields(Validation)]
        if set(value) - set(known):
            raise ConfigError(f"expected a validation split of {known}, found {sorted(value)}; use these names")
        return Validation(**value)
    return Validation(share=0.0 if value is None else float(value))


__all__ = ["SplitLike", "Validation", "split_of"]
