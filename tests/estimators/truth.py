"""References computed without eigenmill: long double arithmetic, one-sided Jacobi, LAPACK."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

Long = np.longdouble


def jacobi(A: Any, sweeps: int = 40) -> Any:
    """Singular values of A (n, d), descending, in long double, by one-sided Jacobi (Demmel and Veselic 1992)."""
    A = np.array(A, dtype=Long)
    d = A.shape[1]
    for _ in range(sweeps):
        turned = False
        for p in range(d - 1):
            for q in range(p + 1, d):
                alpha, beta, g = (A[:, p] ** 2).sum(), (A[:, q] ** 2).sum(), (A[:, p] * A[:, q]).sum()
                if abs(g) <= np.finfo(Long).eps * np.sqrt(alpha * beta) or g == 0:
                    continue
                turned = True
                zeta = (beta - alpha) / (2 * g)
                t = (1 if zeta >= 0 else -1) / (abs(zeta) + np.sqrt(1 + zeta**2))
                c = 1 / np.sqrt(1 + t**2)
                A[:, p], A[:, q] = c * (A[:, p] - t * A[:, q]), c * (t * A[:, p] + A[:, q])
        if not turned:
            break
    return np.sort(np.sqrt((A**2).sum(axis=0)))[::-1]


def centred(X: Any) -> Any:
    """X minus its column means, in long double."""
    X = np.asarray(X, dtype=Long)
    return X - X.mean(axis=0)


def variances(X: Any) -> Any:
    """Eigenvalues of the sample covariance, descending: LAPACK on deviations from the long double mean."""
    return np.linalg.svd(centred(X).astype(np.float64), compute_uv=False) ** 2 / (len(X) - 1)


def with_spectrum(n: int, sigma: Any, seed: int = 0, mean: float = 0.0) -> Any:
    """(n, d) float64 with about these singular values after centring."""
    rng, d = np.random.default_rng(seed), len(sigma)
    U = rng.normal(size=(n, d))
    U = np.linalg.qr(U - U.mean(axis=0))[0]
    V = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (U * np.asarray(sigma)) @ V.T + mean


def thin(n: int, d: int, density: float, seed: int = 0) -> Any:
    return sparse.random_array((n, d), density=density, rng=np.random.default_rng(seed), format="csr")


def aligned(a: Any, b: Any) -> Any:
    """b (k, d) with the sign of each row that suits a."""
    return b * np.where((a * b).sum(axis=1) < 0, -1.0, 1.0)[:, None]
