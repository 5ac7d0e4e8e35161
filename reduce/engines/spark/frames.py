"""Spark DataFrames as data: their rows reach the Python workers as Arrow batches, through the JVM.

Partitions take the place of leaves, so results agree with those of files to rounding, not to the byte. A DataFrame is
evaluated anew by every scan, and once more to count its rows; one that is costly should be persisted by its owner.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.sql.functions import col, count, greatest, lit, size, spark_partition_id, unwrap_udt
from pyspark.sql.functions import sum as total
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, DoubleType, FloatType, StructField, StructType

from eigenmill.reduce.engines.base import Tree, one_blas_thread
from eigenmill.reduce.engines.collections import FEATURES, Collection
from eigenmill.reduce.engines.ship import pack, unpack
from eigenmill.reduce.engines.spark.rows import Mapper, answer, check
from eigenmill.reduce.engines.wire import to_bytes
from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.format import Format, current
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.blocks import Block, Origin, Workspace
from eigenmill.reduce.rows.transforms import Transform, applied
from eigenmill.reduce.sources.arrow import field_of, numbers, weights_field
from eigenmill.reduce.sources.catalog import Fragment
from eigenmill.reduce.sources.layouts import SPARSE, LaidOut, Layout, SparkVector, SparsePair, Wanted, choose, wanted
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.about import versions

WHERE = "<DataFrame>"
"""What errors call a DataFrame."""


@dataclass(frozen=True)
class FrameReader:
    """Arrow batches of a DataFrame as blocks: what a worker needs to know. Small and picklable.

    Attributes:
        layout: its columns come first in every batch.
        weights: the column of row weights.
        transforms: applied to every block.
        format: how high blocks are.
    """

    layout: Layout
    weights: str | None
    transforms: tuple[Transform, ...]
    format: Format

    @property
    def sparse(self) -> bool:
        """Whether blocks come out as CSR."""
        return self.layout.sparse and all(t.sparse for t in self.transforms)

    def blocks(self, batches: Iterable[pa.RecordBatch], where: str, height: int | None = None) -> Iterator[Block]:
        """Blocks of at most ``height`` rows, by default as of ``Dataset.blocks``; all columns travel with them."""
        workspace, row = Workspace(), 0
        if height is None:
            many = self.layout.sparse and not self.sparse
            height = self.format.max_height if many else self.format.block_height(len(self.layout.names))
        for batch in batches:
            pieces = -(-batch.num_rows // height)
            for i in range(pieces):
                a, b = (batch.num_rows * k // pieces for k in (i, i + 1))
                block = self._block(batch.slice(a, b - a), Origin(where, row=row + a), workspace)
                yield from applied(block, self.transforms, self.format)
            row += batch.num_rows

    def _block(self, batch: pa.RecordBatch, origin: Origin, workspace: Workspace) -> Block:
        weights = None if self.weights is None else numbers(batch.column(self.weights)).astype(np.float64, copy=False)
        layout, densify = self.layout, False
        if isinstance(layout, SparkVector) and not layout.sparse:
            densify = pc.any(pc.equal(pc.struct_field(batch.column(0), "type"), SPARSE)).as_py() is True
            layout = replace(layout, sparse=densify)
        X = layout.matrix(batch, origin)
        return Block(X.toarray() if densify else X, weights, batch, origin, workspace)


class FrameSource(LaidOut, Collection):
    """A Spark DataFrame as a source. Its rows are counted when the number is first asked for.

    Args:
        frame: a ``pyspark.sql.DataFrame``, classic or Connect.
        want: which of its columns make the matrix.
        format: by which workers read it.
    """

    home = "spark"

    def __init__(self, frame: Any, want: Wanted, format: Format | None = None) -> None:
        self.format = format or current()
        schema = to_arrow_schema(frame.schema)
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise SchemaError(f"expected columns of different names, found {twice} twice in {WHERE}; rename or drop")
        layout = choose(schema, want, partial(_first, frame), WHERE)
        if isinstance(layout, SparkVector):
            look = pa.concat_arrays([pc.struct_field(a, "type") for a in _first(frame, layout.column)])
            layout = replace(layout, sparse=pc.any(pc.equal(look, SPARSE)).as_py() is True)
        self.frame, self.layout, self.weights = frame, layout, want.weights
        self.carried = pa.schema([pa.field(n, field_of(schema, n, "carry", WHERE).type) for n in want.carry])
        if want.weights is not None:
            weights_field(schema, want.weights, WHERE)
        # Nothing finished is ever taken for this: the same query may give other rows tomorrow.
        self.digest: str = uuid.uuid4().hex

    @cached_property
    def fragments(self) -> Sequence[Fragment]:
        """One per partition, by the job that counts the rows."""
        found, fragments, start = self._counted, list[Fragment](), 0
        for i in range(max(found, default=-1) + 1):
            n = found.get(i, (0, 0))[0]
            fragments.append(Fragment(i, 0, start, start + n, n))
            start += n
        return tuple(fragments)

    @property
    def values(self) -> int:
        """Numbers stored, those of sparse rows counted with the rows."""
        if not self.sparse:
            return super().values
        return sum(stored for _, stored in self._counted.values())

    @cached_property
    def _counted(self) -> dict[int, tuple[int, int]]:
        """Rows and numbers stored in sparse rows, by partition."""
        stored = size(self._lists()) if self.layout.sparse else lit(0)
        rows = self.frame.select(spark_partition_id().alias("key"), stored.alias("size"))
        table = rows.groupBy("key").agg(count(lit(1)), total(greatest(col("size"), lit(0)))).toArrow()
        keys, counts, sizes = (column.to_pylist() for column in table.columns)
        return {key: (n, held or 0) for key, n, held in zip(keys, counts, sizes, strict=True)}

    def _lists(self) -> Any:
        """The column of the lists of values."""
        column = _column(self.layout.columns[-1])
        if isinstance(self.layout, SparsePair):
            return column
        wrapped = hasattr(self.frame.schema[self.layout.columns[0]].dataType, "sqlType")
        return (unwrap_udt(column) if wrapped else column).getField("values")

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        raise ConfigError(
            "expected the Spark engine for a Spark DataFrame, found another; leave engine out, or give "
            "connect('spark', session)"
        )

    # A collection of a cluster.

    def connection(self) -> Any:
        """The session of the DataFrame."""
        return self.frame.sparkSession

    def applied(self, data: Matrix, column: str = FEATURES, udt: Any = None) -> Any:
        """The DataFrame with one more column: the transformed rows as an array, or as the ``udt`` of ML vectors.

        With carried columns only these, and it. Rows that the model drops are gone.
        """
        before = [f for f in self.frame.schema if not len(self.carried) or f.name in self.carried.names]
        names = [f.name for f in before]
        if column in names:
            raise ConfigError(f"expected no column {column!r} in the DataFrame, found one; rename or drop it")
        element = FloatType() if data.dtype == np.float32 else DoubleType()
        schema = StructType([*before, StructField(column, udt or ArrayType(element, False), False)])
        mapped = applier(pack(self.reader(data)), names, column, udt is not None, versions())
        return self._selected(names).mapInArrow(mapped, schema)

    def folded(self, pass_: Pass[Any, Any], data: Matrix, first: int, work: str | None, schema: str) -> Any:
        """A DataFrame with one tree per partition, whose only leaf is number ``first`` + the partition's."""
        payload = pack((pass_, self.reader(data)), work)
        return self._selected([]).mapInArrow(folder(payload, first, versions()), schema)

    def reader(self, data: Matrix) -> FrameReader:
        """How workers read ``data``."""
        return FrameReader(self.layout, self.weights, data.transforms, self.format)

    def _selected(self, others: Sequence[str]) -> Any:
        weights = [] if self.weights is None else [self.weights]
        names = dict.fromkeys([*self.layout.columns, *weights, *others])
        return self.frame.select(*map(_column, names))


def source_of(frame: Any, format: Format | None = None, **options: Any) -> FrameSource:
    """The source of a Spark DataFrame; options as of ``Dataset.from_spark``."""
    if not hasattr(frame, "mapInArrow"):
        raise ConfigError(f"expected a Spark DataFrame, found {type(frame).__module__}.{type(frame).__name__}")
    return FrameSource(frame, wanted(**options), format)


def _column(name: str) -> Any:
    return col("`" + name.replace("`", "``") + "`")


def _first(frame: Any, column: str) -> Iterator[pa.Array]:
    """The first row of a column that is there."""
    chosen = _column(column)
    table = frame.select(chosen).where(chosen.isNotNull()).limit(1).mapInArrow(_asis, _plain(frame, column)).toArrow()
    yield table.column(0).combine_chunks() if table.num_rows else pa.array([], table.schema.field(0).type)


def _plain(frame: Any, column: str) -> StructType:
    """The column's type without the wrapping of ML vectors, which not every way to Arrow knows."""
    kind = frame.schema[column].dataType
    return StructType([StructField(column, kind.sqlType() if hasattr(kind, "sqlType") else kind)])


# In the Python workers.


def _asis(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from batches


def folder(payload: bytes, first: int, expected: dict[str, str]) -> Mapper:
    """For ``mapInArrow`` over a DataFrame: its partition as a tree of one leaf."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        partition = 0 if context is None else context.partitionId()

        def work() -> bytes:
            check(expected)
            pass_, reader = unpack(payload)
            state = pass_.start()
            with one_blas_thread():
                height = pass_.sparse_height if reader.sparse else None
                for block in reader.blocks(batches, f"{WHERE} partition {partition}", height):
                    state = pass_.fold(state, block)
            index = first + partition
            return to_bytes(Tree({(0, index): state}, leaves=index + 1))

        yield from answer(partition, work)

    return run


def applier(payload: bytes, names: Sequence[str], column: str, vectors: bool, expected: dict[str, str]) -> Mapper:
    """For ``mapInArrow`` over a DataFrame: the columns ``names`` and the features."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        check(expected)
        reader, context = unpack(payload), TaskContext.get()
        where = WHERE if context is None else f"{WHERE} partition {context.partitionId()}"
        with one_blas_thread():
            for block in reader.blocks(batches, where):
                features = _lists(block)
                if vectors:
                    features = _vectors(features)
                carried = block.carried
                if carried is not None:
                    columns = [carried.column(name) for name in names]
                    yield pa.RecordBatch.from_arrays([*columns, features], [*names, column])

    return run


def _lists(block: Block) -> pa.Array:
    X = block.X.toarray() if hasattr(block.X, "toarray") else block.dense(block.X.dtype) if block.rows else block.X
    X = np.array(X, order="C")  # a copy: the block's memory is what the next one is computed in
    offsets = np.arange(len(X) + 1, dtype=np.int32) * np.int32(X.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(X.reshape(-1)))


def _vectors(lists: pa.Array) -> pa.Array:
    """Lists as Spark's dense ML vectors."""
    n = len(lists)
    values = lists.cast(pa.list_(pa.float64()))
    kinds, none = pa.array(np.ones(n, np.int8)), pa.nulls(n, pa.int32())
    names = ["type", "size", "indices", "values"]
    return pa.StructArray.from_arrays([kinds, none, pa.nulls(n, pa.list_(pa.int32())), values], names)
