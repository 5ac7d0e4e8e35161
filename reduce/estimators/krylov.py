"""Block Krylov spaces (Musco and Musco 2015): Rayleigh-Ritz from one product ``M Q`` per step, M = ``A^T A``.

The basis K = [Q_0, Q_1, ...] is orthonormal and kept whole. Each product is split by block Gram-Schmidt
into ``M Q_j = K C_j + Q_{j+1} B_j``, so that the products need not be kept: with T the square matrix of all C_j
(and B_j below them) ``M K = K T + Q_{j+1} [0 ... 0 B_j]``. Eigenpairs (theta, w) of T give Ritz values theta and
Ritz vectors ``K w`` whose residuals have the norm of ``B_j w_last``: they come with the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from eigenmill.reduce.estimators.panels import inner, rotate, take_out, times
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.rows.blocks import F64


@dataclass(frozen=True)
class Ritz:
    """What a basis of m vectors tells of M.

    Attributes:
        values: (m,) Ritz values in descending order; the j-th is at most the j-th eigenvalue of M.
        weights: (m, m) Ritz vectors in coordinates of the basis.
        coupling: (c, m) what M takes out of the basis, in Ritz coordinates; its columns' norms are the residuals.
    """

    values: F64
    weights: F64
    coupling: F64

    @property
    def residuals(self) -> F64:
        """(m,) norms of ``M v - theta v``."""
        return np.asarray(np.linalg.norm(self.coupling, axis=0))


class Krylov:
    """A growing basis; ``block`` (d, l) is what to multiply next, or has no columns when M leads nowhere new.

    ``start`` (d, l) is orthonormal. ``threads`` never changes a result. The block after the last product is made when
    it is asked for: Ritz pairs and their residuals need none.
    """

    def __init__(self, start: F64, threads: int = 1, format: Format = FORMAT_1) -> None:
        self.basis = [start]
        self.columns: list[F64] = []
        self.coupling = np.zeros((0, 0))
        self.threads, self.format = threads, format
        self._rest: F64 | None = None

    @property
    def size(self) -> int:
        """Vectors in the basis."""
        return sum(part.shape[1] for part in self.basis)

    @property
    def block(self) -> F64:
        self.extend()
        return self.basis[-1]

    def absorb(self, product: F64) -> None:
        """Take ``M block`` (d, l) in. Consumes ``product``."""
        # M is symmetric: all but the last two blocks can hold rounding only, and once is enough for that. With the
        # one before the last, M has coupled it already.
        inside = np.zeros((self.size, product.shape[1]))
        at = self.size - self.basis[-1].shape[1]
        recent = self.basis[-1:]
        inside[at:] = inner(recent, product, self.threads, self.format)
        if len(self.basis) > 1 and len(self.columns[-1]) == self.size:
            before = self.basis[-2].shape[1]
            inside[at - before : at] = self.columns[-1][at:].T
            at, recent = at - before, self.basis[-2:]
        take_out(recent, inside[at:], product, self.threads, self.format)
        self.columns.append(inside)
        self._rest = product
        factor = _cholesky(product, self.threads, self.format)
        if factor is None:
            self.extend()
        else:
            self.coupling = factor

    def extend(self) -> None:
        """Make the next block of what the last product has outside of the basis."""
        product, self._rest = self._rest, None
        if product is None:
            return
        inside = self.columns.pop()
        rest = self._project(product, self.basis)
        inside += rest
        q, turn, r = _factored(product, self.threads, self.format)
        left, sizes, right = np.linalg.svd(r)
        norm = max([float(np.linalg.norm(c, 2)) for c in [*self.columns, inside]])
        self.coupling = sizes[:, None] * right
        kept = sizes > self.format.deflate * norm
        kept[len(product) - self.size :] = False  # rounding alone, once the basis is all there is
        fresh, outside = rotate(q, turn @ left[:, kept], self.threads, self.format), self.coupling[kept]
        # Directions much smaller than what was taken out last carry rounding along the basis: out with it, and counted.
        before = float(np.hypot(np.linalg.norm(rest, 2), sizes.max(initial=0.0)))
        clean = int((sizes[kept] * self.format.faint >= before).sum())
        if clean < fresh.shape[1]:
            small = np.ascontiguousarray(fresh[:, clean:])
            inside += self._project(small, self.basis) @ outside[clean:]
            fresh[:, clean:] = small
            fresh, r = orthonormal(fresh, self.threads, self.format)
            outside = r @ outside
        self.columns.append(np.concatenate([inside, outside]))
        self.basis.append(fresh)

    def restart(self, start: F64) -> None:
        """Another block in place of an empty one, from ``start`` (d, l): all else of M is still unseen."""
        start = np.ascontiguousarray(start[:, : len(start) - self.size])
        self._project(start, self.basis)
        q = orthonormal(start, self.threads, self.format)[0]
        self._project(q, self.basis)
        self.basis[-1] = orthonormal(q, self.threads, self.format)[0]

    def ritz(self) -> Ritz:
        m = sum(c.shape[1] for c in self.columns)
        T, at = np.zeros((self.size, m)), 0
        for c in self.columns:
            T[: len(c), at : at + c.shape[1]] = c
            at += c.shape[1]
        T = T[:m]
        # The driver whose vectors are orthonormal to rounding, of clusters too; the default one loses three digits.
        values, weights = scipy.linalg.eigh((T + T.T) / 2, overwrite_a=True, check_finite=False, driver="evd")
        values, weights = values[::-1], weights[:, ::-1]
        last = weights[m - self.coupling.shape[1] :]
        return Ritz(np.maximum(values, 0.0), weights, self.coupling @ last)

    def vectors(self, weights: F64) -> F64:
        """(d, k) ``K weights`` for ``weights`` (m, k)."""
        full = np.zeros((self.size, weights.shape[1]))
        full[: len(weights)] = weights
        return times(self.basis, full, self.threads, self.format)

    def _project(self, vectors: F64, basis: list[F64]) -> F64:
        """Take the span of ``basis`` out of ``vectors`` (d, l), in place; returns what was inside."""
        coordinates = inner(basis, vectors, self.threads, self.format)
        take_out(basis, coordinates, vectors, self.threads, self.format)
        return coordinates


def orthonormal(vectors: F64, threads: int, format: Format) -> tuple[F64, F64]:
    """(Q (d, l), R (l, l)) with ``vectors = Q R``; R is triangular. Consumes ``vectors``."""
    q, turn, r = _factored(vectors, threads, format)
    return rotate(q, turn, threads, format), r


def _factored(vectors: F64, threads: int, format: Format) -> tuple[F64, F64, F64]:
    """(q (d, l), turn (l, l), R (l, l)): ``q turn`` is orthonormal, and ``vectors = q turn R``. Consumes ``vectors``.

    Cholesky QR done twice is as stable as Householder's while the condition stays below 1e8 (Yamamoto, Nakatsukasa,
    Yanagisawa and Fukaya 2015), and is made of matrix products only.
    """
    first = _cholesky(vectors, threads, format)
    if first is not None:
        q = rotate(vectors, np.asarray(np.linalg.inv(first)), threads, format)
        second = np.linalg.cholesky(inner([q], q, threads, format)).T
        return q, np.asarray(np.linalg.inv(second)), np.asarray(second @ first)
    q, r = np.linalg.qr(vectors)
    return q, np.eye(q.shape[1]), r


def _cholesky(vectors: F64, threads: int, format: Format) -> F64 | None:
    """(l, l) the triangular factor of ``vectors^T vectors``; None if it is too near to singular to tell."""
    try:
        factor = np.asarray(np.linalg.cholesky(inner([vectors], vectors, threads, format)).T)
        sizes = np.linalg.svd(factor, compute_uv=False)
    except np.linalg.LinAlgError:
        return None
    return factor if len(sizes) and sizes[-1] > format.singular * sizes[0] else None


@dataclass(frozen=True)
class Steps:
    """How an iteration went: Ritz pairs, basis, products used, the number of values asked for, and their accuracy."""

    ritz: Ritz
    krylov: Krylov
    products: int
    k: int | None
    reached: float


def iterate(
    multiply: Callable[[F64], F64],
    start: F64,
    first: F64 | None,
    *,
    count: Callable[[F64], int | None],
    least: int,
    tol: float,
    noise: Callable[[float], float],
    products: int,
    refill: Callable[[int], F64],
    threads: int = 1,
    format: Format = FORMAT_1,
) -> Steps:
    """Multiply until the leading Ritz values are accurate, the products are used up, or nothing is left to find.

    Args:
        multiply: ``M Q`` for Q (d, l): one scan.
        start: (d, l) the first block, orthonormal.
        first: (d, l) its product, if a scan has made it already; consumed.
        count: the number of values wanted, given the Ritz values; None when they are too few.
        least: vectors that the basis needs in the end.
        tol: relative accuracy of singular values, by their residual bounds.
        noise: given the largest value, how much of a residual is rounding; values below are not asked for accuracy.
        products: how many are allowed.
        refill: ``refill(i)`` gives random vectors (d, l) for a restart.
        threads: of the dense algebra; results do not depend on it.
        format: on which they do.
    """
    krylov = Krylov(start, threads, format)
    used = 0
    while True:
        krylov.absorb(multiply(krylov.block) if used or first is None else first)
        used += 1
        ritz = krylov.ritz()
        k = count(ritz.values)
        reached = np.inf if k is None else accuracy(ritz.values[:k], ritz.residuals[:k], noise(ritz.values[0]))
        if (k is not None and reached <= tol) or used == products:
            return Steps(ritz, krylov, used, k, reached)
        if not krylov.block.shape[1]:
            if len(ritz.values) >= least:
                return Steps(ritz, krylov, used, k, reached)
            krylov.restart(refill(used))


def residual_bounds(values: F64, residuals: F64, rounding: float) -> F64:
    """(k,) how near to each ``sqrt(value)`` some singular value of A lies.

    An eigenvalue of M lies within r = residual + rounding of the Ritz value theta (Parlett 1998, theorem 4.5.1), so a
    singular value lies between ``sqrt(theta - r)`` and ``sqrt(theta + r)``; the lower side is the wider.
    """
    s, r = np.sqrt(values), residuals + rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        near = r / (s + np.sqrt(np.maximum(values - r, 0.0)))
    return np.asarray(np.where(values > r, near, np.maximum(s, np.sqrt(values + r) - s)))


def accuracy(values: F64, residuals: F64, noise: float) -> float:
    """The largest relative residual bound among the values that stand above the noise."""
    told = values > noise
    bounds = residual_bounds(values, np.maximum(residuals - noise, 0.0), 0.0)
    return float((bounds[told] / np.sqrt(values[told])).max(initial=0.0))
