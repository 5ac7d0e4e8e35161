"""Row filters: a pyarrow expression, the columns it needs, the rows it keeps, the row groups it may match."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eigenmill.reduce.arrow import Mask
from eigenmill.reduce.digest import digest_of_bytes
from eigenmill.reduce.errors import ConfigError


@dataclass(frozen=True)
class RowFilter:
    """``expression`` over the columns ``schema``, hive keys included. Rows where it is null are dropped."""

    expression: pc.Expression
    schema: pa.Schema
    hive: frozenset[str] = field(default_factory=frozenset)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read from the files."""
        return tuple(name for name in self.schema.names if name not in self.hive)

    @property
    def digest(self) -> str:
        # The text of an expression leaves out the middle of long lists; its serialized form is whole.
        return digest_of_bytes([pickle.dumps(self.expression, protocol=5)])

    def keeps(self, batch: pa.RecordBatch, keys: Mapping[str, Any]) -> Mask:
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

    def surviving(self, footer: bytes, keys: Mapping[str, Any], groups: range) -> list[int]:
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


def constant(value: Any, type_: pa.DataType, rows: int) -> pa.Array:
    """``rows`` times the same value."""
    return pa.repeat(pa.scalar(value, type_), rows)


def row_filter(filters: Any, schema: pa.Schema, hive: Sequence[str] = ()) -> RowFilter | None:
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
    return RowFilter(expression, pa.schema([schema.field(n) for n in needed]), frozenset(hive) & frozenset(needed))


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
