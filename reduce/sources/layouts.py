"""Feature layouts: which columns of an Arrow table make the matrix, and how a record batch becomes its rows.

=============== ================================================== ======================================
layout          columns                                            block
=============== ================================================== ======================================
Scalars         d numeric or boolean columns                       :class:`~eigenmill.reduce.rows.blocks.Columns`
Vector          one list, fixed-size-list or tensor column         ``ndarray`` (h, d), row-major
SparkVector     one vector column as Spark ML writes it            ``ndarray``, or CSR if any is sparse
SparsePair      two list columns: indices and values               CSR (h, d)
=============== ================================================== ======================================

A missing row (a null list, vector or pair) is a row of NaN in every layout: explicit entries in CSR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.rows.blocks import Array, Columns, Origin, Values
from eigenmill.reduce.sources.arrow import (
    field_of,
    list_element,
    list_rows,
    missing_rows,
    number_dtype,
    numbers,
    sparse_rows,
    unwrapped,
    wrong_length,
)
from eigenmill.reduce.sources.base import NumberedNames, Source, feature_dtype
from eigenmill.reduce.storage.digest import tagged

SPARK_VECTOR = pa.struct(
    {"type": pa.int8(), "size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())}
)
SPARSE, DENSE = 0, 1
"""Spark's codes in the field ``type``."""


class Layout(Protocol):
    """How columns become a matrix. Small and picklable."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read; they come first in every batch, in this order."""

    @property
    def names(self) -> Sequence[str]:
        """Feature names, d of them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 when every feature is exact in it, else float64; or what the user asked for."""

    @property
    def sparse(self) -> bool:
        """Whether blocks are CSR."""

    def matrix(self, batch: pa.RecordBatch, origin: Origin) -> Values:
        """The batch's rows, (h, d); ``origin`` says in errors where they come from."""

    def describe(self) -> Mapping[str, Any]:
        """JSON-able keywords that choose this layout again."""


class LaidOut(Source):
    """What every source of rows in columns takes from its layout."""

    layout: Layout

    @property
    def names(self) -> Sequence[str]:
        return self.layout.names

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def sparse(self) -> bool:
        return self.layout.sparse

    @property
    def stored_columns(self) -> int:
        return len(self.layout.columns)

    def describe(self) -> Mapping[str, Any]:
        """The layout only: what is carried, weighted and filtered is a matter of one run, not of a model."""
        return self.layout.describe()


@tagged("Scalars", "columns dtype plain")
@dataclass(frozen=True)
class Scalars:
    """One column per feature; ``plain`` when all are of one of Arrow's floating types of 32 or 64 bits."""

    columns: tuple[str, ...]
    dtype: np.dtype[Any]
    plain: bool = False
    sparse = False

    @property
    def names(self) -> Sequence[str]:
        return self.columns

    def matrix(self, batch: pa.RecordBatch, origin: Origin) -> Values:
        d = len(self.columns)
        if self.plain:
            # One copy in C++: a loop over hundreds of columns holds the interpreter's lock as long as it takes.
            features = batch if batch.num_columns == d else batch.select(list(range(d)))
            dense: Array = features.to_tensor(null_to_nan=True, row_major=False).to_numpy()
            return dense
        return Columns([numbers(a) for a in batch.columns[:d]], batch.num_rows)

    def describe(self) -> Mapping[str, Any]:
        return {"columns": list(self.columns)}


@tagged("Vector", "column width dtype")
@dataclass(frozen=True)
class Vector:
    """One column of lists of ``width`` numbers; features are called ``{column}_0 ...``."""

    column: str
    width: int
    dtype: np.dtype[Any]
    sparse = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> Sequence[str]:
        return NumberedNames(f"{self.column}_", self.width)

    def matrix(self, batch: pa.RecordBatch, origin: Origin) -> Values:
        return list_rows(batch.column(0), self.width, self.column, origin)

    def describe(self) -> Mapping[str, Any]:
        return {"vector": self.column, "n_features": self.width}


@tagged("SparkVector", "column width dtype sparse")
@dataclass(frozen=True)
class SparkVector:
    """One column of Spark ML vectors: ``sparse`` unless all of them are dense, which the source finds out."""

    column: str
    width: int
    dtype: np.dtype[Any]
    sparse: bool

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> Sequence[str]:
        return NumberedNames(f"{self.column}_", self.width)

    def matrix(self, batch: pa.RecordBatch, origin: Origin) -> Values:
        kinds, sizes, indices, values = batch.column(0).flatten()
        missing = missing_rows(batch.column(0))
        kind = np.where(missing, -1, kinds.fill_null(-1).to_numpy())
        odd = ~missing & (kind != DENSE) & ((kind != SPARSE) | (not self.sparse))
        if odd.any():
            row = int(np.argmax(odd))
            wanted = "type 0 (sparse) or 1 (dense)" if self.sparse else "type 1 (dense), as the file's statistics say"
            raise DataError(
                f"expected Spark vectors of {wanted} in column {self.column!r}, found type "
                f"{kinds[row].as_py()} in {origin.at(row)}; write the file again with Spark"
            )
        if not self.sparse:
            return list_rows(values, self.width, self.column, origin)
        size = np.where(kind == SPARSE, sizes.fill_null(-1).to_numpy(), self.width)
        if (size != self.width).any():
            row = int(np.argmax(size != self.width))
            raise wrong_length(self.column, self.width, int(size[row]), origin.at(row))
        return sparse_rows(
            indices, values, self.width, self.dtype, f"column {self.column!r}", origin, full=kind == DENSE
        )

    def describe(self) -> Mapping[str, Any]:
        return {"vector": self.column, "n_features": self.width}


@tagged("SparsePair", "indices values width dtype")
@dataclass(frozen=True)
class SparsePair:
    """Two list columns, indices and values; features are called ``{values}_0 ...``."""

    indices: str
    values: str
    width: int
    dtype: np.dtype[Any]
    sparse = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.indices, self.values)

    @property
    def names(self) -> Sequence[str]:
        return NumberedNames(f"{self.values}_", self.width)

    def matrix(self, batch: pa.RecordBatch, origin: Origin) -> Values:
        where = f"columns {self.indices!r} and {self.values!r}"
        return sparse_rows(batch.column(0), batch.column(1), self.width, self.dtype, where, origin)

    def describe(self) -> Mapping[str, Any]:
        return {"sparse": [self.indices, self.values], "n_features": self.width}


@dataclass(frozen=True)
class Wanted:
    """What the user said about the columns: the keywords of ``Dataset.from_parquet``, checked for sense."""

    columns: tuple[str, ...] | None = None
    vector: str | None = None
    sparse: tuple[str, str] | None = None
    n_features: int | None = None
    carry: tuple[str, ...] = ()
    weights: str | None = None
    dtype: np.dtype[Any] | None = None


def wanted(
    columns: str | Sequence[str] | None = None,
    vector: str | None = None,
    sparse: Sequence[Any] | None = None,
    n_features: int | None = None,
    carry: str | Sequence[str] = (),
    weights: str | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Wanted:
    """The keywords in one form; ``sparse`` may be ``(indices, values)`` or ``(indices, values, n_features)``.

    Raises:
        ConfigError: they contradict each other.
    """
    given = [k for k, v in {"columns": columns, "vector": vector, "sparse": sparse}.items() if v is not None]
    if len(given) > 1:
        raise ConfigError(f"expected one of columns, vector and sparse, found {' and '.join(given)}; give one of them")
    columns = (columns,) if isinstance(columns, str) else None if columns is None else tuple(columns)
    carry = (carry,) if isinstance(carry, str) else tuple(carry)
    if columns == () and not carry:
        raise ConfigError(
            "expected at least one column in columns, found none; leave it out to take all numeric columns"
        )
    for option, names in (("columns", columns or ()), ("carry", carry)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"expected every column once in {option}, found {', '.join(map(repr, twice))} repeated")
    if sparse is not None:
        if isinstance(sparse, str) or len(sparse) not in (2, 3):
            raise ConfigError(f"expected sparse=(indices, values) or (indices, values, n_features), found {sparse!r}")
        if len(sparse) == 3:
            if n_features not in (None, sparse[2]):
                raise ConfigError(
                    f"expected one number of features, found sparse={sparse!r} and n_features={n_features}"
                )
            n_features = sparse[2]
        if n_features is None:
            raise ConfigError("expected n_features with sparse: the rows do not say how wide the matrix is")
    if n_features is not None and (isinstance(n_features, bool) or int(n_features) != n_features or n_features < 1):
        raise ConfigError(f"expected n_features >= 1, found {n_features!r}")
    if n_features is not None and columns is not None:
        raise ConfigError("expected n_features with vector or sparse only: columns counts its features itself")
    if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
        raise ConfigError(f"expected dtype float32 or float64, found {dtype!r}")
    pair = None if sparse is None else (str(sparse[0]), str(sparse[1]))
    width = None if n_features is None else int(n_features)
    return Wanted(columns, vector, pair, width, carry, weights, None if dtype is None else np.dtype(dtype))


First = Callable[[str], Iterator[pa.Array]]
"""The first rows of a column, array by array: a look into the data for what the schema does not say."""


def choose(
    schema: pa.Schema, want: Wanted, first: First, path: str, *, unasked: frozenset[str] = frozenset()
) -> Layout:
    """The layout that the keywords ask for, or the obvious one if they leave it open.

    Args:
        schema: of the columns that may be features.
        want: the keywords.
        first: reads the first rows if the width of a vector must be found.
        path: names the input in errors.
        unasked: columns that need no mention, such as those that only a filter uses.

    Raises:
        SchemaError: a column is missing or holds no numbers, or nothing obvious is left.
    """
    if want.sparse is not None:
        return _pair(schema, want, path)
    if want.vector is not None:
        return _vector(field_of(schema, want.vector, "vector", path), want, first, path)
    if want.columns is not None:
        return _scalars([field_of(schema, name, "columns", path) for name in want.columns], want, path)

    taken = {*want.carry, want.weights}
    left = [f for f in schema if f.name not in taken and not f.name.startswith("__index_level_")]  # pandas' index
    scalars = [f for f in left if number_dtype(f.type) is not None]
    others = [f for f in left if number_dtype(f.type) is None and f.name not in unasked]
    if len(others) == 1 and not scalars and _is_vector(others[0].type):
        return _vector(others[0], want, first, path)
    if others:
        found = ", ".join(f"{f.name!r} ({f.type})" for f in others[:10]) + (" ..." if len(others) > 10 else "")
        raise SchemaError(
            f"expected numeric columns only, found {found} in {path}; list what is to travel along in "
            "carry=, or say which columns are the features by columns=, vector= or sparse="
        )
    if not scalars:
        raise SchemaError(f"expected at least one numeric column besides the carried ones, found none in {path}")
    if want.n_features is not None:
        raise SchemaError(f"expected a vector column for n_features={want.n_features}, found scalar columns in {path}")
    return _scalars([field_of(schema, f.name, "columns", path) for f in scalars], want, path)


def _scalars(fields: Sequence[pa.Field], want: Wanted, path: str) -> Scalars:
    dtypes = [_number(field, path) for field in fields]
    kinds = {f.type for f in fields}
    plain = len(kinds) == 1 and kinds <= {pa.float32(), pa.float64()}
    return Scalars(tuple(f.name for f in fields), want.dtype or feature_dtype(dtypes), plain)


def _number(field: pa.Field, path: str) -> np.dtype[Any]:
    dtype = number_dtype(field.type)
    if dtype is None:
        instead = "name it in vector=" if _is_vector(field.type) else "encode it as numbers, or name it in carry="
        raise SchemaError(f"expected numbers in column {field.name!r}, found {field.type} in {path}; {instead}")
    return dtype


def _elements(field: pa.Field, path: str, *, integers: bool = False) -> np.dtype[Any]:
    """The dtype of the numbers in a list column."""
    element = list_element(field.type)
    dtype = None if element is None else number_dtype(element)
    if dtype is None or (integers and dtype.kind not in "iu"):
        kind = "integers" if integers else "numbers"
        raise SchemaError(
            f"expected lists of {kind} in column {field.name!r}, found {field.type} in {path}; "
            "scalar columns go to columns=, one vector column to vector=, index and value lists to sparse="
        )
    return dtype


def _pair(schema: pa.Schema, want: Wanted, path: str) -> SparsePair:
    indices, values = want.sparse or ("", "")
    _elements(field_of(schema, indices, "sparse", path), path, integers=True)
    dtype = _elements(field_of(schema, values, "sparse", path), path)
    return SparsePair(indices, values, want.n_features or 0, want.dtype or feature_dtype([dtype]))


def is_spark_vector(type_: pa.DataType) -> bool:
    if not pa.types.is_struct(type_) or [f.name for f in type_] != [f.name for f in SPARK_VECTOR]:
        return False
    return all(
        f.type == g.type or list_element(f.type) == list_element(g.type) is not None
        for f, g in zip(type_, SPARK_VECTOR, strict=True)
    )


def _is_vector(type_: pa.DataType) -> bool:
    element = list_element(type_)
    return is_spark_vector(type_) or (element is not None and number_dtype(element) is not None)


def _vector(field: pa.Field, want: Wanted, first: First, path: str) -> Vector | SparkVector:
    if is_spark_vector(field.type):
        width = want.n_features or _first_length(field.name, first, _spark_length, path)
        return SparkVector(field.name, width, want.dtype or np.dtype(np.float64), sparse=True)
    dtype = want.dtype or feature_dtype([_elements(field, path)])
    stored = unwrapped(field.type)
    if pa.types.is_fixed_size_list(stored):
        if want.n_features not in (None, stored.list_size):
            raise SchemaError(
                f"expected lists of n_features={want.n_features} numbers in column {field.name!r}, found "
                f"{field.type} in {path}; give the right n_features, or none"
            )
        return Vector(field.name, stored.list_size, dtype)
    return Vector(field.name, want.n_features or _first_length(field.name, first, _list_length, path), dtype)


def _list_length(row: pa.Scalar) -> int:
    return len(row)


def _spark_length(row: pa.Scalar) -> int:
    return int(row["size"].as_py()) if row["type"].as_py() == SPARSE else len(row["values"])


def _first_length(column: str, first: First, length: Callable[[pa.Scalar], int], path: str) -> int:
    """The length of the first row that is not missing."""
    for array in first(column):
        present = np.flatnonzero(~missing_rows(array))
        if len(present):
            width = length(array[int(present[0])])
            if width == 0:
                break
            return width
    raise SchemaError(
        f"expected lists of numbers in column {column!r} whose length says how many features there are, "
        f"found only missing rows, or an empty first one, in {path}; say n_features="
    )


__all__ = ["First", "Layout", "Scalars", "SparkVector", "SparsePair", "Vector", "Wanted", "choose", "wanted"]
