"""Partitioned parts: one file per value of a carried column, in directories ``column=value``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.output.encode import Encoding, GatheredRows, PartFiles, matrix
from eigenmill.reduce.rows.blocks import Array, Block
from eigenmill.reduce.sources.discovery import HIVE_NULL

PARTITION_VALUES = 4096
"""Most values of the partition column within one part."""
KEYS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer, pa.types.is_floating),
    *(pa.types.is_boolean, pa.types.is_decimal, pa.types.is_temporal, pa.types.is_null),
)
"""Types whose values can name a directory."""


def check_column(partition_by: str, carried: pa.Schema) -> None:
    """Refuses a partition column that is not carried, whose name cannot be a directory, or of a type without text.

    Raises:
        ConfigError: always when it refuses.
    """
    if partition_by not in carried.names:
        raise ConfigError(
            f"expected partition_by to be one of the carried columns {carried.names}, found {partition_by!r}"
        )
    if partition_by[:1] in ("_", ".") or re.search(r"[/=%\\\0]", partition_by):
        raise ConfigError(
            f"expected partition_by to be a name that can be a directory, found {partition_by!r}: readers "
            "skip or misread such directories; rename the column"
        )
    kind = carried.field(partition_by).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_key(kind) for is_key in KEYS):
        raise ConfigError(
            f"expected {partition_by!r} for partition_by to hold text, numbers, dates or times, found {kind}; "
            "choose another column, or write it as text"
        )


def check_values(partition_by: str, pieces: Iterable[tuple[pa.Array, str]]) -> None:
    """Refuses values of the partition column that a write would refuse; ``pieces`` are of one part, with their places.

    Raises:
        ConfigError: there are too many.
        DataError: one would not come back as it was.
    """
    values: set[str | None] = set()
    for piece, where in pieces:
        values.update(_values(piece, partition_by, where).dictionary.to_pylist())
        _refuse_many(len(values), partition_by, where)


class Values:
    """A part by value of the partition column: one file for each, and more than one when the part is large."""

    def __init__(self, out: PartFiles) -> None:
        self.out, self.encoding = out, out.encoding
        self.gathered: dict[str, GatheredRows] = {}
        self.values: set[str] = set()
        self.rounds = 0

    def add(self, block: Block) -> None:
        """Takes a block's rows; writes all that was gathered when it is more than ``partition_bytes``."""
        for value, X, carried in _split(self.encoding, block):
            self.values.add(value)
            if value not in self.gathered:
                self.gathered[value] = GatheredRows(self.encoding, len(X))
            self.gathered[value].add(X, carried)
        _refuse_many(len(self.values), str(self.encoding.partition_by), block.origin.at())
        if sum(rows.nbytes for rows in self.gathered.values()) >= self.encoding.format.partition_bytes:
            self.write()
            self.rounds += 1

    def write(self) -> None:
        """Writes what has been gathered, a file for each value."""
        encoding, ending = self.encoding, f"-{self.rounds}" if self.rounds else ""
        for value in sorted(self.gathered):
            with self.out.file(f"{encoding.partition_by}={value}/{self.out.part.name}{ending}.parquet") as file:
                file.write(self.gathered[value], encoding.group_rows)
        self.gathered.clear()


@contextlib.contextmanager
def partitioned_part(out: PartFiles) -> Iterator[Values]:
    """Writes a part by value of the partition column."""
    made = Values(out)
    yield made
    made.write()


def _split(encoding: Encoding, block: Block) -> Iterator[tuple[str, Array, pa.RecordBatch]]:
    """The block by value of the partition column: directory's value, features, carried columns; row order."""
    if block.carried is None:  # the job has seen to it
        return
    X, carried = matrix(encoding, block), block.carried
    encoded = _values(carried.column(encoding.partition_by), str(encoding.partition_by), block.origin.at())
    values, position = np.unique([_hive(value) for value in encoded.dictionary.to_pylist()], return_inverse=True)
    codes = position[encoded.indices.to_numpy()]
    rest = carried.select([f.name for f in encoding.carried if f.name != encoding.partition_by])
    if len(values) > 1:
        order = np.argsort(codes, kind="stable")
        X, rest, codes = X[order], rest.take(pa.array(order)), codes[order]
    for code, value in enumerate(values.tolist()):
        a, b = (int(i) for i in np.searchsorted(codes, [code, code + 1]))
        yield value, X[a:b], rest[a:b]


def _values(column: pa.Array, name: str, where: str) -> pa.DictionaryArray:
    """The column as text, null among its values; what would come back as null without being it is refused."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = pc.dictionary_encode(column.cast(pa.string()), null_encoding="encode")
    lost = {"", HIVE_NULL} & set(encoded.dictionary.to_pylist())
    if lost:
        raise DataError(
            f"expected {name!r} for partition_by to hold text that comes back as it was, found {min(lost)!r} in the "
            f"rows from {where}, which readers of partitions take for null; fill it in, or partition by another column"
        )
    return encoded


def _refuse_many(count: int, partition_by: str, where: str) -> None:
    if count > PARTITION_VALUES:
        raise ConfigError(
            f"expected at most {PARTITION_VALUES} values of {partition_by!r} within a part, "
            f"found {count} by {where}; partition by a column with fewer values"
        )


def _hive(value: str | None) -> str:
    """A value in a directory's name. Only ASCII is escaped: Spark decodes byte by byte, Arrow as UTF-8."""
    if value is None:
        return HIVE_NULL
    return "".join(c if c.isalnum() or c in "_.-" or ord(c) > 127 else f"%{ord(c):02X}" for c in value)
