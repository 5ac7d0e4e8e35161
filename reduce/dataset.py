"""Dataset: an immutable, lazy description of a matrix; nothing is read until an engine runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from eigenmill.reduce.engines import Engine, connect
from eigenmill.reduce.engines.collections import FEATURES, ROOMS, Collection, package_of, source_of
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.format import Format
from eigenmill.reduce.output.manifest import Manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.rows.blocks import Workspace
from eigenmill.reduce.rows.cleaning import Cleaning
from eigenmill.reduce.sources import discovery, layouts, parquet, tables
from eigenmill.reduce.sources.arrays import ArraySource
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage.places import Location


@dataclass(frozen=True)
class Dataset(Matrix):
    """A matrix of n rows and d features, described and not yet read.

    Attributes:
        source: where rows come from.
        cleaning: the policy for missing values and outliers that the next estimator applies and learns.
        transforms: row-local transforms of fitted models, applied in order to every block.
    """

    def to_numpy(self, engine: Engine | None = None) -> Any:
        """All rows as one array (n, d) in this process: for data that fits, such as reduced features."""
        return _engine(engine).collect(self)

    def to_sparse(self) -> scipy.sparse.csr_array:
        """All rows as one CSR array (n, d) in this process."""
        workspace, height = Workspace(), self.format.max_height
        blocks = [scipy.sparse.csr_array(b.X) for f in self.fragments for b in self.blocks(f, workspace, height=height)]
        empty = scipy.sparse.csr_array((0, self.n_features), dtype=self.dtype)
        return scipy.sparse.csr_array(scipy.sparse.vstack(blocks)) if blocks else empty

    def to_parquet(self, path: Location, *, engine: Engine | None = None, **options: Any) -> Manifest:
        """Write every row as Parquet parts, whole or not at all, going on where an earlier call was stopped.

        Args:
            path: output directory.
            engine: where to run; by default this process.
            options: as of :class:`eigenmill.Sink`: ``layout``, ``dtype``, ``partition_by``, ``overwrite`` ...
        """
        manifest: Manifest = _engine(engine).write(self, Sink(path, **options))
        return manifest

    def to_spark(self, column: str = FEATURES) -> Any:
        """The rows as a Spark DataFrame, still lazy: the carried columns (all, if none are named) and the features.

        What is not carried never returns to Spark's JVM, so name ``carry`` in :meth:`from_spark` when few columns
        are wanted. A chain of models is one pass over the rows.

        Args:
            column: name of the array column of features.

        Raises:
            ConfigError: the data are not of :meth:`from_spark`, or the DataFrame has a column of that name.
        """
        if not isinstance(self.source, Collection) or self.source.home != "spark":
            raise ConfigError(
                "expected data of Dataset.from_spark, found another source; write files with to_parquet, and read "
                "them with Spark"
            )
        return self.source.applied(self, column)

    @classmethod
    def from_numpy(
        cls,
        X: Any,
        *,
        feature_names: Sequence[str] | None = None,
        weights: npt.ArrayLike | None = None,
        format: Format | None = None,
        **cleaning: Any,
    ) -> Dataset:
        """A NumPy array or SciPy sparse matrix of shape (n, d); ``weights`` (n,) are frequencies."""
        return cls(ArraySource(X, feature_names, weights, format), Cleaning(**cleaning))

    @classmethod
    def from_parquet(
        cls,
        path: Location | Sequence[Location],
        *,
        columns: str | Sequence[str] | None = None,
        vector: str | None = None,
        sparse: Sequence[Any] | None = None,
        n_features: int | None = None,
        carry: str | Sequence[str] = (),
        weights: str | None = None,
        filters: Any = None,
        filesystem: Any = None,
        dtype: npt.DTypeLike | None = None,
        verify: parquet.Verify = "hints",
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
            verify: ``"content"`` reads every file now, to know it by its bytes where a later fit or write goes on from
                what was made of it; by default it is known by path, size, footer and time of change.
            format: the constants that decide the bytes of results, by default those in use.
            **cleaning: ``missing``, ``clip`` and ``clip_sd``, see :class:`eigenmill.Cleaning`.

        Raises:
            SchemaError: files disagree, columns are missing or of the wrong type, or there are no files.
            DataError: a file cannot be read.
            ConfigError: the arguments contradict each other.
        """
        want = layouts.wanted(columns, vector, sparse, n_features, carry, weights, dtype)
        policy = Cleaning(**cleaning)
        return cls(parquet.plan(discovery.discover(path, filesystem), want, filters, format, verify), policy)

    @classmethod
    def from_pyarrow(
        cls, dataset: object, *, filters: object = None, format: Format | None = None, **options: object
    ) -> Dataset:
        """The files of a pyarrow dataset over Parquet, as deltalake makes it; options as for Parquet."""
        layout, cleaning = _split(options)
        source = parquet.plan(discovery.from_dataset(dataset), layouts.wanted(**layout), filters, format)
        return cls(source, Cleaning(**cleaning))

    @classmethod
    def from_arrow(cls, table: object, *, format: Format | None = None, **options: object) -> Dataset:
        """An Arrow table, or what exports one (polars, DuckDB); options as for Parquet."""
        layout, cleaning = _split(options)
        source = tables.TableSource(tables.as_table(table), layouts.wanted(**layout), format)
        return cls(source, Cleaning(**cleaning))

    @classmethod
    def from_pandas(cls, frame: Any, **options: Any) -> Dataset:
        """A pandas DataFrame without its index; options as for Parquet."""
        return cls.from_arrow(tables.pandas_table(frame), **options)

    @classmethod
    def from_spark(cls, frame: object, **options: object) -> Dataset:
        """A Spark DataFrame, classic or Connect, whose rows reach the workers as Arrow batches; options as for Parquet.

        Estimators given one fit on its own cluster. Nothing is read now but the first row of a vector column;
        ``model.transform(frame)`` is a DataFrame again, and so is ``model.transform(Dataset).to_spark()``.
        """
        layout, cleaning = _split(options)
        return cls(source_of(frame, "pyspark", **layout), Cleaning(**cleaning))


def _engine(engine: Engine | None) -> Engine:
    return connect("local") if engine is None else engine


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Layout options and cleaning options."""
    cleaning = {name: value for name, value in options.items() if name in ("missing", "clip", "clip_sd")}
    return {name: value for name, value in options.items() if name not in cleaning}, cleaning


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
    if package_of(X) in ROOMS:
        return Dataset(source_of(X, package_of(X)))
    if hasattr(X, "__arrow_c_stream__"):
        return Dataset.from_arrow(X)
    raise ConfigError(
        "expected a Dataset, array, sparse matrix, DataFrame, Arrow table, pyarrow dataset or path of Parquet "
        f"files, found {type(X).__name__}; convert it to one of these"
    )
