"""What one scan tells: the Nystroem approximation, with bounds that hold always."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from eigenmill.reduce import PCA, TruncatedSVD
from eigenmill.reduce.engines.local.engine import LocalEngine
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.estimators.sketch import gaussian
from tests.engines.counting import CountingEngine
from tests.estimators.truth import variances, with_spectrum

RNG = np.random.default_rng
FLAT = 1 / np.sqrt(1 + np.arange(200))


def svd(A: Any) -> Any:
    return np.linalg.svd(A, compute_uv=False)


@pytest.mark.parametrize("name", ["flat", "steep", "rank3", "tiny"])
def test_a_single_scan_and_its_bounds_hold_over_seeds(name: str) -> None:
    rng = RNG(30)
    A = {
        "flat": lambda: with_spectrum(260, FLAT, seed=31),
        "steep": lambda: with_spectrum(260, 0.7 ** np.arange(200.0), seed=31),
        "rank3": lambda: rng.normal(size=(300, 3)) @ rng.normal(size=(3, 200)),
        "tiny": lambda: 1e-20 * with_spectrum(260, 0.5 ** np.arange(200.0), seed=31),
    }[name]()
    truth = svd(A)
    for seed in range(30):
        engine = CountingEngine(LocalEngine())
        model = TruncatedSVD(6, solver="sketch", random_state=seed, max_scans=1, tol=None).fit(A, engine=engine)
        assert (engine.scans, model.n_scans_) == (["SketchPass"], 1)
        s = model.singular_values_
        assert (np.abs(s - truth[:6]) <= model.error_bounds_).all(), seed
        assert (np.abs(s[:, None] - truth).min(axis=1) <= model.residual_bounds_).all(), seed
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(6), atol=1e-13)
        if name == "steep":
            np.testing.assert_allclose(s[:3], truth[:3], rtol=1e-2)
            assert (model.error_bounds_[:3] <= 0.3 * s[:3]).all()
        if name == "rank3":
            np.testing.assert_allclose(s, truth[:6], atol=1e-7 * truth[0])


def test_a_single_scan_is_nearer_than_ritz_values_and_warns_of_tol() -> None:
    A = with_spectrum(260, FLAT, seed=32)
    with pytest.warns(ConvergenceWarning, match="after 1 scans"):
        once = TruncatedSVD(6, solver="sketch", max_scans=1).fit(A)
    Q = np.linalg.qr(RNG(0).normal(size=(200, 16)))[0]
    ritz = svd(A @ Q)[:6]
    assert not once.converged_
    assert (once.singular_values_ > 1.2 * ritz).all()
    # The approximation itself, formed plainly, of the solver's own start.
    Q = np.linalg.qr(gaussian(0, "sketch start", 200, 16))[0]
    Z = A.T @ (A @ Q)
    plain = np.sqrt(np.linalg.eigvalsh(Z @ np.linalg.pinv(Q.T @ Z) @ Z.T)[::-1][:6])
    np.testing.assert_allclose(once.singular_values_, plain, rtol=1e-10)


def test_a_single_scan_of_pca_centres_and_takes_gaps_only_where_they_need_no_scan() -> None:
    X = with_spectrum(400, 0.6 ** np.arange(60.0), seed=33, mean=5.0)
    model = PCA(3, solver="sketch", max_scans=1, tol=None).fit(X)
    np.testing.assert_allclose(model.explained_variance_, variances(X)[:3], rtol=1e-3)
    with pytest.raises(ConfigError, match="max_scans above 1"):
        PCA(3, solver="sketch", max_scans=1).fit(sp.csr_array(X))


def test_what_the_components_of_a_single_scan_miss_is_at_most_what_the_shares_leave() -> None:
    """N <= M, so that trace(M) - sum of its values bounds the squared Frobenius norm of what is missed."""
    for seed, sigma in enumerate((FLAT, 0.7 ** np.arange(200.0), np.repeat([3.0, 1.0, 0.1, 0.01], 50)) * 5):
        X = with_spectrum(260, sigma, seed=seed)
        model = PCA(6, solver="sketch", max_scans=1, tol=None, random_state=seed).fit(X)
        V = model.components_.T
        missed = np.linalg.norm(X - (X @ V) @ V.T) ** 2 / np.linalg.norm(X) ** 2
        told = 1 - model.explained_variance_ratio_.sum()
        assert missed <= told * (1 + 1e-12)
        assert told <= 1.5 * missed
