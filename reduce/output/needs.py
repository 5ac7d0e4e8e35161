"""What a write takes in memory, from metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eigenmill.reduce.output import encode
from eigenmill.reduce.output.parts import Part
from eigenmill.reduce.sources.catalog import row_counts
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage import files

COLUMN, CHUNK = 8 << 10, 2 << 10
"""Bytes that Parquet's writer holds for a column, and, until the file ends, for each in every row group."""


@dataclass(frozen=True)
class Writing:
    """What a write takes.

    Attributes:
        parts: as many as may be written at once.
        memory: bytes that writing one of them takes at most, the block and long carried values apart (an estimate).
    """

    parts: int
    memory: int


def needed(
    data: Matrix, parts: Sequence[Part], k: int, itemsize: int, *, by_columns: bool, by: str | None, local: bool
) -> Writing:
    """What writing takes.

    Args:
        data: what is written.
        parts: in which it is.
        k: features of it.
        itemsize: bytes of each.
        by_columns: whether each is a column.
        by: the column that partitions, if one does.
        local: whether files are written where they stay.
    """
    format, largest = data.format, max((rows for rows, _ in row_counts(data.fragments)), default=0)
    rows = max((part.rows for part in parts), default=0)
    features = rows * k * itemsize
    height = format.max_height if data.source.sparse else format.block_height(len(data.source.names))
    block = data.source.reading(height, largest, carry=True).carried
    carried = block * -(-rows // max(min(height, largest), 1))
    gathered = 3 * min(features, format.group_bytes)
    if by is not None:
        gathered = 3 * (min(features + carried, format.partition_bytes) + block)
    if len(data.carried):
        encoded = 0 if by is not None else 4 * (min(carried, format.group_bytes) + block)
        gathered += max(format.group_bytes, encoded)
    if by_columns:
        groups = max(-(-rows // encode.group_rows(k * itemsize, format)), 1)
        gathered += k * (COLUMN + groups * CHUNK)
    spool = 0 if local else min(features, 2 * files.IN_FLIGHT)
    return Writing(len(parts), gathered + spool + (8 << 20))
