"""Spectra and scales on which peers lose digits: right, or refused with what to do, for PCA and TruncatedSVD."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from eigenmill.reduce import PCA, TruncatedSVD
from eigenmill.reduce.errors import ConfigError
from tests.estimators.truth import centred, variances, with_spectrum

RNG = np.random.default_rng
BOTH = pytest.mark.parametrize("kind", [PCA, TruncatedSVD])
SOLVERS = pytest.mark.parametrize("solver", ["sketch", "auto"])


def truth(kind: Any, X: Any) -> Any:
    """Singular values by LAPACK, of deviations from the long double mean for PCA."""
    return np.linalg.svd(centred(X).astype(np.float64) if kind is PCA else X, compute_uv=False)


@BOTH
@SOLVERS
@pytest.mark.parametrize(
    ("name", "n", "d", "k"), [("decades", 400, 60, 12), ("noise", 100_000, 20, 10), ("rank3", 2_000, 1_000, 10)]
)
def test_awkward_spectra(kind: Any, solver: Any, name: str, n: int, d: int, k: int) -> None:
    """sigma_j = 10^(-j/3), flat noise of 1e5 x 20, and rank 3 in 1,000 columns, of which 10 values are asked."""
    rng = RNG(13)
    X = {
        "decades": lambda: with_spectrum(n, 10.0 ** (-np.arange(d) / 3), seed=14),
        "noise": lambda: rng.normal(size=(n, d)),
        "rank3": lambda: rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)),
    }[name]()
    right = truth(kind, X)
    model = kind(k, solver=solver, tol=1e-6, refine=True).fit(X)
    np.testing.assert_allclose(model.singular_values_, right[:k], atol=1e-12 * right[0])
    assert (np.abs(model.singular_values_ - right[:k]) <= model.error_bounds_ + 1e-14 * right[0]).all()
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(k), atol=1e-13)
    near = np.abs(model.singular_values_[:, None] - right).min(axis=1)
    assert (near <= model.residual_bounds_ + 1e-14 * right[0]).all()


@BOTH
@SOLVERS
def test_without_a_refinement_small_values_are_within_their_bounds(kind: Any, solver: Any) -> None:
    """Below 1.5e-8 of the largest a product of A^T A holds rounding: the bound says so."""
    X = with_spectrum(400, 10.0 ** (-np.arange(60) / 3), seed=14)
    right = truth(kind, X)[:30]
    model = kind(30, solver=solver, tol=1e-6).fit(X)
    error = np.abs(model.singular_values_ - right)
    assert (error <= model.error_bounds_).all()
    told = right > 1e-6 * right[0]
    np.testing.assert_allclose(model.singular_values_[told], right[told], rtol=1e-3)
    assert (model.error_bounds_[-1] > 0.5 * right[-1]).all()


@BOTH
@SOLVERS
def test_scales_that_differ_by_1e12(kind: Any, solver: Any) -> None:
    X = with_spectrum(400, 0.8 ** np.arange(30.0), seed=15, mean=0.01) * 10.0 ** np.linspace(-6, 6, 30)
    A = (X - X.mean(axis=0)) / X.std(axis=0) if kind is PCA else X / X.std(axis=0)
    model = kind(4, solver=solver, scale=True, tol=1e-8).fit(X)
    np.testing.assert_allclose(model.singular_values_, np.linalg.svd(A, compute_uv=False)[:4], rtol=1e-11)
    # Unscaled, what the large columns leave to the small ones is below the rounding of the large ones.
    model = kind(4, solver=solver, tol=1e-8).fit(X)
    np.testing.assert_allclose(model.singular_values_, truth(kind, X)[:4], rtol=1e-11)


@BOTH
@SOLVERS
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_a_mean_of_1e6_standard_deviations(kind: Any, solver: Any, form: Any) -> None:
    rng = RNG(16)
    X = rng.normal(size=(2_000, 30)) * (rng.random((2_000, 30)) < 0.2)
    X[:, 4] = rng.normal(1e6, 1, 2_000)
    X[:, 9] = rng.normal(-3e6, 3, 2_000)
    model = kind(3, solver=solver, tol=1e-9).fit(form(X))
    if kind is PCA:
        # The data themselves carry 1e6 * eps.
        np.testing.assert_allclose(model.explained_variance_, variances(X)[:3], rtol=1e-10)
    else:
        # Beside a value of 1.4e8, the rounding of its square hides the others: their bounds say how far.
        right = truth(kind, X)[:3]
        np.testing.assert_allclose(model.singular_values_[:1], right[:1], rtol=1e-13)
        assert (np.abs(model.singular_values_ - right) <= model.error_bounds_ + 1e-12 * right).all()


@BOTH
@SOLVERS
def test_fewer_rows_than_components(kind: Any, solver: Any) -> None:
    X = RNG(17).normal(size=(5, 100))
    with pytest.raises(ConfigError, match=r"min\(n_samples, n_features\)=5 .*found n_components=8; ask for fewer"):
        kind(8, solver=solver).fit(X)
    model = kind(5, solver=solver, refine=True).fit(X)
    right = truth(kind, X)
    np.testing.assert_allclose(model.singular_values_, right, rtol=1e-10, atol=1e-12 * right[0])
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(5), atol=1e-13)


@BOTH
@pytest.mark.parametrize("options", [{}, {"max_scans": 1, "tol": None}], ids=["iterated", "one scan"])
def test_equal_rows_and_nothing_but_zeros(options: Any, kind: Any) -> None:
    """A rank of one or none: values of 0, vectors that are orthonormal all the same."""
    for X in (np.zeros((50, 30)), np.full((50, 30), 14.62)):
        model = kind(3, solver="sketch", **options).fit(X)
        right = truth(kind, X)
        np.testing.assert_allclose(model.singular_values_, right[:3], atol=1e-7 * max(right[0], 1e-300))
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(3), atol=1e-13)
