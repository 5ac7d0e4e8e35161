"""Dataset: an immutable, lazy description of a matrix; nothing is read until an engine runs.

A :class:`Source` knows where rows come from (files, an Arrow table, arrays) and cuts them into
:class:`Fragment` s; a :class:`Dataset` adds the cleaning policy and the row-local transforms still to be applied.

The cut is part of every result, so it depends on the files, the number of columns and the source's format only:

- a *fragment* is one row group, or consecutive small row groups of one file up to :meth:`Format.leaf_rows` rows;
- a *leaf* of the merge tree is a run of consecutive fragments, closed as soon as it holds that many rows.
  Files appended later continue an open last leaf, which is why a fit can go on to the byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import scipy.sparse

from eigenmill.reduce.blocks import Block, Origin, Workspace
from eigenmill.reduce.catalog import FileInfo as FileInfo
from eigenmill.reduce.catalog import Files, total_rows
from eigenmill.reduce.catalog import Fragment as Fragment
from eigenmill.reduce.cleaning import Cleaning
from eigenmill.reduce.digest import digest_of
from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.format import FORMAT_1, Format, current
from eigenmill.reduce.transforms import Transform, applied

if TYPE_CHECKING:
    from eigenmill.reduce.manifest import Manifest


class Numbered(Sequence[str]):
    """Feature names ``prefix0 ... prefix{size-1}`` without holding them: vector columns may have a million."""

    __slots__ = ("prefix", "size")

    def __init__(self, prefix: str, count: int) -> None:
        self.prefix, self.size = prefix, count

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(f"{self.prefix}{i}" for i in range(self.size)[index])
        return f"{self.prefix}{range(self.size)[index]}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Numbered):
            return self.prefix == other.prefix and self.size == other.size
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.prefix, self.size))

    def __repr__(self) -> str:
        return f"Numbered({self.prefix!r}, {self.size})"


class Source(Protocol):
    """Where rows come from. Picklable; carries no credentials and no data beyond what the user passed in."""

    @property
    def format(self) -> Format:
        """The constants by which the rows are cut, and all that is computed from them."""

    @property
    def names(self) -> Sequence[str]:
        """Feature names, d of them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 when every feature column is exact in it, else float64."""

    @property
    def fragments(self) -> Sequence[Fragment]: ...

    @property
    def files(self) -> Sequence[FileInfo]:
        """Empty for data in memory."""

    @property
    def carried(self) -> Any:
        """``pyarrow.Schema`` of the carried columns (possibly empty)."""

    @property
    def sparse(self) -> bool:
        """Whether blocks arrive as CSR."""

    @property
    def digest(self) -> str:
        """Identifies the rows and how they are read: the files and the layout, or the content of arrays."""

    @property
    def stored_columns(self) -> int:
        """Columns that a fit decodes."""

    @property
    def root(self) -> str:
        """Directory that the files' paths are relative to; empty for data in memory."""

    @property
    def listed(self) -> bool:
        """Whether the files are all that a directory or pattern holds, as against an explicit list."""

    def only(self, files: Sequence[int]) -> Source:
        """The same source over some of its files, by their numbers."""

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        """The fragment's rows as blocks of ``height`` rows (the last is shorter), in order.

        ``carry=False`` leaves out the carried columns (a fit does not need them).
        """

    def describe(self) -> Mapping[str, Any]:
        """JSON-able keywords with which ``Dataset.from_parquet(path, **keywords)`` reads such input again."""


class ArraySource:
    """Rows of a NumPy array (n, d) or a SciPy CSR array (n, d)."""

    def __init__(
        self, X: Any, names: Sequence[str] | None = None, weights: Any = None, format: Format | None = None
    ) -> None:
        self.format = format or current()
        X = scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else np.asarray(X)
        if X.ndim != 2:
            raise SchemaError(f"expected a matrix with 2 dimensions, found {X.ndim}; reshape the input")
        if X.dtype.kind not in "fiub":
            raise SchemaError(
                f"expected a numeric or boolean matrix, found dtype {X.dtype}; encode it as numbers first"
            )
        self.X = X
        self.names: Sequence[str] = Numbered("x", X.shape[1]) if names is None else tuple(names)
        if len(self.names) != X.shape[1]:
            raise SchemaError(f"expected {X.shape[1]} feature names, found {len(self.names)}")
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        if self.weights is not None and self.weights.shape != (X.shape[0],):
            raise SchemaError(f"expected weights of shape ({X.shape[0]},), found {self.weights.shape}")
        self.files: tuple[FileInfo, ...] = ()
        self.root, self.listed, self.stored_columns = "", False, X.shape[1]
        self.values = int(X.nnz) if scipy.sparse.issparse(X) else X.size
        step, n = self.format.leaf_rows(X.shape[1]), X.shape[0]
        self.fragments = tuple(
            Fragment(i, 0, a, min(a + step, n), min(a + step, n) - a) for i, a in enumerate(range(0, n, step))
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return feature_dtype([self.X.dtype])

    @property
    def carried(self) -> Any:
        import pyarrow as pa

        return pa.schema([])

    @property
    def sparse(self) -> bool:
        return bool(scipy.sparse.issparse(self.X))

    @property
    def digest(self) -> str:
        X = self.X
        content = [X.indptr, X.indices, X.data, list(X.shape)] if scipy.sparse.issparse(X) else X
        return digest_of([content, self.weights, list(self.names)])

    def only(self, files: Sequence[int]) -> Source:
        return self

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        for a in range(fragment.start, fragment.stop, height):
            b = min(a + height, fragment.stop)
            weights = None if self.weights is None else self.weights[a:b]
            yield Block(self.X[a:b], weights, None, Origin(row=a), workspace)

    def describe(self) -> Mapping[str, Any]:
        return {}


def feature_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """float32 when every dtype is exact in it (float16, float32, bool, integers of up to 16 bits), else float64."""
    small = all(
        t.kind == "b" or (t.kind == "f" and t.itemsize <= 4) or (t.kind in "iu" and t.itemsize <= 2) for t in dtypes
    )
    return np.dtype(np.float32 if small and dtypes else np.float64)


def _engine(engine: Any) -> Any:
    # The one look upwards, made when a user asks for rows and names no engine.
    from eigenmill.reduce.engines import connect

    return connect("local") if engine is None else engine


@dataclass(frozen=True)
class Dataset:
    """A matrix of n rows and d features, described and not yet read.

    Attributes:
        source: where rows come from.
        cleaning: the policy for missing values and outliers that the next estimator applies and learns.
        transforms: row-local transforms of fitted models, applied in order to every block.
    """

    source: Source
    cleaning: Cleaning = field(default_factory=Cleaning)
    transforms: tuple[Transform, ...] = ()

    @property
    def format(self) -> Format:
        """The constants that decide the bytes of all that is computed from the data; its source is cut by them."""
        return self.source.format

    @property
    def feature_names(self) -> Sequence[str]:
        return self.transforms[-1].names if self.transforms else self.source.names

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.transforms[-1].dtype if self.transforms else self.source.dtype

    @property
    def sparse(self) -> bool:
        """Whether blocks arrive as CSR."""
        return self.source.sparse and all(t.sparse for t in self.transforms)

    @property
    def carried(self) -> Any:
        """Arrow schema of the carried columns: those of the source, without what transforms hide, and what they add."""
        import pyarrow as pa

        fields = list(self.source.carried)
        for step in self.transforms:
            hidden = getattr(step, "hidden", ())
            fields = [*(f for f in fields if f.name not in hidden), *getattr(step, "carried", ())]
        return pa.schema(fields)

    @property
    def n_rows(self) -> int:
        """Rows according to the metadata, before filters and dropped rows."""
        return total_rows(self.source.fragments)

    @property
    def stored(self) -> int:
        """Numbers stored, by the metadata: the entries of sparse rows, else n d."""
        n, d = self.n_rows, self.n_features
        if not self.sparse:
            return n * d
        source: Any = self.source
        if source.files:
            values = source.files.values if isinstance(source.files, Files) else [f.values for f in source.files]
            return min(sum(map(int, values)), n * d)
        return int(getattr(source, "values", n * d))

    @property
    def fragments(self) -> Sequence[Fragment]:
        return self.source.fragments

    def with_cleaning(self, **policy: Any) -> Dataset:
        """The same data under another policy; keywords as of :class:`eigenmill.Cleaning`."""
        return replace(self, cleaning=Cleaning(**policy))

    def then(self, transform: Transform) -> Dataset:
        """The data set after one more row-local transform, with nothing left to clean."""
        if transform.n_features_in != self.n_features:
            raise SchemaError(
                f"expected {transform.n_features_in} features, found {self.n_features}; "
                "give the columns that the model was fitted on"
            )
        return replace(self, transforms=(*self.transforms, transform), cleaning=Cleaning())

    @property
    def digest(self) -> str:
        """Identifies the input: files (path, size, footer digest) or arrays, how they are read, and the transforms."""
        parts = [self.source.digest, list(self.feature_names), [t.digest for t in self.transforms]]
        return digest_of(parts if self.format == FORMAT_1 else [*parts, self.format])

    def blocks(
        self, fragment: Fragment, workspace: Workspace, *, carry: bool = False, height: int | None = None
    ) -> Iterator[Block]:
        """The fragment's blocks with all transforms applied, in row order.

        They have :meth:`Format.block_height` rows by default; sparse rows that come out dense are read ``max_height``
        at a time, and lower blocks are cut where a transform makes them dense at full width.
        """
        if height is None:
            many = self.source.sparse and not self.sparse
            height = self.format.max_height if many else self.format.block_height(len(self.source.names))
        for block in self.source.blocks(fragment, height, workspace, carry=carry):
            yield from applied(block, self.transforms, self.format)
            del block

    def to_numpy(self, engine: Any = None) -> Any:
        """All rows as one array (n, d) in this process: for data that fits, such as reduced features."""
        return _engine(engine).collect(self)

    def to_sparse(self) -> scipy.sparse.csr_array:
        """All rows as one CSR array (n, d) in this process."""
        workspace, height = Workspace(), self.format.max_height
        blocks = [scipy.sparse.csr_array(b.X) for f in self.fragments for b in self.blocks(f, workspace, height=height)]
        empty = scipy.sparse.csr_array((0, self.n_features), dtype=self.dtype)
        return scipy.sparse.csr_array(scipy.sparse.vstack(blocks)) if blocks else empty

    def to_parquet(self, path: Any, *, engine: Any = None, **options: Any) -> Manifest:
        """Write every row as Parquet parts, whole or not at all, going on where an earlier call was stopped.

        Args:
            path: output directory.
            engine: where to run; by default this process.
            options: as of :class:`eigenmill.Sink`: ``layout``, ``dtype``, ``partition_by``, ``overwrite`` ...
        """
        from eigenmill.reduce.sink import Sink

        manifest: Manifest = _engine(engine).write(self, Sink(path, **options))
        return manifest

    def to_spark(self, column: str = "features") -> Any:
        """The rows as a Spark DataFrame, still lazy: the carried columns (all, if none are named) and the features.

        What is not carried never returns to Spark's JVM, so name ``carry`` in :meth:`from_spark` when few columns
        are wanted. A chain of models is one pass over the rows.

        Args:
            column: name of the array column of features.

        Raises:
            ConfigError: the data are not of :meth:`from_spark`, or the DataFrame has a column of that name.
        """
        if not hasattr(self.source, "frame"):
            raise ConfigError(
                "expected data of Dataset.from_spark, found another source; write files with to_parquet, and read "
                "them with Spark"
            )
        source: Any = self.source
        return source.applied(self, column)

    @classmethod
    def from_numpy(
        cls,
        X: Any,
        *,
        feature_names: Sequence[str] | None = None,
        weights: Any = None,
        format: Format | None = None,
        **cleaning: Any,
    ) -> Dataset:
        """A NumPy array or SciPy sparse matrix of shape (n, d); ``weights`` (n,) are frequencies."""
        return cls(ArraySource(X, feature_names, weights, format), Cleaning(**cleaning))

    @classmethod
    def from_parquet(
        cls,
        path: Any,
        *,
        columns: str | Sequence[str] | None = None,
        vector: str | None = None,
        sparse: Sequence[Any] | None = None,
        n_features: int | None = None,
        carry: str | Sequence[str] = (),
        weights: str | None = None,
        filters: Any = None,
        filesystem: Any = None,
        dtype: Any = None,
        format: Format | None = None,
        **cleaning: Any,
    ) -> Dataset:
        """Parquet files. Their footers are read now, and the first rows if a vector's width must be found.

        Args:
            path: a path, URI, directory or glob, or a list of these; directories are read in sorted order.
            columns: scalar feature columns; without any choice all numeric ones, or the only vector column.
            vector: a feature column of lists, fixed-size lists, tensors or Spark ML vectors.
            sparse: two list columns ``(indices, values)``, with ``n_features`` as a third item or keyword.
            n_features: the width d of ``vector`` or ``sparse``.
            carry: columns of any type, hive keys included, that travel to the output.
            weights: a numeric column of row frequencies.
            filters: rows to keep: a pyarrow expression, or tuples ``(column, operator, value)`` in a list (all
                hold) or in a list of lists (all of one list hold). Row groups that cannot match are not read.
            filesystem: a pyarrow or fsspec file system; by default the one of the URI.
            dtype: float32 or float64; by default float32 if every feature is exact in it.
            format: the constants that decide the bytes of results, by default those in use.
            **cleaning: ``missing``, ``clip`` and ``clip_sd``, see :class:`eigenmill.Cleaning`.

        Raises:
            SchemaError: files disagree, columns are missing or of the wrong type, or there are no files.
            DataError: a file cannot be read.
            ConfigError: the arguments contradict each other.
        """
        from eigenmill.reduce import discovery, layouts, parquet

        want = layouts.wanted(columns, vector, sparse, n_features, carry, weights, dtype)
        policy = Cleaning(**cleaning)
        return cls(parquet.plan(discovery.discover(path, filesystem), want, filters, format), policy)

    @classmethod
    def from_pyarrow(
        cls, dataset: Any, *, filters: Any = None, format: Format | None = None, **options: Any
    ) -> Dataset:
        """The files of a pyarrow dataset over Parquet, as deltalake makes it; options as for Parquet."""
        from eigenmill.reduce import discovery, layouts, parquet

        layout, cleaning = _split(options)
        source = parquet.plan(discovery.from_dataset(dataset), layouts.wanted(**layout), filters, format)
        return cls(source, Cleaning(**cleaning))

    @classmethod
    def from_arrow(cls, table: Any, *, format: Format | None = None, **options: Any) -> Dataset:
        """An Arrow table, or what exports one (polars, DuckDB); options as for Parquet."""
        from eigenmill.reduce import layouts, tables

        layout, cleaning = _split(options)
        source = tables.TableSource(tables.as_table(table), layouts.wanted(**layout), format)
        return cls(source, Cleaning(**cleaning))

    @classmethod
    def from_pandas(cls, frame: Any, **options: Any) -> Dataset:
        """A pandas DataFrame without its index; options as for Parquet."""
        from eigenmill.reduce import tables

        return cls.from_arrow(tables.pandas_table(frame), **options)

    @classmethod
    def from_spark(cls, frame: Any, **options: Any) -> Dataset:
        """A Spark DataFrame, classic or Connect, whose rows reach the workers as Arrow batches; options as for Parquet.

        Estimators given one fit on its own cluster. Nothing is read now but the first row of a vector column;
        ``model.transform(frame)`` is a DataFrame again, and so is ``model.transform(Dataset).to_spark()``.
        """
        from eigenmill.reduce.engines.spark_frames import source_of

        layout, cleaning = _split(options)
        return cls(source_of(frame, **layout), Cleaning(**cleaning))


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Layout options and cleaning options."""
    cleaning = {name: value for name, value in options.items() if name in ("missing", "clip", "clip_sd")}
    return {name: value for name, value in options.items() if name not in cleaning}, cleaning


COLLECTIONS = ("dask", "pyspark")
"""Packages whose collections are taken as data: each has an engine of its own."""


def as_dataset(X: Any) -> Dataset:
    """The data set that ``X`` stands for.

    ``X`` is a Dataset, a NumPy array, a SciPy sparse matrix, a pandas DataFrame, an Arrow table or what
    exports one, a pyarrow dataset, or the path of Parquet files (str, Path, or a list of them).

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(X, Dataset):
        return X
    if isinstance(X, np.ndarray) or scipy.sparse.issparse(X):
        return Dataset.from_numpy(X)
    paths = X if isinstance(X, list) else [X]
    if paths and all(isinstance(path, str | os.PathLike) for path in paths):
        return Dataset.from_parquet(X)
    module = type(X).__module__
    if module.startswith("pandas.") and hasattr(X, "columns"):
        return Dataset.from_pandas(X)
    if module.startswith("pyarrow._dataset"):
        return Dataset.from_pyarrow(X)
    if module.partition(".")[0] in COLLECTIONS:
        from eigenmill.reduce.engines.collections import source_of

        return Dataset(source_of(X))
    if hasattr(X, "__arrow_c_stream__"):
        return Dataset.from_arrow(X)
    raise ConfigError(
        "expected a Dataset, array, sparse matrix, DataFrame, Arrow table, pyarrow dataset or path of Parquet "
        f"files, found {type(X).__name__}; convert it to one of these"
    )
