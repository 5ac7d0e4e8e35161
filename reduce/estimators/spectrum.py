"""The dense algebra between scans: spectra of Gram matrices, their error bounds, the choice of a rank.

A is the centred (PCA) or plain (truncated SVD) matrix after cleaning and scaling, n x d. Everything here works on
matrices of d x d or n x n and runs on one machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.integrate
import scipy.linalg
import scipy.optimize
from scipy.special import gammaln

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.passes.gram import Gram
from eigenmill.reduce.passes.rows import RowsState, column_panels
from eigenmill.reduce.rows.blocks import F64


@dataclass(frozen=True)
class Spectrum:
    """Leading eigenpairs of ``A^T A``.

    Attributes:
        values: (r,) eigenvalues in descending order, not below 0.
        vectors: (d, r) orthonormal columns.
        total: trace, the sum of all eigenvalues.
        size: min(n, d), the number of singular values.
        bound: bound of the spectral norm of the error in ``A^T A``.
        noise: eigenvalues up to here cannot be told from 0.
        absolute: bound of the absolute error of every singular value, where a QR factorisation gives one.
    """

    values: F64
    vectors: F64
    total: float
    size: int
    bound: float
    noise: float
    absolute: float = np.inf

    @property
    def singular_values(self) -> F64:
        return np.sqrt(self.values)

    @property
    def error_bounds(self) -> F64:
        """(r,) bound of the absolute error of each singular value.

        By Weyl's inequality an eigenvalue moves by at most ``bound``; for singular values that is
        ``|s - sigma| <= min(sqrt(bound), bound / s)``. ``absolute`` is taken where it is the smaller.
        """
        s, root = self.singular_values, float(np.sqrt(self.bound))
        squared = np.divide(self.bound, s, out=np.full_like(s, root), where=s > root)
        return np.minimum(squared, self.absolute)

    @property
    def rank(self) -> int:
        """Numerical rank: eigenvalues that stand above the rounding noise of the product."""
        return int((self.values > self.noise).sum())

    def leading(self, k: int) -> Spectrum:
        return replace(self, values=self.values[:k], vectors=self.vectors[:, :k])


def gamma(terms: int, unit: float) -> float:
    """Higham's ``gamma_m = m u / (1 - m u)`` (2002, lemma 3.1)."""
    product = terms * unit
    return product / (1 - product) if product < 1 else np.inf


def of_gram(
    gram: Gram,
    scale: F64 | None,
    dtype: np.dtype[np.floating],
    *,
    centred: bool,
    k: int | None,
    format: Format = FORMAT_1,
) -> Spectrum:
    """Eigenpairs from the cross product; ``k`` asks for the leading ones only. Consumes ``gram.cross``."""
    cross, d = gram.cross, len(gram.gross)
    gross = gram.gross
    if not centred:
        mean = gram.mean
        cross += np.outer(gram.n * mean, mean)
        gross = gross + gram.n * mean**2
    if scale is not None:
        cross /= scale[:, None]
        cross /= scale
        gross = gross / scale**2
    total = float(np.trace(cross))
    unit = float(np.finfo(dtype).eps) / 2
    size = int(min(max(gram.n, 1), d)) if gram.n == int(gram.n) else d
    subset = None if k is None or format.subset_share * k > d else (d - k, d - 1)
    values, vectors = scipy.linalg.eigh(
        cross,
        lower=True,
        overwrite_a=True,
        check_finite=False,
        subset_by_index=subset,
        driver="evr" if subset else "evd",
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    if subset:
        # Of clusters the driver for some of the pairs has left 1e-13: the nearest orthonormal vectors, by one step of
        # Newton and Schulz (Higham 2008, section 8.3), which squares what is missing.
        vectors = 1.5 * vectors - vectors @ (0.5 * (vectors.T @ vectors))
    # eigh itself is backward stable to about d eps ||A^T A|| (LAPACK Users' Guide, section 4.7).
    own = d * float(np.finfo(np.float64).eps) * max(float(values[0]), 0.0)
    bound = gamma(gram.terms, unit) * float(gross.sum()) + own
    noise = format.noise * np.sqrt(d) * 2 * unit * max(float(values[0]), 0.0)
    noise += format.gross_noise * unit * float(gross.sum() - total) / max(d, 1)
    return Spectrum(np.maximum(values[:size], 0.0), orient(vectors[:, :size], format), total, size, bound, noise)


def of_rows(rows: RowsState, centre: F64, scale: F64 | None, format: Format) -> Spectrum:
    """Eigenpairs by the n x n dual Gram matrix ``A A^T`` over panels of columns; ``centre`` is 0 for a plain SVD."""
    n, d = rows.y.shape
    dual = np.zeros((n, n))
    for columns in column_panels(d, n, format.dual_bytes):
        z = _panel(rows, centre, scale, columns)
        dual += z @ z.T
    total = float(np.trace(dual))
    values, left = scipy.linalg.eigh(dual, overwrite_a=True, check_finite=False, driver="evd")
    values, left = np.maximum(values[::-1], 0.0), left[:, ::-1]
    top = float(values[0])
    eps = float(np.finfo(np.float64).eps)
    bound = (gamma(d + 8, eps / 2) + n * eps) * total
    noise = format.noise * np.sqrt(max(n, d)) * eps * top
    keep = max(int((values[: min(n, d)] > noise).sum()), 1)
    vectors = np.empty((d, keep))
    for columns in column_panels(d, n, format.dual_bytes):
        vectors[columns] = _panel(rows, centre, scale, columns).T @ left[:, :keep]
    # Directions of small singular values lose orthogonality; QR restores it and keeps the leading spans.
    vectors, _ = np.linalg.qr(vectors)
    size = min(n, d)
    return Spectrum(values[:size], orient(_completed(vectors, size), format), total, size, bound, noise)


def of_rows_refined(rows: RowsState, centre: F64, scale: F64 | None, format: Format) -> Spectrum:
    """As :func:`of_rows`, to full precision, by a QR factorisation of ``A^T``: no product squares what is small."""
    n, d = rows.y.shape
    flipped = np.empty((n, d)).T
    for columns in column_panels(d, n, format.dual_bytes):
        flipped[columns] = _panel(rows, centre, scale, columns).T
    total = float(np.linalg.norm(flipped)) ** 2
    q, r = scipy.linalg.qr(flipped, mode="economic", overwrite_a=True, check_finite=False)
    size = min(n, d)
    return refined(Spectrum(np.zeros(size), q, total, size, bound=np.inf, noise=0.0), r.T, 1, d, format)


def _panel(rows: RowsState, centre: F64, scale: F64 | None, columns: slice) -> F64:
    """Some columns of A, dense: centred, scaled, rows weighted by the root of their frequency."""
    shift = np.nan_to_num(rows.pivot[columns]) - centre[columns]
    z = rows.y[:, columns] + shift
    if rows.present is not None:
        # A gap is filled by the mean: it deviates from it by 0, and is the mean itself without centring.
        gap = ~rows.present[:, columns]
        z[gap] = np.broadcast_to(rows.moments.mean[columns] - centre[columns], z.shape)[gap]
    if scale is not None:
        z /= scale[columns]
    z *= np.sqrt(rows.weights)[:, None]
    return np.asarray(z)


def _completed(vectors: F64, size: int) -> F64:
    """Orthonormal columns extended to ``size`` by coordinate directions least covered so far."""
    d, have = vectors.shape
    if have >= size:
        return vectors[:, :size]
    free = np.argsort(np.einsum("ij,ij->i", vectors, vectors), kind="stable")[: size - have]
    extra = np.zeros((d, size - have))
    extra[free, np.arange(size - have)] = 1.0
    full, r = np.linalg.qr(np.concatenate([vectors, extra], axis=1))
    return np.asarray(full * np.where(np.diag(r) < 0, -1.0, 1.0))


def refined(spectrum: Spectrum, r: F64, stages: int, height: int, format: Format) -> Spectrum:
    """The spectrum on the span of its vectors from the R factor of ``A Q``, to full precision.

    A singular value then errs by at most ``(sqrt(l) gamma_d + stages l gamma_m) ||A||_F``: the product's rounding, and
    that of ``stages`` Householder factorisations of m = height + l rows on the way of a row to R (Higham 2002,
    theorem 19.4).
    """
    _, s, right = np.linalg.svd(r, full_matrices=False)
    d, width = spectrum.vectors.shape
    eps = float(np.finfo(np.float64).eps)
    top = float(s[0]) if len(s) else 0.0
    error = (np.sqrt(width) * gamma(d + 4, eps / 2) + stages * width * gamma(height + width, eps / 2)) * np.sqrt(
        spectrum.total
    )
    return replace(
        spectrum,
        values=s**2,
        vectors=orient(spectrum.vectors @ right.T, format),
        noise=(format.noise * np.sqrt(d) * eps * top) ** 2,
        absolute=float(error),
    )


def orient(vectors: F64, format: Format) -> F64:
    """Signs made deterministic: the entry of largest magnitude in each column is positive.

    Of entries within the format's ``tie`` of the largest the first decides, so that rounding cannot flip a tie.
    """
    magnitude = np.abs(vectors)
    near = magnitude >= magnitude.max(axis=0, initial=0.0) * (1 - format.tie)
    first = vectors[np.argmax(near, axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(first < 0, -1.0, 1.0)


def rank_for_share(ratios: F64, share: float) -> int:
    """The smallest k whose leading ``ratios`` sum to at least ``share``."""
    return min(int(np.searchsorted(np.cumsum(ratios), share, side="left")) + 1, len(ratios))


def optimal_threshold(values: F64, rows: int, columns: int) -> float:
    """Gavish and Donoho (2014), equation 6: ``omega(beta)`` times the median singular value.

    ``omega(beta) = lambda(beta) / sqrt(mu_beta)`` with mu_beta the median of the Marchenko-Pastur law, computed by
    quadrature rather than by the paper's cubic approximation. ``values`` are all min(rows, columns) singular values.
    """
    beta = min(rows, columns) / max(rows, columns)
    best = np.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + np.sqrt(beta**2 + 14 * beta + 1)))
    low, high = (1 - np.sqrt(beta)) ** 2, (1 + np.sqrt(beta)) ** 2

    def below(x: float) -> float:
        # With t = low + (high - low) sin^2(u) the square-root ends of the density become smooth.
        end = np.arcsin(np.sqrt((x - low) / (high - low)))
        span = high - low

        def density(u: float) -> float:
            t = low + span * np.sin(u) ** 2
            return float(span**2 * np.sin(2 * u) ** 2 / (4 * np.pi * beta * t)) if t > 0 else 0.0

        return float(scipy.integrate.quad(density, 0.0, end, epsabs=1e-12)[0])

    median = scipy.optimize.brentq(lambda x: below(x) - 0.5, low, high, xtol=1e-12)
    return float(best / np.sqrt(median) * np.median(values))


def minka_rank(values: F64, n: float) -> int:
    """The dimension of largest evidence (Minka 2000, equation 30); ``values`` (d,) are covariance eigenvalues."""
    d = len(values)
    values = np.maximum(values, np.finfo(np.float64).tiny)
    logs = np.log(values)
    ranks = np.arange(1, d)
    evidence = np.full(d, -np.inf)
    for k in ranks:
        noise = max(float(values[k:].sum()) / (d - k), np.finfo(np.float64).eps * float(values[0]))
        if values[k - 1] <= np.finfo(np.float64).eps * values[0]:
            break
        i = np.arange(1, k + 1)
        prior = -k * np.log(2.0) + float((gammaln((d - i + 1) / 2) - np.log(np.pi) * (d - i + 1) / 2).sum())
        free = d * k - k * (k + 1) / 2
        smoothed = np.where(np.arange(d) < k, values, noise)
        gaps = values[:k, None] - values[None, :]
        inverse = 1 / smoothed[None, :] - 1 / smoothed[:k, None]
        pairs = np.arange(d)[None, :] > np.arange(k)[:, None]
        curvature = float(np.log(np.maximum((inverse * gaps)[pairs], 1e-300)).sum()) + free * np.log(n)
        evidence[k] = (
            prior
            - n / 2 * float(logs[:k].sum())
            - n * (d - k) / 2 * np.log(noise)
            + (free + k) / 2 * np.log(2 * np.pi)
            - curvature / 2
            - k / 2 * np.log(n)
        )
    if d < 2:
        raise ConfigError("n_components='mle' needs at least 2 features")
    return int(np.argmax(evidence))
