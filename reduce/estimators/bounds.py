"""Upper bounds of eigenvalues from a block Krylov basis. Theorems and proofs: docs/bounds.md.

M = ``A^T A`` is d x d with eigenvalues lambda_1 >= lambda_2 >= ...; theta are the m Ritz values of the basis, which are
at most the eigenvalues of the same index. How far they may lie below is bounded in two ways, and the smaller is taken:

- by the trace, which is exact (no chance involved): all that the basis leaves out is ``left = trace - sum(theta)``, so
  ``lambda_j <= theta_j + left``; and for every mu > left,
  ``lambda_j <= max(mu, lambda_j(diag(theta) + G^T G / (mu - left)))`` with G the coupling of the basis to the rest;
- by the Gaussian start (at failure probability ``chance`` over all values together): gap-free as in Musco and
  Musco (2015) and, where gaps are proven by it, as in Saad (1980), with the constants of Halko, Martinsson and Tropp
  (2011, proposition 10.4) and Davidson and Szarek (2001).
"""

from __future__ import annotations

import numpy as np

from eigenmill.reduce.estimators.krylov import Ritz
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.rows.blocks import F64


def upper_bounds(ritz: Ritz, k: int, trace: float, d: int, width: int, steps: int, format: Format = FORMAT_1) -> F64:
    """(k,) upper bounds of the leading eigenvalues of M.

    Args:
        ritz: of the basis.
        k: how many.
        trace: of M.
        d: rows of M.
        width: Gaussian columns of the start.
        steps: products used; the basis holds all polynomials in M of degree ``steps - 1`` times the start.
        format: the chance, and how many points are tried.
    """
    return np.minimum(by_trace(ritz, k, trace, format), by_start(ritz.values[:k], d, width, steps, format))


def by_trace(ritz: Ritz, k: int, trace: float, format: Format = FORMAT_1) -> F64:
    """(k,) bounds that hold always."""
    theta = ritz.values
    left = max(trace - float(theta.sum()), 0.0)
    found = theta[:k] + left
    above = theta[:k][theta[:k] > 2 * left]
    if not len(above):
        return found
    squares = ritz.coupling.T @ ritz.coupling
    for mu in np.unique(above[np.linspace(0, len(above) - 1, format.trace_points).astype(int)]):
        whole = squares / (mu - left)
        whole.flat[:: len(theta) + 1] += theta
        moved = np.linalg.eigvalsh(whole)[::-1][:k]
        found = np.minimum(found, np.maximum(mu, moved))
    return found


def by_start(theta: F64, d: int, width: int, steps: int, format: Format = FORMAT_1) -> F64:
    """(k,) bounds that hold with probability ``1 - chance``; infinite where the start has too few columns."""
    k, most = len(theta), min(width - format.spare_columns, d - 1)
    found = np.full(k, np.inf)
    if most < 1:
        return found
    known = min(k, most)
    tangent = _tangents(most, d, width, format.chance)
    # Gap-free: lambda_j <= theta_j x (1 + F_j^2 / T^2(2 x - 1)) for every x >= 1.
    x = 1 + np.geomspace(1e-12, 1e3, format.start_points)
    cheb = chebyshev(steps - 1, 2 * x - 1)
    factor = (x * (1 + (tangent[:known, None] / cheb) ** 2)).min(axis=1)
    found[:known] = theta[:known] * factor
    # With a gap below index i: lambda_j <= theta_j (1 + F_i^2 / T^2(2 theta_j / upper_(i+1) - 1)), j <= i.
    for i in range(1, known):
        upper = found[i]
        ahead = theta[:i] > upper
        if upper > 0 and ahead.any():
            cheb = chebyshev(steps - 1, 2 * theta[:i][ahead] / upper - 1)
            gapped = theta[:i][ahead] * (1 + (tangent[i - 1] / cheb) ** 2)
            found[:i][ahead] = np.minimum(found[:i][ahead], gapped)
    return found


def chebyshev(degree: int, x: F64) -> F64:
    """The Chebyshev polynomial of the first kind at x >= 1, at most 1e150."""
    return np.asarray(np.cosh(np.minimum(degree * np.arccosh(np.maximum(x, 1.0)), 345.0)))


def _tangents(most: int, d: int, width: int, any_fails: float) -> F64:
    """(most,) bounds F_i of ``||Omega_2 Omega_1^+||``, Omega_1 the first i rows of a Gaussian start (d, width)."""
    i = np.arange(1, most + 1)
    chance = any_fails / (2 * most)
    spare = width - i
    inverse = np.e * np.sqrt(width) / (spare + 1) * chance ** (-1 / (spare + 1))
    return np.asarray(inverse * (np.sqrt(d - i) + np.sqrt(i) + np.sqrt(2 * np.log(1 / chance))))
