"""Row filters: a pyarrow expression, the columns it needs, the rows it keeps, the row groups it may match.

In digests a filter is known by the bytes that pyarrow makes of it: format 1, the same from pyarrow 18 to 26 at least.
Under a pyarrow that makes others, format 1 cannot be kept. Conditions given as tuples are then known by their canonical
JSON (format 2), which no pyarrow changes. An expression still is by its bytes, and the digest of the input names the
pyarrow that made them, so that who meets an output that was begun under another one can say so.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.sources.arrow import Mask
from eigenmill.reduce.storage import plain
from eigenmill.reduce.storage.digest import digest_of, digest_of_bytes

PROBE = "53ee16b11bd7ed3c1a2878a9d777b64e"
"""Digest of some conditions in format 1."""
BOUND = "-pyarrow-"
"""Comes between the digest of an input and the version of pyarrow that it depends on, if it does."""


@dataclass(frozen=True)
class RowFilter:
    """``expression`` over the columns ``schema``, hive keys included. Rows where it is null are dropped.

    Attributes:
        conditions: canonical JSON of what the expression was made of; None if it was given itself.
    """

    expression: pc.Expression
    schema: pa.Schema
    hive: frozenset[str] = field(default_factory=frozenset)
    conditions: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read from the files."""
        return tuple(name for name in self.schema.names if name not in self.hive)

    @property
    def digest(self) -> str:
        if self.conditions is None or keeps_format_1():
            return _digest_of_bytes(self.expression)
        return digest_of(["conditions", self.conditions])

    @property
    def bound(self) -> str:
        """What the digest of the input ends in: the version of pyarrow, where the filter's digest depends on it."""
        return "" if self.conditions is not None or keeps_format_1() else f"{BOUND}{pa.__version__}"

    def keeps(self, batch: pa.RecordBatch, keys: Mapping[str, object]) -> Mask:
        """(h,) true for the rows that are kept; ``keys`` are the file's hive keys."""
        from pyarrow import acero  # brings pyarrow.dataset, a third of the time of importing this package

        arrays = [
            constant(keys.get(f.name), f.type, batch.num_rows) if f.name in self.hive else batch.column(f.name)
            for f in self.schema
        ]
        table = pa.table(arrays, names=self.schema.names) if arrays else pa.table({"": pa.nulls(batch.num_rows)})
        plan = acero.Declaration.from_sequence(
            [
                acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
                acero.Declaration("project", acero.ProjectNodeOptions([self.expression], ["keep"])),
            ]
        )
        keep = plan.to_table(use_threads=False).column(0).fill_null(False)
        mask: Mask = keep.to_numpy()
        return mask

    def surviving(self, footer: bytes, keys: Mapping[str, object], groups: range) -> list[int]:
        """The row groups that may hold a matching row, by the statistics in the file's footer."""
        import pyarrow.dataset as ds

        known: pc.Expression = pc.scalar(True)
        for f in self.schema:
            if f.name in self.hive:
                value = pa.scalar(keys.get(f.name), f.type)
                known = known & (pc.field(f.name) == value if value.is_valid else pc.field(f.name).is_null())
        fragment = ds.ParquetFileFormat().make_fragment(pa.py_buffer(footer), partition_expression=known)
        subset = fragment.subset(self.expression, schema=self.schema)
        return [group.id for group in subset.row_groups if group.id in groups]


def _digest_of_bytes(expression: pc.Expression) -> str:
    # The text of an expression leaves out the middle of long lists; its serialized form is whole.
    return digest_of_bytes([pickle.dumps(expression, protocol=5)])


@functools.cache
def keeps_format_1() -> bool:
    """Whether this pyarrow makes of conditions the bytes that format 1 knows them by."""
    conditions = [[("a", "==", 1), ("b", "in", ["x", "y"])], [("c", "<", 0.5), ("d", "!=", True)]]
    return _digest_of_bytes(pq.filters_to_expression(conditions)) == PROBE


def bound_to(digest: str) -> str:
    """The version of pyarrow that the digest of an input depends on; empty if on none."""
    return digest.partition(BOUND)[2]


def constant(value: object, type_: pa.DataType, rows: int) -> pa.Array:
    """``rows`` times the same value."""
    return pa.repeat(pa.scalar(value, type_), rows)


def row_filter(filters: object, schema: pa.Schema, hive: Sequence[str] = ()) -> RowFilter | None:
    """The filter over the columns of ``schema`` that it needs.

    Args:
        filters: a pyarrow expression, or tuples ``(column, operator, value)`` in a list (all hold) or in a
            list of lists (all of one list hold), or None.
        schema: all columns, hive keys included.
        hive: which of them are hive keys.

    Raises:
        ConfigError: it is none of these, names no column of the input, or compares what cannot be compared.
    """
    if filters is None:
        return None
    try:
        filters = _ordered(filters)
        expression = filters if isinstance(filters, pc.Expression) else pq.filters_to_expression(filters)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ConfigError(
            "expected filters as a pyarrow expression, or as tuples (column, operator, value) in a list or "
            f"in a list of lists, found {filters!r}: {error}"
        ) from error
    if "FieldPath(" in str(expression):
        raise ConfigError(f"expected filters that name their columns, found a column by number in {expression}")
    names = schema.names
    failure = _failure(expression, schema, names)
    if failure is not None:
        known = ", ".join(map(repr, names[:20])) + (" ..." if len(names) > 20 else "")
        raise ConfigError(
            f"expected filters over the columns {known}, found {expression}: {failure}; check names and types"
        )
    needed = _needed(expression, schema, names, [])
    needs, keys = pa.schema([schema.field(n) for n in needed]), frozenset(hive) & frozenset(needed)
    return RowFilter(expression, needs, keys, None if filters is expression else _canonical(filters))


def _ordered(value: Any) -> Any:
    """Conditions with sets of text as sorted lists: the order of such a set is another in every process."""
    if isinstance(value, set | frozenset) and any(isinstance(item, str | bytes) for item in value):
        return sorted(value)
    return type(value)(map(_ordered, value)) if type(value) in (list, tuple) else value


def _canonical(filters: Any) -> str | None:
    """The canonical JSON of conditions; None if a value has none, such as an Arrow scalar."""
    either = filters if isinstance(filters[0], list) else [filters]
    try:
        said = [[[column, "==" if op == "=" else op, _plain(value)] for column, op, value in each] for each in either]
    except TypeError:
        return None
    return plain.canonical(said).decode()


def _plain(value: object) -> Any:
    """A compared value as plain JSON: text, numbers and the like as they are, others with the name of their type."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, datetime.date | datetime.time):
        return {type(value).__name__: value.isoformat()}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=plain.canonical)
    raise TypeError(f"no plain form of {type(value).__name__}")


def _failure(expression: pc.Expression, schema: pa.Schema, names: Sequence[str]) -> pa.ArrowException | None:
    """Why the expression cannot be bound to these columns alone, or None."""
    try:
        pa.schema([schema.field(name) for name in names]).empty_table().filter(expression)
    except pa.ArrowException as error:
        return error
    return None


def _needed(expression: pc.Expression, schema: pa.Schema, suspects: list[str], rest: list[str]) -> list[str]:
    """Those of ``suspects`` that the expression needs besides ``rest``.

    pyarrow does not tell the fields of an expression, but binding fails without one: halve until found.
    """
    if not suspects or _failure(expression, schema, rest) is None:
        return []
    if len(suspects) == 1:
        return suspects
    half = len(suspects) // 2
    left, right = suspects[:half], suspects[half:]
    found = _needed(expression, schema, left, rest + right)
    return found + _needed(expression, schema, right, rest + found)


__all__ = ["RowFilter", "constant", "row_filter"]
