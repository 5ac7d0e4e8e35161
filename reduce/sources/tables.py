"""An Arrow table in memory as a source, with the same layouts as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.format import Format, current
from eigenmill.reduce.rows.blocks import F64, Block, Origin, Workspace
from eigenmill.reduce.sources.arrow import field_of, numbers, weights_field
from eigenmill.reduce.sources.catalog import Fragment
from eigenmill.reduce.sources.extents import SKEW, Reading
from eigenmill.reduce.sources.layouts import DENSE, LaidOut, Layout, SparkVector, Wanted, choose
from eigenmill.reduce.storage.digest import digest_of, digest_of_bytes

WHERE = "<table>"
"""What errors call a table."""


class TableSource(LaidOut):
    """The rows of an Arrow table. Only the columns that are used are kept."""

    def __init__(self, table: pa.Table, want: Wanted, format: Format | None = None) -> None:
        def first(column: str) -> Iterator[pa.Array]:
            yield from table.column(column).chunks

        self.format = format or current()
        schema = table.schema
        layout = choose(schema, want, first, WHERE)
        if isinstance(layout, SparkVector):
            kinds = pc.struct_field(table.column(layout.column), "type")
            layout = replace(layout, sparse=pc.any(pc.not_equal(kinds, DENSE)).as_py() is True)
        self.layout: Layout = layout
        self.carried = pa.schema([pa.field(n, field_of(schema, n, "carry", WHERE).type) for n in want.carry])
        self.weights = want.weights
        weights = [] if want.weights is None else [want.weights]
        for name in weights:
            weights_field(schema, name, WHERE)
        self.table = table.select(list(dict.fromkeys([*layout.columns, *weights, *want.carry])))
        n, step = table.num_rows, self.format.leaf_rows(len(layout.names))
        self.fragments: Sequence[Fragment] = tuple(
            Fragment(i, 0, a, min(a + step, n), min(a + step, n) - a) for i, a in enumerate(range(0, n, step))
        )

    @property
    def values(self) -> int:
        if not self.sparse:
            return super().values
        column = self.table.column(self.layout.columns[-1])
        values = pc.struct_field(column, "values") if isinstance(self.layout, SparkVector) else column
        return pc.sum(pc.list_value_length(values)).as_py() or 0

    def reading(self, height: int, rows: int, *, carry: bool) -> Reading:
        # Slices of the table take nothing, but what lies across its chunks is copied.
        held = self.table.select(self.carried.names).nbytes if carry and len(self.carried) else 0
        mean = held / max(self.table.num_rows, 1)
        return Reading(carried=int(min(held, SKEW * height * mean)))

    @cached_property
    def digest(self) -> str:
        """Of the content, whatever its chunks."""
        content = digest_of_bytes(self._streams())
        return digest_of([content, self.layout, self.carried.names, self.weights])

    def _streams(self) -> Iterator[pa.Buffer]:
        """The table as Arrow streams of some rows each."""
        table, rows = self.table.replace_schema_metadata(None), self.format.digest_rows
        for a in range(0, table.num_rows, rows):
            part = table.slice(a, rows)
            # Taking copies: bits and bytes around a slice would otherwise leak into the stream.
            part = part.take(pa.array(np.arange(part.num_rows))).combine_chunks()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(part)
            yield sink.getvalue()

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        for a in range(fragment.start, fragment.stop, height):
            part = self.table.slice(a, min(height, fragment.stop - a))
            batch = part.to_batches()[0]
            if batch.num_rows < part.num_rows:  # the slice lies across chunks
                batch = part.combine_chunks().to_batches()[0]
            origin = Origin(WHERE, row=a)
            weights: F64 | None = None
            if self.weights is not None:
                weights = numbers(batch.column(self.weights)).astype(np.float64, copy=False)
            carried = batch.select(self.carried.names).cast(self.carried) if carry and len(self.carried) else None
            yield Block(self.layout.matrix(batch, origin), weights, carried, origin, workspace)

    def values_of(self, carried: str, fragment: Fragment) -> Iterator[tuple[pa.Array, str]]:
        for piece in self.table.slice(fragment.start, fragment.stop - fragment.start).column(carried).chunks:
            yield piece, Origin(WHERE, row=fragment.start).at()


def as_table(data: object) -> pa.Table:
    """An Arrow table of a table, record batch, or anything that exports an Arrow stream (polars, DuckDB).

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    raise ConfigError(f"expected an Arrow table, found {type(data).__name__}; for paths use Dataset.from_parquet")


def pandas_table(frame: object) -> pa.Table:
    """An Arrow table of a pandas DataFrame without its index; NaN becomes null.

    Raises:
        SchemaError: the objects of a column have no common type.
    """
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SchemaError(
            f"expected columns of one type each, found a DataFrame that Arrow cannot hold: {error}; convert the column"
        ) from error


__all__ = ["TableSource", "as_table", "pandas_table"]
