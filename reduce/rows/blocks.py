"""A Block: a fixed number of rows, as the passes and transforms see them.

A block is made by a source (:mod:`eigenmill.reduce.sources.base`) out of one Arrow record batch, without copying where
Arrow allows it. Its matrix has one of three forms:

- a dense ``ndarray`` of shape (h, d), row-major: list columns, NumPy input;
- :class:`Columns`, d separate arrays of length h: scalar columns, as Parquet decodes them;
- a CSR array of shape (h, d): sparse index/value pairs, Spark's sparse vectors, SciPy input.

What a pass needs first is always the same: the rows minus a shift, dense, in one buffer that BLAS can read.
:meth:`Block.dense` fuses the shift with that copy and writes into a buffer that the thread reuses. The buffer
of a scalar-column block is column-major, because then every column is one contiguous write.
A block, and everything :meth:`Block.dense` returns, is valid until the next block of the same stream is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from eigenmill.reduce.format import Format

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]


class Columns:
    """A matrix of shape (h, d) held as d one-dimensional arrays, each of any numeric or boolean dtype."""

    __slots__ = ("arrays", "shape")

    def __init__(self, arrays: list[Array], rows: int) -> None:
        self.arrays = arrays
        self.shape = (rows, len(arrays))

    def __getitem__(self, rows: slice | npt.NDArray[np.bool_ | np.integer[Any]]) -> Columns:
        arrays = [a[rows] for a in self.arrays]
        return Columns(arrays, len(arrays[0]) if arrays else 0)


NO_COLUMNS = pa.schema([])
"""The schema of rows that carry nothing."""


Values = Any
"""A dense array, :class:`Columns`, or ``scipy.sparse.csr_array``, of shape (h, d)."""


class Workspace:
    """Buffers of one thread, kept from block to block so that no block pays for fresh pages."""

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An uninitialised C-ordered array over the buffer called ``name``, grown when needed."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < size:
            buffer = self._buffers[name] = np.empty(size, dtype=np.uint8)
        return buffer[:size].view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the first row of a block lies, for error messages: ``row`` counts from the start of ``row_group``."""

    path: str = "<memory>"
    row_group: int | None = None
    row: int = 0

    def at(self, offset: int = 0) -> str:
        group = "" if self.row_group is None else f", row group {self.row_group}"
        return f"{self.path}{group}, row {self.row + offset}"


@dataclass(frozen=True, slots=True)
class Block:
    """h rows: the matrix ``X``, optional row weights of shape (h,), and the carried columns.

    Missing values are NaN in every form of ``X`` (integer columns with nulls arrive as floats).
    """

    X: Values
    weights: F64 | None = None
    carried: pa.RecordBatch | None = None
    origin: Origin = field(default_factory=Origin)
    workspace: Workspace = field(default_factory=Workspace, repr=False, compare=False)
    offsets: npt.NDArray[np.intp] | None = field(default=None, repr=False, compare=False)

    def at(self, row: int) -> str:
        """Where row number ``row`` of the block lies in its file, also after rows before it were dropped."""
        return self.origin.at(row if self.offsets is None else int(self.offsets[row]))

    @property
    def rows(self) -> int:
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.X.shape[1])

    @property
    def sparse(self) -> bool:
        return bool(sparse.issparse(self.X))

    def take(self, keep: npt.NDArray[np.bool_]) -> Block:
        """The rows where ``keep`` (h,) is true; weights and carried columns follow."""
        import pyarrow as pa

        return replace(
            self,
            X=self.X[keep],
            weights=None if self.weights is None else self.weights[keep],
            carried=None if self.carried is None else self.carried.filter(pa.array(keep)),
            offsets=(np.arange(self.rows) if self.offsets is None else self.offsets)[keep],
        )

    def with_matrix(self, X: Values) -> Block:
        return replace(self, X=X)

    def dense(self, dtype: npt.DTypeLike, shift: Array | None = None, *, name: str = "dense") -> Floats:
        """``X - shift`` as a dense array of shape (h, d) in the workspace buffer ``name``.

        ``shift`` (d,) should be representable in ``dtype``; the subtraction happens in that precision, which is
        exact for values within a factor of two of the shift (Sterbenz' lemma).
        """
        dtype = np.dtype(dtype)
        X, (h, d) = self.X, self.X.shape
        moved = None if shift is None else np.asarray(shift, dtype=dtype)
        if isinstance(X, Columns):
            out = self.workspace.array(name, (d, h), dtype)
            for row, column, move in zip(out, X.arrays, [None] * d if moved is None else moved, strict=True):
                if move is None:
                    row[...] = column
                else:
                    np.subtract(column, move, out=row, dtype=dtype, casting="unsafe")
            return out.T
        if isinstance(X, np.ndarray) and X.flags.f_contiguous and not X.flags.c_contiguous:
            out = self.workspace.array(name, (d, h), dtype)
            if moved is None:
                out[...] = X.T
            else:
                np.subtract(X.T, moved[:, None], out=out, dtype=dtype, casting="unsafe")
            return out.T
        out = self.workspace.array(name, (h, d), dtype)
        if sparse.issparse(X):
            out[...] = 0
            X.astype(dtype, copy=False).toarray(out=out)
            if moved is not None:
                out -= moved
        elif moved is None:
            out[...] = X
        else:
            np.subtract(X, moved, out=out, dtype=dtype, casting="unsafe")
        return out

    def head(self, rows: int) -> F64:
        """The first ``rows`` rows, dense float64, freshly allocated: what a pivot is chosen from."""
        X = self.X
        if isinstance(X, Columns):
            return np.stack([a[:rows].astype(np.float64) for a in X.arrays], axis=1)
        part = X[:rows]
        return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64).copy()

    def gathered(self, dtype: npt.DTypeLike) -> Block:
        """The block with separate columns copied into one array (h, d), column-major; others as they are."""
        if not isinstance(self.X, Columns) or not self.X.arrays:
            return self
        return self.with_matrix(self.dense(dtype, name="gathered"))

    def extrema(self) -> tuple[F64, F64]:
        """Smallest and largest value per column, each (d,) float64; NaN where the column has a NaN.

        The block must have at least one row.
        """
        X = self.X
        if isinstance(X, Columns):
            raise TypeError("gather the columns of a block first")
        if sparse.issparse(X):
            low = X.min(axis=0).toarray().ravel().astype(np.float64)
            high = X.max(axis=0).toarray().ravel().astype(np.float64)
        else:
            low, high = X.min(axis=0).astype(np.float64), X.max(axis=0).astype(np.float64)
        return low, high


def dense_slices(block: Block, format: Format) -> Iterator[Block]:
    """A sparse block in pieces low enough to be made dense."""
    return slices(block, format.block_height(block.n_features))


def slices(block: Block, height: int) -> Iterator[Block]:
    """A block in pieces of ``height`` rows."""
    for a in range(0, block.rows, height):
        b = min(a + height, block.rows)
        yield replace(
            block,
            X=block.X[a:b],
            weights=None if block.weights is None else block.weights[a:b],
            carried=None if block.carried is None else block.carried.slice(a, b - a),
            offsets=(np.arange(block.rows) if block.offsets is None else block.offsets)[a:b],
        )
