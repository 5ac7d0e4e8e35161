"""Pieces of a block: where its rows are long they are decoded a few at a time, and put together again.

Blocks keep their heights, which decide the bytes of results, but for one rule of the format: a block ends early when
its carried columns have reached ``Format.carried_bytes``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy import sparse

from eigenmill.reduce.errors import DoesNotFitError
from eigenmill.reduce.rows.blocks import F64, Array, Block, Columns, Origin, Values, Workspace
from eigenmill.reduce.sources.origins import FileOrigin

BATCH = 8 << 20
"""Decoded bytes of a piece."""
WHOLE = 16 << 20
"""Decoded bytes up to which a block comes in one piece."""


def piece_rows(height: int, row: float) -> int:
    """Rows that are decoded at a time for blocks of ``height`` rows of so many bytes: a power of two, or all."""
    if height * row <= WHOLE:
        return height
    fit = max(int(BATCH // row), 1)
    return min(height, 1 << (fit.bit_length() - 1))


def check(batch: pa.RecordBatch, columns: Collection[str], most: int, start: Origin) -> None:
    """Refuse rows of which these columns take more than the ``most`` bytes that were planned.

    Raises:
        DoesNotFitError: always when it refuses; it names the column that takes most.
    """
    sizes = {name: batch.column(name).nbytes for name in columns}
    found = sum(sizes.values())
    if found > most + WHOLE:
        name = max(sizes, key=lambda name: sizes[name])
        raise DoesNotFitError(
            f"expected at most {most} bytes in {batch.num_rows} rows, as planned from footers, found {found}, "
            f"{sizes[name]} of them in column {name!r}, at {start.at()}; give no memory=, or write smaller row groups "
            "where rows are long"
        )


class Gathered:
    """Puts pieces together to blocks of ``height`` rows of the source, or fewer when carried columns end them.

    Args:
        height: of a block.
        most: bytes of carried columns with which a block ends.
        workspace: has the buffers for sparse rows, and for dense ones ``by_rows``.
        by_rows: whether dense rows lie one after the other; else columns do.
        values: of sparse rows, in all.
    """

    def __init__(self, height: int, most: int, workspace: Workspace, *, by_rows: bool, values: int = 0) -> None:
        self._height, self._most, self._workspace, self._by_rows = height, most, workspace, by_rows
        self._sparse = SparseRows(workspace, values)
        self._done = 0
        self._clear()

    def take(self, rows: int, piece: Block | None) -> Block | None:
        """A block that so many rows of the source complete, if they do; ``piece`` is what a filter left of them."""
        if piece is not None:
            self.add(self._done, piece)
        self._done += rows
        if self._done < self._height and self.carried_bytes < self._most:
            return None
        return self.whole()

    def _clear(self) -> None:
        self.rows = self.carried_bytes = 0
        self._first: Block | None = None
        self._buffer: Array | None = None
        self._matrices = list[Values]()
        self._weights, self._carried = list[F64](), list[pa.RecordBatch]()
        self._origins = list[tuple[int, int, FileOrigin]]()

    def add(self, before: int, piece: Block) -> None:
        """One more piece, which begins so many rows of the source after the first."""
        if self._first is None:
            self._first = replace(piece, X=None, weights=None, carried=None)
        if self._by_rows and isinstance(piece.X, np.ndarray):
            self._copy(piece.X)
        elif piece.sparse:
            self._sparse.add(piece.X)
        else:
            self._matrices.append(piece.X)
        if piece.weights is not None:
            self._weights.append(piece.weights)
        if piece.carried is not None:
            self._carried.append(piece.carried)
            self.carried_bytes += piece.carried.nbytes
        assert isinstance(piece.origin, FileOrigin)
        self._origins.append((before, piece.rows, piece.origin))
        self.rows += piece.rows

    def _copy(self, X: Array) -> None:
        if self._buffer is None:
            self._buffer = self._workspace.array("joined", (self._height, X.shape[1]), X.dtype)
        if self._buffer.dtype != X.dtype:  # whole numbers until the first gap
            self._buffer = self._buffer.astype(np.promote_types(self._buffer.dtype, X.dtype))
        self._buffer[self.rows : self.rows + len(X)] = X

    def whole(self) -> Block | None:
        """One block of all pieces, if there are any; none are left."""
        self._done = 0
        if self._first is None:
            return None
        first, weights, carried = self._first, None, None
        if self._weights:
            weights = np.concatenate(self._weights)
        if self._buffer is not None:
            X: Values = self._buffer[: self.rows]
        else:
            X = stacked(self._matrices) if self._matrices else self._sparse.whole()
        if self._carried:
            carried = one_batch(self._carried)
        origin = self._origins[0][2].joined(self._origins)
        self._clear()
        return replace(first, X=X, weights=weights, carried=carried, origin=origin)


def one_batch(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """All rows in one batch."""
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def stacked(matrices: Sequence[Values]) -> Values:
    """Dense matrices one below the other, in the form of the first: separate columns, or one array of them."""
    first = matrices[0]
    if len(matrices) == 1:
        return first
    if isinstance(first, Columns):
        columns = [np.concatenate([X.arrays[j] for X in matrices]) for j in range(first.shape[1])]
        return Columns(columns, sum(X.shape[0] for X in matrices))
    return np.concatenate([X.T for X in matrices], axis=1).T


class SparseRows:
    """Sparse rows that are copied one below the other; ``values`` of them are expected in all."""

    def __init__(self, workspace: Workspace, values: int) -> None:
        self._workspace, self._room = workspace, max(values, 1)
        self._clear()

    def _clear(self) -> None:
        self._count, self._width, self._canonical = 0, 0, True
        self._lengths = list[Array]()
        self._data: Array | None = None
        self._indices: Array | None = None

    def add(self, X: Values) -> None:
        """More rows, in CSR."""
        self._width, stop = X.shape[1], self._count + X.nnz
        if self._data is None or self._indices is None or stop > len(self._data):
            self._room = max(self._room, stop if self._data is None else 2 * stop)
            before = self._data, self._indices
            size = np.int32 if max(self._width, self._room) <= np.iinfo(np.int32).max else np.int64
            self._data = self._workspace.array("sparse values", (self._room,), X.dtype)
            self._indices = self._workspace.array("sparse indices", (self._room,), size)
            for new, old in zip((self._data, self._indices), before, strict=True):
                if old is not None:  # the buffers have grown, and are others
                    new[: self._count] = old[: self._count]
        self._data[self._count : stop], self._indices[self._count : stop] = X.data, X.indices
        self._lengths.append(np.diff(X.indptr))
        self._canonical = self._canonical and bool(X.has_canonical_format)
        self._count = stop

    def whole(self) -> Values:
        """All rows, in the buffers of the workspace; none are left."""
        assert self._data is not None
        assert self._indices is not None
        lengths, count, width = np.concatenate(self._lengths), self._count, self._width
        size = np.int32 if max(width, count) <= np.iinfo(np.int32).max else np.int64
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(size)
        indices = self._indices[:count].astype(size, copy=False)
        whole = sparse.csr_array((len(lengths), width), dtype=self._data.dtype)
        # Given to the constructor they would be copied, for they are smaller than what they lie in.
        whole.data, whole.indices, whole.indptr = self._data[:count], indices, indptr
        whole.has_canonical_format = self._canonical
        self._clear()
        return whole
