"""What passes take in: blocks become shifted, cleaned rows, and the moments of every column are kept on the way.

A column's mean is held as ``pivot + offset``: the pivot is near the column's first values and representable in
the data's dtype, so that ``x - pivot`` is (nearly) exact, and the offset is the mean of those differences. Two
states merge by Chan, Golub and LeVeque (1983) on ``d = (pivot_b - pivot_a) + (offset_b - offset_a)``, which loses
no digits however large the mean is beside the standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eigenmill.reduce.errors import DataError
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.rows.blocks import F64, Block, Floats
from eigenmill.reduce.rows.cleaning import ERROR, FILL, Resolved, mend
from eigenmill.reduce.storage.digest import tagged

Entries = tuple[npt.NDArray[np.intp], F64]
"""Columns and a number for each."""
PANEL = 1 << 13
"""Columns whose moments are updated at a time, so that all of them stay in cache."""


@tagged("Pending", "total sums squares")
@dataclass
class Pending:
    """Sums of sparse rows about the pivot that the moments have not taken in yet: few columns change with a block.

    Attributes:
        total: sum of the weights.
        sums, squares: (d,) weighted sums of deviations from the pivot and of their squares.
    """

    total: float
    sums: F64
    squares: F64


@tagged("Moments", "rows total count pivot offset m2 low high missing infinite pending")
@dataclass
class Moments:
    """Moments of the finite values of each column, after clipping and dropping rows, before filling.

    Attributes:
        rows: rows read (rows of weight 0 are not counted).
        total: sum of the weights of the rows kept.
        count: (d,) sum of the weights of the finite values.
        pivot, offset: (d,) the mean is their sum; the pivot is NaN until a column has shown a value.
        m2: (d,) weighted sum of squared deviations from the mean.
        low, high: (d,) extrema of the finite values as read, before clipping.
        missing, infinite: (d,) rows with a null or NaN, and with an infinity, as read.
        pending: sums of sparse rows since the last :meth:`settle`; None for none.
    """

    rows: int
    total: float
    count: F64
    pivot: F64
    offset: F64
    m2: F64
    low: F64
    high: F64
    missing: npt.NDArray[np.int64]
    infinite: npt.NDArray[np.int64]
    pending: Pending | None = None

    @classmethod
    def empty(cls, d: int) -> Moments:
        count, offset, m2 = np.zeros((3, d))
        missing, infinite = np.zeros((2, d), dtype=np.int64)
        low, high = np.full(d, np.inf), np.full(d, -np.inf)
        return cls(0, 0.0, count, np.full(d, np.nan), offset, m2, low, high, missing, infinite)

    @property
    def mean(self) -> F64:
        """(d,) mean of the finite values; NaN where there are none."""
        return np.where(self.count > 0, self.pivot + self.offset, np.nan)

    @property
    def variance(self) -> F64:
        """(d,) population variance (divided by the count); NaN where there are no values."""
        return np.divide(self.m2, self.count, out=np.full_like(self.m2, np.nan), where=self.count > 0)

    def add(self, count: F64, sums: F64, squares: F64) -> None:
        """Add values given by their weighted sums and sums of squares about this state's pivot, each (d,)."""
        # A million columns, taken whole, cost five times as much: every step would go through memory.
        for a in range(0, len(count), PANEL):
            panel = slice(a, a + PANEL)
            n, total = count[panel], sums[panel]
            seen = n > 0
            mean = np.divide(total, n, out=np.zeros_like(total), where=seen)
            delta = np.where(seen, mean - self.offset[panel], 0.0)
            self.combine(n, delta, np.maximum(squares[panel] - total * mean, 0.0), panel)

    def add_later(self, total: float, sums: Entries, squares: Entries) -> None:
        """Add rows of weight ``total`` whose deviations from the pivot are 0 but for some columns, once settled."""
        if self.pending is None:
            self.pending = Pending(0.0, *np.zeros((2, len(self.count))))
        self.pending.total += total
        for target, (at, found) in ((self.pending.sums, sums), (self.pending.squares, squares)):
            target[at] += found

    def settle(self) -> Moments:
        """Take in what was to be added later."""
        pending, self.pending = self.pending, None
        if pending is not None:
            self.add(np.full(len(self.count), pending.total), pending.sums, pending.squares)
        return self

    def combine(self, count: F64, delta: F64, m2: F64, at: slice = slice(None)) -> None:
        """Combine the columns ``at`` with values of this ``count``, distance of means and sum of squares, each (d,)."""
        before = self.count[at]
        both = before + count
        share = np.divide(count, both, out=np.zeros_like(both), where=both > 0)
        self.m2[at] += m2 + before * share * delta**2
        self.offset[at] += share * delta
        self.count[at] = both


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of a's rows followed by b's; ``a`` is updated in place."""
    a.settle()
    b.settle()
    fresh = a.count == 0
    a.pivot[fresh], a.offset[fresh] = b.pivot[fresh], b.offset[fresh]
    delta = np.where(b.count > 0, (b.pivot - a.pivot) + (b.offset - a.offset), 0.0)
    a.combine(b.count, delta, b.m2)
    a.rows += b.rows
    a.total += b.total
    np.minimum(a.low, b.low, out=a.low)
    np.maximum(a.high, b.high, out=a.high)
    a.missing += b.missing
    a.infinite += b.infinite
    return a


@dataclass(frozen=True, slots=True)
class Shifted:
    """A block as the products want it.

    Attributes:
        y: (h, d) cleaned values minus the pivot, in the product's dtype; 0 where a value is missing.
        present: (h, d) bool, or None when nothing is missing after filling.
        weights: (h,) or None.
        counted: whether the second moments of these rows have been added to the moments already.
    """

    y: Floats
    present: npt.NDArray[np.bool_] | None
    weights: F64 | None
    counted: bool


@tagged("Intake", "names dtype policy", later={"format": FORMAT_1})
@dataclass(frozen=True)
class Intake:
    """The way of a raw block into a pass: weigh, count, clip, drop, shift, fill; moments are kept on the way.

    Args:
        names: feature names (d), for error messages.
        dtype: float32 or float64: the precision of shifts and products.
        policy: the cleaning policy per column.
        format: the constants of all passes.
    """

    names: Sequence[str]
    dtype: np.dtype[Any]
    policy: Resolved
    format: Format = FORMAT_1

    def take(self, moments: Moments, block: Block, *, squares: bool) -> Shifted | None:
        """Update ``moments`` in place and return the shifted block, or None when no row is left.

        ``squares=False`` leaves the second moments of a clean block to the caller, who has them as the diagonal
        of its own product and adds them with :meth:`Moments.add`.
        """
        block = weigh(block).gathered(self.dtype)
        if block.rows == 0:
            return None
        low, high = block.extrema()
        bounds = self.policy
        clean = bool(np.isfinite(low).all() and np.isfinite(high).all())
        inside = bounds.covers(low, high)
        if not (clean and inside):
            return self._mend(moments, block)
        np.minimum(moments.low, low, out=moments.low)
        np.maximum(moments.high, high, out=moments.high)
        unseen = np.isnan(moments.pivot)
        if unseen.any():
            rows = self.format.pivot_rows
            moments.pivot[unseen] = pivot_of(block.head(rows), self.dtype, rows)[unseen]
        reach = np.maximum(high - moments.pivot, moments.pivot - low)
        y, w = block.dense(self._product_dtype(reach, block), moments.pivot), block.weights
        moments.rows += block.rows
        total = float(block.rows if w is None else w.sum())
        moments.total += total
        if squares:
            if w is None:
                sums, second = y.sum(axis=0, dtype=np.float64), np.einsum("ij,ij->j", y, y, dtype=np.float64)
            else:
                sums, second = w @ y, np.einsum("i,ij,ij->j", w, y, y, dtype=np.float64)
            moments.add(np.full(len(self.names), total), sums, second)
        return Shifted(y, None, w, squares)

    def _product_dtype(self, reach: F64, block: Block) -> np.dtype[Any]:
        """float64 for a block whose deviations, at most ``reach`` (d,), have squares outside float32's range."""
        most, single = self.format.far_double, self.format.far_single
        far, near = float(reach.max(initial=0.0)), float(reach[reach > 0].min(initial=1.0))
        if far > most or near < 1 / most:
            column = int(np.argmax((reach > most) | ((reach > 0) & (reach < 1 / most))))
            raise DataError(
                f"expected values whose squares float64 can hold, found a deviation of {reach[column]:.3g} in column "
                f"{self.names[column]!r} at or after {block.at(0)}; rescale the column, clip it or leave it out"
            )
        small = self.dtype == np.float32 and (far > single or near < 1 / single)
        return np.dtype(np.float64) if small else self.dtype

    def scratch(self, height: int) -> int:
        """Bytes that mending one block takes beyond the block itself, when the policy may have to."""
        mends = self.policy.clips or bool((self.policy.code != ERROR).any())
        return height * len(self.names) * (2 * self.dtype.itemsize + 4) if mends else 0

    def _mend(self, moments: Moments, block: Block) -> Shifted | None:
        """The slow road: some value is missing, infinite or out of bounds."""
        policy = self.policy
        X = block.dense(self.dtype, name="raw")
        nan, inf = np.isnan(X), np.isinf(X)
        finite = ~(nan | inf)
        moments.rows += block.rows
        moments.missing += nan.sum(axis=0)
        moments.infinite += inf.sum(axis=0)
        np.minimum(moments.low, np.min(X, axis=0, where=finite, initial=np.inf), out=moments.low)
        np.maximum(moments.high, np.max(X, axis=0, where=finite, initial=-np.inf), out=moments.high)
        block, X, bad = mend(block, X, policy, self.names)
        weights = block.weights
        if len(X) == 0:
            return None
        unseen = np.isnan(moments.pivot) & finite_any(X)
        if unseen.any():
            moments.pivot[unseen] = pivot_of(X, self.dtype, self.format.pivot_rows)[unseen]
        pivot = np.nan_to_num(moments.pivot)
        with np.errstate(invalid="ignore"):
            reach = np.abs(X - pivot, where=~bad, out=np.zeros(X.shape)).max(axis=0)
        dtype = self._product_dtype(reach, block)
        y = block.workspace.array("mended", X.shape, dtype)
        np.subtract(X, pivot.astype(dtype), out=y)
        y[bad] = 0
        w = np.ones(len(y)) if weights is None else weights
        count, sums = w @ ~bad, w @ y
        moments.total += float(w.sum())
        moments.add(count, sums, np.einsum("i,ij,ij->j", w, y, y, dtype=np.float64))
        filling = policy.code == FILL
        if filling.any():
            value = (policy.fill - pivot).astype(dtype)
            y[:, filling] = np.where(bad[:, filling], value[filling], y[:, filling])
            bad[:, filling] = False
        return Shifted(y, ~bad if bad.any() else None, weights, counted=True)


def weigh(block: Block) -> Block:
    """The block without its rows of weight 0; negative, NaN and infinite weights are refused."""
    w = block.weights
    if w is None:
        return block
    wrong = ~((w >= 0) & np.isfinite(w))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"expected finite weights >= 0, found {w[row]} at {block.at(row)}; weights are frequencies")
    return block if w.all() else block.take(w > 0)


def pivot_of(head: Floats, dtype: np.dtype[Any], rows: int) -> F64:
    """A centre for each column near the mean of the first ``rows``, exactly representable in ``dtype``.

    First value plus mean deviation from it: a constant column gets the constant itself, so its variance is 0
    exactly. Columns without a finite value get 0.
    """
    head = head[:rows] if finite_any(head[:rows]).all() else head
    values = head.astype(np.float64, copy=False)
    finite = np.isfinite(values)
    seen = finite.any(axis=0)
    first = np.where(seen, values[np.argmax(finite, axis=0), np.arange(values.shape[1])], 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.where(finite, values - first, 0.0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
        pivot = first + mean
        rounded = pivot.astype(dtype).astype(np.float64)
    return np.where(np.isfinite(rounded), rounded, first)


def finite_any(X: Floats) -> npt.NDArray[np.bool_]:
    """(d,) columns of ``X`` with at least one finite value."""
    return np.asarray(np.isfinite(X).any(axis=0))
