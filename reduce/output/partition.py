"""Partitioned parts: one file per value of a carried column, in directories ``column=value``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.output.encode import Encoding, GatheredRows, PartFiles, matrix
from eigenmill.reduce.rows.blocks import Array, Block
from eigenmill.reduce.sources.discovery import HIVE_NULL

PARTITION_VALUES = 4096
"""Most values of the partition column within one part."""


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
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise ConfigError(f"expected partition_by to hold text, numbers or dates, found {kind}; choose another column")


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
        if len(self.values) > PARTITION_VALUES:
            raise ConfigError(
                f"expected at most {PARTITION_VALUES} values of {self.encoding.partition_by!r} within a part, "
                f"found {len(self.values)} by {block.origin.at()}; partition by a column with fewer values"
            )
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
    column = carried.column(encoding.partition_by)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = pc.dictionary_encode(column.cast(pa.string()), null_encoding="encode")
    directories = [_hive(value) for value in encoded.dictionary.to_pylist()]
    values, position = np.unique(directories, return_inverse=True)  # null and the empty string share one
    codes = position[encoded.indices.to_numpy()]
    rest = carried.select([f.name for f in encoding.carried if f.name != encoding.partition_by])
    if len(values) > 1:
        order = np.argsort(codes, kind="stable")
        X, rest, codes = X[order], rest.take(pa.array(order)), codes[order]
    for code, value in enumerate(values.tolist()):
        a, b = (int(i) for i in np.searchsorted(codes, [code, code + 1]))
        yield value, X[a:b], rest[a:b]


def _hive(value: str | None) -> str:
    """A value in a directory's name. Only ASCII is escaped: Spark decodes byte by byte, Arrow as UTF-8."""
    if not value:
        return HIVE_NULL
    return "".join(c if c.isalnum() or c in "_.-" or ord(c) > 127 else f"%{ord(c):02X}" for c in value)
