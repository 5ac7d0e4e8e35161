"""Sparse rows about a pivot, without making them dense.

A column whose mean is larger than its standard deviation has values in at least half of its rows: by Cauchy and
Schwarz ``mean^2 <= P(x != 0) E x^2``. Only such columns get a pivot other than 0, and they are *thick*: taken out of
the CSR block into a small dense one, where the pivot is subtracted before anything is multiplied. The other columns
stay *thin*: their pivot is 0, and centring them afterwards costs at most one bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import _sparsetools

from eigenmill.reduce.passes.intake import Entries, Intake, Moments, weigh
from eigenmill.reduce.rows.blocks import F64, Block, Floats


@dataclass(frozen=True, slots=True)
class Thin:
    """Sparse rows minus the pivot: ``thin`` with its zeros, and dense deviations of the thick columns.

    Attributes:
        thin: (h, d) CSC, the entries of thin columns: those of a column lie together, in the order of the rows.
        at: (t,) the thick columns.
        thick: (h, t) their values minus the pivot.
        weights: (h,) or None.
    """

    thin: sparse.csc_array
    at: npt.NDArray[np.intp]
    thick: Floats
    weights: F64 | None

    @property
    def rows(self) -> int:
        return len(self.thick)

    def times(self, weights: Floats) -> Floats:
        """(h, l) product of the rows with ``weights`` (d, l)."""
        X, width = self.thin, weights.shape[1]
        dtype = np.result_type(X.dtype, weights.dtype)
        z = np.zeros((self.rows, width), dtype)
        # By columns, each row of the weights is fetched once; entries of a row of z are added in the same order.
        _sparsetools.csc_matvecs(
            *X.shape, width, X.indptr, X.indices, X.data.astype(dtype, copy=False),
            np.ascontiguousarray(weights, dtype).ravel(), z.reshape(-1),
        )  # fmt: skip
        return z + self.thick @ weights[self.at] if len(self.at) else z

    def add(self, target: F64, z: Floats) -> None:
        """Add the product of the transposed rows with ``z`` (h, l) to ``target`` (d, l), in place and in float64."""
        X, data = self.thin, self.thin.data.astype(np.float64, copy=False)
        # SciPy's public product makes a new (d, l) array of every block, which for a million columns costs twenty
        # times the product itself; this is the routine behind it. A row of the target stays in cache while all that
        # belongs to it is added, in the order of the rows.
        _sparsetools.csr_matvecs(
            *X.shape[::-1], z.shape[1], X.indptr, X.indices, data,
            np.ascontiguousarray(z, dtype=np.float64).ravel(), target.reshape(-1),
        )  # fmt: skip
        if len(self.at):
            target[self.at] += self.thick.T @ z

    def sums(self, weights: F64, *, squares: bool = False) -> Entries:
        """The columns that are not all 0, and their sums, or those of squares; ``weights`` (h,)."""
        X, data = self.thin, self.thin.data.astype(np.float64)
        if squares:
            data *= data
        seen = np.flatnonzero(X.indptr[1:] != X.indptr[:-1])
        found, starts = np.zeros(len(seen)), np.append(X.indptr[seen], X.indptr[-1:])
        _sparsetools.csr_matvecs(
            len(seen), self.rows, 1, starts, X.indices, data, weights, found
        )  # fmt: skip
        if not len(self.at):
            return seen, found
        power = "i,ij,ij->j" if squares else "i,ij->j"
        thick = np.einsum(power, weights, *[self.thick] * (1 + squares), dtype=np.float64)
        return np.concatenate([seen, self.at]), np.concatenate([found, thick])


def thin_rows(intake: Intake, moments: Moments, block: Block, *, squares: bool) -> Thin | None:
    """The sparse block about ``moments.pivot``; rows and, with ``squares``, moments are counted in place.

    ``None`` stands for a block that has to be taken dense: a gap, an infinity, a bound that zeros exceed, values too
    far for the precision, or too many entries. Nothing is counted then. A block without rows gives a Thin of none.
    """
    X = block.X
    if not block.sparse or X.nnz > intake.format.dense_share * X.shape[0] * X.shape[1]:
        return None
    block = weigh(block)
    X = block.X.astype(intake.dtype, copy=False)
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
    far = intake.format.far(intake.dtype)
    size = np.abs(X.data[X.data != 0])
    if len(size) and (size.max() > far or size.min() < 1 / far):
        return None
    flipped = small_indices(X).tocsc()
    pivot, unseen = moments.pivot, np.isnan(moments.pivot)
    if unseen.any():
        pivot = np.where(unseen, thick_pivot(flipped) if X.shape[0] else 0.0, pivot)
    taken = _split(flipped, pivot, block.weights)
    reach = np.abs(taken.thick).max(axis=0, initial=0.0)
    if ((reach > far) | ((reach > 0) & (reach < 1 / far))).any():
        return None
    if taken.rows:
        moments.pivot[unseen] = pivot[unseen]
    w = np.ones(taken.rows) if block.weights is None else block.weights
    moments.rows += taken.rows
    moments.total += float(w.sum())
    if squares and taken.rows:
        _extrema(moments, flipped)
        moments.add_later(float(w.sum()), taken.sums(w), taken.sums(w, squares=True))
    return taken


def small_indices(X: sparse.csr_array) -> sparse.csr_array:
    """``X`` with indices of 32 bits where they suffice: half of what has to be read."""
    if X.indices.dtype == np.int32 or max(*X.shape, X.nnz) > np.iinfo(np.int32).max:
        return X
    small = sparse.csr_array((X.data, X.indices.astype(np.int32), X.indptr.astype(np.int32)), shape=X.shape)
    small.has_canonical_format = True
    return small


def thick_pivot(X: sparse.csc_array) -> F64:
    """(d,) the mean of a column's entries where at least half of the rows have one, else 0; exact if constant."""
    h, d = X.shape
    found, count = np.zeros(d), np.diff(X.indptr)
    often = 2 * count >= h
    if often.any():
        kept, first = np.repeat(often, count), np.zeros(d)
        columns, data = np.repeat(np.arange(d), np.where(often, count, 0)), X.data[kept].astype(np.float64)
        first[often] = X.data[X.indptr[:-1][often]]
        mean = first + np.bincount(columns, data - first[columns], minlength=d) / np.maximum(count, 1)
        rounded = mean.astype(X.dtype).astype(np.float64)
        found[often] = np.where(np.isfinite(rounded), rounded, first)[often]
    return found


def known_pivot(mean: F64, variance: F64, dtype: npt.DTypeLike) -> F64:
    """(d,) the pivot of columns whose moments are known: their mean if they are thick, else 0."""
    rounded: F64 = mean.astype(dtype).astype(np.float64)
    return np.where(np.isfinite(rounded) & (mean**2 > variance), rounded, 0.0)


def _split(X: sparse.csc_array, pivot: F64, weights: F64 | None) -> Thin:
    h, d = X.shape
    at = np.flatnonzero(pivot)
    thick = np.zeros((h, len(at)), dtype=X.dtype)
    if len(at):
        starts, count = X.indptr[at], X.indptr[at + 1] - X.indptr[at]
        owner = np.repeat(np.arange(len(at)), count)
        # Where the entries of thick columns are: those of one lie together.
        taken = (starts - np.cumsum(count) + count)[owner] + np.arange(len(owner))
        thick[X.indices[taken], owner] = X.data[taken]
        thick -= pivot[at].astype(X.dtype)
        fewer = np.zeros_like(X.indptr)
        fewer[at + 1] = count
        indptr = X.indptr - np.cumsum(fewer, dtype=fewer.dtype)
        X = sparse.csc_array((np.delete(X.data, taken), np.delete(X.indices, taken), indptr), shape=(h, d))
    return Thin(X, at, thick, weights)


def _extrema(moments: Moments, X: sparse.csc_array) -> None:
    """Smallest and largest values, the zeros that are not stored among them."""
    count = np.diff(X.indptr)
    seen, full = np.flatnonzero(count), np.flatnonzero(count == X.shape[0])
    for found, extreme in ((moments.low, np.minimum), (moments.high, np.maximum)):
        kept = found[full]
        extreme(found, 0.0, out=found)
        found[full] = kept
        if len(seen):
            found[seen] = extreme(found[seen], extreme.reduceat(X.data, X.indptr[seen]))
