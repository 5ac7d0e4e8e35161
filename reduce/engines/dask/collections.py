"""Dask arrays and Dask DataFrames as data: partitions are folded where they are, and results are lazy again.

A partition is one fragment. Lengths that the collection does not know are counted once, and only when a fit asks how
many rows there are; to transform needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse
from dask import delayed
from distributed import get_client

from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.engines.collections import FEATURES, Collection
from eigenmill.reduce.engines.ship import pack, unpack
from eigenmill.reduce.errors import ConfigError, EngineError, SchemaError
from eigenmill.reduce.format import Format, current
from eigenmill.reduce.rows.blocks import Block, Workspace
from eigenmill.reduce.rows.transforms import Transform, applied
from eigenmill.reduce.sources.arrays import ArraySource
from eigenmill.reduce.sources.base import NumberedNames, Source, StandIn, feature_dtype
from eigenmill.reduce.sources.catalog import Fragment
from eigenmill.reduce.sources.layouts import wanted
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.sources.tables import TableSource, pandas_table
from eigenmill.reduce.storage.digest import digest_of

POSITION = "__position__"
"""Carried through transforms to tell which rows they have kept."""


def source_of(X: object, format: Format | None = None) -> Any:
    """The source of a Dask array (n, d) in row chunks, or of a Dask DataFrame of numeric columns.

    Raises:
        SchemaError: it has another number of dimensions, or columns that are no numbers.
        ConfigError: it is another kind of Dask collection.
    """
    kind = type(X)  # an object of Delayed says that it has whatever it is asked for
    if hasattr(kind, "map_blocks"):
        return ArrayParts(X, format or current())
    if hasattr(kind, "divisions"):
        return FrameParts(X, format or current())
    raise ConfigError(
        f"expected a Dask array or DataFrame, found {type(X).__name__}; "
        "turn it into one with .to_dataframe(), .to_dask_array() or da.stack"
    )


class Partitions(Collection):
    """What both have in common: rows in partitions on a cluster. Pickles without the collection and its graph."""

    home = "dask"
    names: Sequence[str]
    dtype: np.dtype[Any]
    sparse = False
    digest: str
    format: Format
    collection: Any

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("names", "dtype", "sparse", "digest", "format")}

    @cached_property
    def fragments(self) -> tuple[Fragment, ...]:
        lengths = self._lengths()
        return tuple(Fragment(i, i, 0, rows, rows) for i, rows in enumerate(lengths))

    def _lengths(self) -> Sequence[int]:
        raise NotImplementedError

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        raise EngineError(
            "expected the engine of the cluster that a Dask collection lives on, found one that cannot reach its "
            "rows; leave engine= away, or give engine=connect('dask', client)"
        )

    def connection(self) -> Any:
        """The current ``distributed.Client``."""
        return _client()

    @cached_property
    def _delayed(self) -> list[Any]:
        return list(np.ravel(self.collection.to_delayed()))

    def parts(self, fragments: Sequence[Fragment]) -> list[Any]:
        """The partitions behind ``fragments``, not yet computed."""
        return [self._delayed[fragment.file] for fragment in fragments]

    def loaded(self, fragments: Sequence[Fragment], parts: Sequence[Any]) -> Loaded:
        """On a worker: the source of these partitions alone, there in memory."""
        return Loaded(self, fragments, [self._source(part) for part in parts])

    def _source(self, part: object) -> Source:
        raise NotImplementedError


class ArrayParts(Partitions):
    """Rows of a Dask array of NumPy arrays or SciPy sparse matrices."""

    def __init__(self, X: Any, format: Format) -> None:
        if X.ndim != 2:
            raise SchemaError(f"expected a matrix with 2 dimensions, found {X.ndim}; reshape the array")
        if X.dtype.kind not in "fiub":
            raise SchemaError(f"expected a numeric or boolean array, found dtype {X.dtype}; encode it as numbers first")
        if np.isnan(X.shape[1]):
            raise SchemaError("expected a known number of columns, found none; call X.compute_chunk_sizes() first")
        # All columns of a row in one place.
        self.collection = X.rechunk({1: -1}) if X.numblocks[1] > 1 else X
        self.names, self.format = NumberedNames("x", X.shape[1]), format
        self.dtype = feature_dtype([X.dtype])
        self.sparse = bool(scipy.sparse.issparse(X._meta))
        self.digest = digest_of(["dask array", str(X.name), X.shape[1]])

    def _lengths(self) -> Sequence[int]:
        chunks = self.collection.chunks[0]
        if not any(np.isnan(rows) for rows in chunks):
            return [int(rows) for rows in chunks]
        return [rows for rows, _ in self._counted]

    @property
    def values(self) -> int:
        """Numbers stored, those of sparse partitions counted on the workers."""
        if not self.sparse:
            return super().values
        return sum(stored for _, stored in self._counted)

    @cached_property
    def _counted(self) -> list[tuple[int, int]]:
        """Rows and stored numbers of every partition."""
        return list(dask.compute(*(delayed(_counts)(part) for part in self._delayed)))

    def _source(self, part: object) -> Source:
        return ArraySource(part, format=self.format)

    def applied(self, data: Matrix, column: str = FEATURES) -> Any:
        """``data`` as a Dask array, still lazy."""
        X, k = self.collection, data.n_features
        drops = any(t.drops for t in data.transforms)
        rows = tuple(np.nan for _ in X.chunks[0]) if drops else X.chunks[0]
        payload = delayed(_identity)(pack((data.transforms, self.format)))
        return X.map_blocks(
            _apply_array, payload=payload, dtype=data.dtype, chunks=(rows, (k,)), meta=np.empty((0, 0), data.dtype)
        )


class FrameParts(Partitions):
    """Rows of a Dask DataFrame with numeric and boolean columns."""

    def __init__(self, X: Any, format: Format) -> None:
        if not hasattr(X, "to_delayed") or not hasattr(X._meta, "columns"):
            raise ConfigError(f"expected a Dask DataFrame, found {type(X).__name__}; select columns with a list")
        columns = list(X.columns)
        strange = [(name, dtype) for name, dtype in X._meta.dtypes.items() if not _numeric(dtype)]
        if strange or not columns:
            found = f"{strange[0][0]!r} ({strange[0][1]})" if strange else "none"
            raise SchemaError(
                f"expected numeric columns only, found {found} in the Dask DataFrame; choose the features by "
                "df[[...]], or convert them"
            )
        if any(not isinstance(name, str) for name in columns):
            raise SchemaError(
                f"expected columns named by text, found {columns[0]!r}; rename them with df.rename(columns=str)"
            )
        self.collection = X
        self.names, self.format = tuple(columns), format
        self.dtype = _table(self.collection._meta, self.names, format).dtype
        self.digest = digest_of(["dask frame", str(self.collection._name), list(columns)])

    def _lengths(self) -> Sequence[int]:
        # One column is enough, and of Parquet files only that one is read.
        first = self.collection[[self.names[0]]]
        return _computed([delayed(len)(part) for part in first.to_delayed()])

    def _source(self, part: object) -> Source:
        return _table(part, self.names, self.format)

    def applied(self, data: Matrix, column: str = FEATURES) -> Any:
        """``data`` as a Dask DataFrame with the same index, still lazy."""
        names, meta = list(data.feature_names), self.collection._meta
        empty = type(meta)(np.empty((0, len(names)), data.dtype), columns=names, index=meta.index)
        payload = delayed(_identity)(pack((data.transforms, self.format, self.names, names)))
        return self.collection.map_partitions(_apply_frame, payload, meta=empty)


class Loaded(StandIn):
    """Partitions in a worker's memory, in the place of the collection that they are of."""

    def __init__(self, whole: Partitions, fragments: Sequence[Fragment], sources: Sequence[Source]) -> None:
        super().__init__(whole)
        self._fragments = fragments
        self._sources = {f.file: source for f, source in zip(fragments, sources, strict=True)}

    @property
    def fragments(self) -> Sequence[Fragment]:
        return self._fragments

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        rows = Fragment(0, 0, 0, fragment.rows, fragment.rows)
        for block in self._sources[fragment.file].blocks(rows, height, workspace, carry=carry):
            yield replace(block, origin=replace(block.origin, path=f"partition {fragment.file}"))
            del block


def _client() -> Any:
    try:
        return get_client()
    except ValueError as error:
        raise ConfigError(
            "expected a Dask client for this collection, found none; start one: "
            "client = distributed.Client(), or give engine=connect('dask', client)"
        ) from error


def _computed(counts: list[Any]) -> list[int]:
    return [int(rows) for rows in dask.compute(*counts)]


def _numeric(dtype: object) -> bool:
    kind = getattr(dtype, "kind", "O")
    return kind in "fiub"


def _table(frame: Any, names: Sequence[str], format: Format) -> TableSource:
    return TableSource(pandas_table(frame[list(names)]), wanted(columns=list(names)), format)


# On the workers.


def _identity(value: object) -> Any:
    return value


def _counts(part: Any) -> tuple[int, int]:
    return int(part.shape[0]), int(part.nnz if scipy.sparse.issparse(part) else part.size)


def _transformed(
    source: Source, rows: int, transforms: Sequence[Transform], width: int, dtype: npt.DTypeLike
) -> tuple[Any, Any]:
    """(features (m, k), numbers of the m rows that are left)."""
    out, kept = np.empty((rows, width), dtype), np.empty(rows, np.int64)
    workspace, at, start = Workspace(), 0, 0
    with one_blas_thread():
        format = source.format
        height = format.max_height if source.sparse else format.block_height(len(source.names))
        for block in source.blocks(Fragment(0, 0, 0, rows, rows), height, workspace, carry=False):
            numbers = pa.record_batch({POSITION: pa.array(np.arange(start, start + block.rows))})
            start += block.rows
            for made in applied(Block(block.X, None, numbers, block.origin, workspace), transforms, format):
                out[at : at + made.rows] = made.dense(dtype)
                kept[at : at + made.rows] = made.carried.column(0).to_numpy() if made.carried is not None else ()
                at += made.rows
    return out[:at], kept[:at]


def _apply_array(part: Any, payload: bytes) -> Any:
    transforms, format = unpack(payload)
    last = transforms[-1]
    return _transformed(ArraySource(part, format=format), part.shape[0], transforms, len(last.names), last.dtype)[0]


def _apply_frame(part: Any, payload: bytes) -> Any:
    transforms, format, columns, names = unpack(payload)
    X, kept = _transformed(_table(part, columns, format), len(part), transforms, len(names), transforms[-1].dtype)
    return type(part)(X, columns=names, index=part.index[kept])


__all__ = ["ArrayParts", "FrameParts", "source_of"]
