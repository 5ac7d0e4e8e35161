"""Sparse rows about a pivot, without making them dense.

A column whose mean is larger than its standard deviation has values in at least half of its rows: by Cauchy and
Schwarz ``mean^2 <= P(x != 0) E x^2``. Only such columns get a pivot other than 0, and they are *thick*: taken out of
the CSR block into a small dense one, where the pivot is subtracted before anything is multiplied. The other columns
stay *thin*: their pivot is 0, and centring them afterwards costs at most one bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import _sparsetools

from reduce.blocks import F64, Block, Floats
from reduce.passes.moments import FAR, Intake, Moments, weigh
from reduce.transforms import DENSE_SHARE


@dataclass(frozen=True, slots=True)
class Thin:
    """Sparse rows minus the pivot: ``thin`` with its zeros, and dense deviations of the thick columns.

    Attributes:
        thin: (h, d) CSR, the entries of thin columns.
        at: (t,) the thick columns.
        thick: (h, t) their values minus the pivot.
        weights: (h,) or None.
    """

    thin: sparse.csr_array
    at: npt.NDArray[np.intp]
    thick: Floats
    weights: F64 | None

    @property
    def rows(self) -> int:
        return len(self.thick)

    def times(self, weights: Floats) -> Floats:
        """(h, l) product of the rows with ``weights`` (d, l)."""
        z = np.asarray(self.thin @ weights)
        return z + self.thick @ weights[self.at] if len(self.at) else z

    def add(self, target: F64, z: Floats) -> None:
        """Add the product of the transposed rows with ``z`` (h, l) to ``target`` (d, l), in place and in float64."""
        _add_flipped(self.thin, self.thin.data, z, target)
        if len(self.at):
            target[self.at] += self.thick.T @ z

    def squares(self, weights: F64, d: int) -> F64:
        """(d,) sums of squares about the pivot; ``weights`` (h,)."""
        found = np.zeros((d, 1))
        _add_flipped(self.thin, self.thin.data.astype(np.float64) ** 2, weights[:, None], found)
        found[self.at, 0] = np.einsum("i,ij,ij->j", weights, self.thick, self.thick, dtype=np.float64)
        return found[:, 0]


def _add_flipped(X: sparse.csr_array, data: Floats, z: Floats, target: F64) -> None:
    """``target += X^T z`` for X (h, d) with the entries ``data``."""
    h, d = X.shape
    # By columns, a row of the target stays in cache while all that belongs to it is added, in the order of the rows.
    flipped = sparse.csr_array((data.astype(np.float64, copy=False), X.indices, X.indptr), shape=(h, d)).tocsc()
    # SciPy's public product makes a new (d, l) array of every block, which for a million columns costs twenty times
    # the product itself; this is the routine behind it.
    _sparsetools.csr_matvecs(
        d, h, z.shape[1], flipped.indptr, flipped.indices, flipped.data,
        np.ascontiguousarray(z, dtype=np.float64).ravel(), target.reshape(-1),
    )  # fmt: skip


def thin_rows(intake: Intake, moments: Moments, block: Block, *, squares: bool) -> Thin | None:
    """The sparse block about ``moments.pivot``; rows and, with ``squares``, moments are counted in place.

    ``None`` stands for a block that has to be taken dense: a gap, an infinity, a bound that zeros exceed, values too
    far for the precision, or too many entries. Nothing is counted then. A block without rows gives a Thin of none.
    """
    X = block.X
    if not block.sparse or X.nnz > DENSE_SHARE * X.shape[0] * X.shape[1]:
        return None
    block = weigh(block)
    X, d = block.X.astype(intake.dtype, copy=False), block.n_features
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    policy = intake.policy
    if not np.isfinite(X.data).all():
        return None
    if policy.low is not None and policy.high is not None:
        inside = (X.data >= policy.low[X.indices]) & (X.data <= policy.high[X.indices])
        if not inside.all() or (policy.low > 0).any() or (policy.high < 0).any():
            return None
    far = FAR[np.dtype(intake.dtype)]
    size = np.abs(X.data[X.data != 0])
    if len(size) and (size.max() > far or size.min() < 1 / far):
        return None
    unseen = np.isnan(moments.pivot)
    if X.shape[0] and unseen.any():
        moments.pivot[unseen] = thick_pivot(X)[unseen]
    taken = _split(X, np.nan_to_num(moments.pivot), block.weights)
    w = np.ones(taken.rows) if block.weights is None else block.weights
    moments.rows += taken.rows
    moments.total += float(w.sum())
    if squares and taken.rows:
        _extrema(moments, X)
        sums = np.zeros((d, 1))
        taken.add(sums, w[:, None])
        moments.add(np.full(d, float(w.sum())), sums[:, 0], taken.squares(w, d))
    return taken


def thick_pivot(X: Any) -> F64:
    """(d,) the mean of a column's entries where at least half of the rows have one, else 0; exact if constant."""
    h, d = X.shape
    found = np.zeros(d)
    count = np.bincount(X.indices, minlength=d)
    often = 2 * count >= h
    if often.any():
        kept = often[X.indices]
        columns, data = X.indices[kept], X.data[kept].astype(np.float64)
        first = np.zeros(d)
        first[columns[::-1]] = data[::-1]
        mean = first + np.bincount(columns, data - first[columns], minlength=d) / np.maximum(count, 1)
        rounded = mean.astype(X.dtype).astype(np.float64)
        found[often] = np.where(np.isfinite(rounded), rounded, first)[often]
    return found


def known_pivot(mean: F64, variance: F64, dtype: Any) -> F64:
    """(d,) the pivot of columns whose moments are known: their mean if they are thick, else 0."""
    rounded: F64 = mean.astype(dtype).astype(np.float64)
    return np.where(np.isfinite(rounded) & (mean**2 > variance), rounded, 0.0)


def _split(X: Any, pivot: F64, weights: F64 | None) -> Thin:
    h, d = X.shape
    at = np.flatnonzero(pivot)
    thick = np.zeros((h, len(at)), dtype=X.dtype)
    indices, data, indptr = X.indices, X.data, X.indptr
    if len(at):
        place = np.zeros(d, dtype=np.int32)
        place[at] = np.arange(1, len(at) + 1)
        where = place[indices]
        taken = where > 0
        rows = np.repeat(np.arange(h), np.diff(indptr))
        thick[rows[taken], where[taken] - 1] = data[taken]
        thick -= pivot[at].astype(X.dtype)
        indices, data = indices[~taken], data[~taken]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[~taken], minlength=h))])
    return Thin(sparse.csr_array((data, indices, indptr), shape=(h, d)), at, thick, weights)


def _extrema(moments: Moments, X: Any) -> None:
    """Smallest and largest values, the zeros that are not stored among them."""
    h, d = X.shape
    low, high = np.zeros(d), np.zeros(d)
    full = np.bincount(X.indices, minlength=d) == h
    low[full], high[full] = np.inf, -np.inf
    data = X.data.astype(np.float64)  # of another type than the target, ufunc.at is ten times slower
    np.minimum.at(low, X.indices, data)
    np.maximum.at(high, X.indices, data)
    np.minimum(moments.low, low, out=moments.low)
    np.maximum(moments.high, high, out=moments.high)
