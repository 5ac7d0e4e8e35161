"""Right numbers, against long double, LAPACK and scikit-learn's full SVD: the cases in which the peers go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import make_low_rank_matrix
from sklearn.decomposition import PCA as PeerPCA  # noqa: N811
from sklearn.decomposition import TruncatedSVD as PeerSVD
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler as PeerScaler

from eigenmill.reduce import PCA, Dataset, StandardScaler, TruncatedSVD
from eigenmill.reduce.errors import DataError
from eigenmill.reduce.estimators.spectrum import of_gram, optimal_threshold
from eigenmill.reduce.passes.gram import Gram
from eigenmill.reduce.passes.intake import Moments
from tests.estimators.truth import Long, aligned, centred, jacobi, thin, variances, with_spectrum
from tests.support.formats import other, use

RNG = np.random.default_rng


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves of some dozen rows and blocks of 16, so that merging decides."""
    use(monkeypatch, leaf_bytes=1 << 10, max_height=16)


# Large means


@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("dtype", "ratio", "rtol"), [(np.float32, 1e3, 1e-5), (np.float64, 1e8, 1e-10)])
def test_large_means(solver: str, scale: bool, dtype: Any, ratio: float, rtol: float, small_leaves: None) -> None:
    n = 3000 if solver == "gram" else 300
    X = (RNG(0).normal(size=(n, 8)) @ np.diag(np.linspace(1, 2, 8)) + ratio).astype(dtype)
    A = centred(X)
    if scale:
        A = A / np.sqrt((A**2).mean(axis=0))
    truth = np.linalg.svd(A.astype(np.float64), compute_uv=False) ** 2 / (n - 1)
    found = PCA(8, solver=solver, scale=scale).fit(X)
    np.testing.assert_allclose(found.explained_variance_, truth, rtol=rtol)
    np.testing.assert_allclose(
        found.mean_, X.astype(Long).mean(axis=0).astype(np.float64), rtol=1e-9 if dtype is np.float32 else 1e-16
    )
    # Scores lose no more digits than the data has.
    scores = (A @ found.components_.T.astype(Long)).astype(np.float64)
    np.testing.assert_allclose(found.transform(X), scores, atol=2e-4 if dtype is np.float32 else 1e-7)


@pytest.mark.parametrize("ratio", [0.0, 1e3, 1e6, 1e8, 1e12])
def test_moments_whatever_the_mean(ratio: float, small_leaves: None) -> None:
    X = RNG(1).normal(size=(2000, 3)) + ratio
    A = centred(X)
    scaler = StandardScaler().fit(X)
    np.testing.assert_allclose(scaler.var_, (A**2).mean(axis=0).astype(np.float64), rtol=1e-13)
    np.testing.assert_allclose(scaler.mean_, X.astype(Long).mean(axis=0).astype(np.float64), rtol=1e-15, atol=1e-16)


def test_spark_23126() -> None:
    X = RNG(2).normal([1e5, 2e5], [9e-6, 2e-6], size=(1_000_000, 2))
    found = PCA(2).fit(X)
    truth = (centred(X) ** 2).sum(axis=0).astype(np.float64) / (len(X) - 1)
    np.testing.assert_allclose(truth, [8.105e-11, 3.999e-12], rtol=2e-2)  # the issue's own sample
    np.testing.assert_allclose(found.explained_variance_, truth, rtol=1e-6)
    np.testing.assert_allclose(StandardScaler().fit(X).var_, truth, rtol=2e-6)


@pytest.mark.parametrize("c", [0.0, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("solver", ["gram", "dual"])
def test_faiss_axis_in_float32(c: float, solver: str) -> None:
    found = PCA(1, solver=solver).fit(np.array([[1 + c, c], [c, 1 + c]], dtype=np.float32))
    np.testing.assert_allclose(abs(found.components_), [[0.5**0.5] * 2], rtol=1e-6)
    assert found.components_[0, 0] * found.components_[0, 1] < 0
    np.testing.assert_allclose(found.explained_variance_, [1.0], rtol=1e-6)


def test_float32_means_of_long_columns() -> None:
    # Long enough that a float32 sum of ones would stand still is 2^24; chunks of it do the same.
    X = np.full((1 << 21, 1), 16.1, dtype=np.float32)
    X[::2] += 1
    found = StandardScaler().fit(X)
    np.testing.assert_allclose(found.mean_, X.astype(np.float64).mean(), rtol=1e-7)
    np.testing.assert_allclose(found.var_, X.astype(np.float64).var(), rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-25, 1e-15, 1e15, 1e25])
def test_float32_of_any_size(factor: float) -> None:
    """float32 holds 1e-38 ... 1e38, but squares leave that range at 1e-19 and 1e19."""
    X = RNG(3).normal(size=(300, 3)).astype(np.float32) * np.float32(factor)
    np.testing.assert_allclose(
        PCA(3).fit(X).explained_variance_ / factor**2, variances(X.astype(Long) / Long(factor)), rtol=1e-4
    )
    expected = PeerPCA(3).fit(PeerScaler().fit_transform(X.astype(np.float64))).explained_variance_
    np.testing.assert_allclose(PCA(3, scale=True).fit(X).explained_variance_, expected, rtol=1e-4)


# Singular values


@pytest.mark.parametrize("power", [-900, -520, -480, 480, 520, 900])
def test_float64_of_any_size_or_refused(power: int) -> None:
    X = RNG(17).normal(size=(60, 4)) * [1, 2, 1, 1]
    small = PCA(2).fit(X)
    if abs(power) > 500:
        with pytest.raises(DataError, match=r"squares float64 can hold, found a deviation of .* in column 'x2'"):
            PCA(2).fit(X * [1, 1, 2.0**power, 1])
    else:
        large = PCA(2).fit(X * 2.0**power)
        np.testing.assert_allclose(large.components_, small.components_, atol=1e-13)
        np.testing.assert_allclose(large.singular_values_ * 2.0**-power, small.singular_values_, rtol=1e-13)


def test_singular_values_against_lapack() -> None:
    X = with_spectrum(2000, np.logspace(0, -3, 30), mean=5.0)
    truth = np.linalg.svd(X - X.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(PCA(30).fit(X).singular_values_, truth, rtol=1e-10)
    np.testing.assert_allclose(
        TruncatedSVD(30).fit(X - 5).singular_values_, np.linalg.svd(X - 5, compute_uv=False), rtol=1e-10
    )


@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("Model", [PCA, TruncatedSVD])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("refine", [False, True])
def test_error_bounds_hold(solver: str, Model: Any, dtype: Any, refine: bool, small_leaves: None) -> None:
    X = with_spectrum(200, np.logspace(0, -11, 12), seed=4, mean=0.25).astype(dtype)
    truth = jacobi(centred(X) if Model is PCA else X)
    found = Model(12, solver=solver, refine=refine).fit(X)
    k = found.n_components_
    assert k == 12
    assert np.isfinite(found.error_bounds_).all()
    assert (abs(found.singular_values_ - truth[:k]) <= found.error_bounds_).all()


@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("k", [None, 13, 5])
def test_refine_down_to_1e_12(solver: str, mean: float, k: int | None, small_leaves: None) -> None:
    """Backward stable: absolute errors of some eps sigma_1, so sigma_j = 1e-12 sigma_1 keeps three to four digits.

    The data holds its mean in the same digits, which costs a factor of mean sqrt(n) / sigma_1 more; not even that
    with the pivot, whose subtraction is exact.
    """
    sigma = 10.0 ** -np.arange(13)
    X = with_spectrum(240, sigma, seed=5, mean=mean)
    truth = jacobi(centred(X))
    found = PCA(k, solver=solver, refine=True).fit(X)
    got = found.singular_values_
    if k is not None:
        assert len(got) == k
    else:
        assert len(got) >= 12
    np.testing.assert_allclose(got, truth[: len(got)].astype(np.float64), rtol=1e-13, atol=40 * 2.2e-16)
    np.testing.assert_allclose(found.components_ @ found.components_.T, np.eye(len(got)), atol=1e-14)


def test_without_refine_small_values_err_within_the_bound() -> None:
    X = with_spectrum(500, 10.0 ** -np.arange(10), seed=6)
    found, truth = PCA(10).fit(X), jacobi(centred(X))
    errors = abs(found.singular_values_ - truth)
    assert (errors <= found.error_bounds_).all()
    assert errors[-1] > 1e-3 * truth[-1]  # the reason why refine exists
    assert PCA(None).fit(X).n_components_ < 10


# Peers' cases


def test_sklearn_20589_noise() -> None:
    X = RNG(7).normal(size=(100_000, 20))
    np.testing.assert_allclose(PCA(20).fit(X).explained_variance_, variances(X), rtol=1e-12)


@pytest.mark.parametrize("n_components", [10, None, 5])
@pytest.mark.parametrize("solver", ["gram", "dual"])
def test_sklearn_29534_whitening_stays_finite(n_components: int | None, solver: str) -> None:
    X = make_low_rank_matrix(1000, 10, effective_rank=2, tail_strength=0, random_state=0)
    model = PCA(n_components, whiten=True, solver=solver).fit(X)
    Z = model.transform(X)
    assert np.isfinite(Z).all()
    assert abs(Z).max() < 40
    spread = Z.std(axis=0, ddof=1)
    above = model.explained_variance_ > 1e-10 * model.explained_variance_[0]
    np.testing.assert_allclose(spread[above], 1.0, rtol=1e-4)
    np.testing.assert_allclose(model.inverse_transform(Z), X, atol=1e-6 if n_components != 5 else 1e-2)


def test_whitening_of_exactly_deficient_data() -> None:
    X = RNG(8).normal(size=(200, 3)) @ RNG(9).normal(size=(3, 6))
    Z = PCA(6, whiten=True).fit_transform(X)
    np.testing.assert_allclose(Z.std(axis=0, ddof=1)[:3], 1.0, rtol=1e-12)
    np.testing.assert_array_equal(Z[:, 3:], 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sklearn_17794_constant_columns(dtype: Any, small_leaves: None) -> None:
    X = np.full((9_000, 2), 14.62, dtype=dtype)
    X[:, 1] = RNG(0).normal(size=len(X))
    scaler = StandardScaler().fit(X)
    assert scaler.var_[0] == 0
    assert scaler.scale_[0] == 1
    np.testing.assert_array_equal(scaler.transform(X)[:, 0], 0)
    pca = PCA(2, scale=True).fit(X)
    np.testing.assert_allclose(pca.explained_variance_, [1, 0], rtol=2e-4, atol=1e-30)
    np.testing.assert_array_equal(StandardScaler().fit_transform(X[:1]), 0)


def test_spark_transform_subtracts_the_mean() -> None:
    Z = PCA(1).fit_transform(np.array([[1.0, 1], [1, 2], [4, 4], [5, 4]]))
    sign = -1 if Z[0, 0] > 0 else 1
    np.testing.assert_allclose(sign * Z[:, 0], [-2.441, -1.860, 1.744, 2.558], atol=6e-4)


def test_lost_modes_of_unnormalised_iterations() -> None:
    """dask's compressed SVD loses modes below sigma_1 eps^(1/(2q+1))."""
    sigma = 10.0 ** (-np.arange(1, 31) / 3)
    X = with_spectrum(400, sigma, seed=10)
    found = PCA(30, refine=True).fit(X)
    np.testing.assert_allclose(found.singular_values_, sigma, rtol=1e-5)


# scikit-learn's attributes


@pytest.mark.parametrize("k", [1, 3, 7, 8])
@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("shape", [(60, 8), (6, 8), (8, 8)])
def test_attributes_against_sklearn(k: int, solver: str, shape: tuple[int, int]) -> None:
    k = min(k, *shape)
    X = RNG(11).normal(size=shape) @ np.diag(np.linspace(3, 1, 8)) + 4
    mine, peer = PCA(k, solver=solver).fit(X), PeerPCA(k, svd_solver="full").fit(X)
    for name in ("explained_variance_", "explained_variance_ratio_", "mean_", "noise_variance_"):
        np.testing.assert_allclose(getattr(mine, name), getattr(peer, name), rtol=1e-10, atol=1e-12, err_msg=name)
    rank = min(k, shape[0] - 1)
    np.testing.assert_allclose(mine.singular_values_[:rank], peer.singular_values_[:rank], rtol=1e-10)
    assert (abs(mine.singular_values_ - peer.singular_values_) <= mine.error_bounds_).all()
    np.testing.assert_allclose(aligned(mine.components_, peer.components_)[:rank], mine.components_[:rank], atol=1e-9)
    assert (mine.n_components_, mine.n_samples_, mine.n_features_in_) == (k, *shape)
    np.testing.assert_allclose(
        mine.inverse_transform(mine.transform(X)), peer.inverse_transform(peer.transform(X)), atol=1e-10
    )
    np.testing.assert_allclose(mine.get_covariance(), peer.get_covariance(), atol=1e-10)
    largest = mine.components_[np.arange(k), abs(mine.components_).argmax(axis=1)]
    assert (largest > 0).all()
    if shape[0] > 8:
        np.testing.assert_allclose(mine.get_precision(), peer.get_precision(), rtol=1e-9)
        np.testing.assert_allclose(mine.score_samples(X), peer.score_samples(X), rtol=1e-9)
        assert mine.score(X) == pytest.approx(peer.score(X), rel=1e-10)
        np.testing.assert_allclose(mine.get_precision() @ mine.get_covariance(), np.eye(8), atol=1e-9)


def test_whitened_models_have_the_same_probabilistic_model() -> None:
    X = RNG(12).normal(size=(100, 5)) @ np.diag([5, 3, 1, 0.5, 0.2])
    mine, peer = PCA(3, whiten=True).fit(X), PeerPCA(3, svd_solver="full").fit(X)
    np.testing.assert_allclose(mine.get_covariance(), peer.get_covariance(), rtol=1e-9, atol=1e-12)
    assert mine.score(X) == pytest.approx(peer.score(X), rel=1e-10)
    white = PeerPCA(3, whiten=True, svd_solver="full").fit(X)
    Z = mine.transform(X)
    np.testing.assert_allclose(abs(Z), abs(white.transform(X)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mine.inverse_transform(Z), white.inverse_transform(white.transform(X)), atol=1e-10)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("whiten", [False, True])
def test_scale_is_a_standard_scaler_first(k: int, whiten: bool) -> None:
    X = RNG(13).normal(size=(200, 5)) * [1, 10, 1e3, 1e-3, 7] + [0, 1e3, -5, 2, 0]
    X[:, 4] = 7
    mine = PCA(k, scale=True, whiten=whiten).fit(X)
    peer = make_pipeline(PeerScaler(), PeerPCA(k, whiten=whiten, svd_solver="full")).fit(X)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "noise_variance_"):
        np.testing.assert_allclose(getattr(mine, name), getattr(peer[-1], name), rtol=1e-10, atol=1e-12)
    rank = min(k, 4)
    np.testing.assert_allclose(abs(mine.transform(X))[:, :rank], abs(peer.transform(X))[:, :rank], atol=1e-8)
    if not whiten:
        np.testing.assert_allclose(
            mine.inverse_transform(mine.transform(X)), peer.inverse_transform(peer.transform(X)), atol=1e-8
        )
        if k == 2:
            assert mine.score(X) == pytest.approx(peer.score(X), rel=1e-9)


def test_truncated_svd_against_arpack() -> None:
    X = thin(300, 80, 0.1)
    mine, peer = TruncatedSVD(6).fit(X), PeerSVD(6, algorithm="arpack", random_state=0).fit(X)
    np.testing.assert_allclose(mine.singular_values_, peer.singular_values_, rtol=1e-10)
    np.testing.assert_allclose(aligned(mine.components_, peer.components_), mine.components_, atol=1e-7)
    np.testing.assert_allclose(mine.explained_variance_, peer.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(mine.explained_variance_ratio_, peer.explained_variance_ratio_, rtol=1e-8)
    np.testing.assert_allclose(abs(mine.transform(X)), abs(peer.transform(X)), atol=1e-8)
    assert not mine.mean_.all() or abs(mine.mean_).max() < 1  # the mean is known but not subtracted


@pytest.mark.parametrize("Model", [PCA, TruncatedSVD])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_csr_equals_dense(Model: Any, scale: bool, solver: str, dtype: Any, small_leaves: None) -> None:
    X = sparse.csr_array(thin(120, 9, 0.3, seed=1).astype(dtype))
    a, b = (Model(4, scale=scale, solver=solver).fit(x) for x in (X, X.toarray()))
    assert a.components_.tobytes() == b.components_.tobytes()
    assert a.explained_variance_.tobytes() == b.explained_variance_.tobytes()
    assert a.transform(X).tobytes() == a.transform(X.toarray()).tobytes()


def test_csr_in_every_form(small_leaves: None) -> None:
    """Explicit zeros, unsorted and duplicate entries are one matrix."""
    indptr, indices = [0, 3, 5, 5, 7], [2, 0, 2, 1, 0, 1, 1]
    X = sparse.csr_array((np.array([1.0, 2, 3, 4, 0, 5, -1]), indices, indptr), shape=(4, 3))
    before = X.data.copy(), X.indices.copy()
    dense = np.array([[2.0, 0, 4], [0, 4, 0], [0, 0, 0], [0, 4, 0]])
    for Model in (PCA, TruncatedSVD):
        a, b = Model(2).fit(Dataset.from_numpy(X)), Model(2).fit(dense)
        np.testing.assert_allclose(a.singular_values_, b.singular_values_, rtol=1e-14)
        np.testing.assert_array_equal(a.quality_.high, dense.max(axis=0))
        np.testing.assert_array_equal(a.quality_.low, dense.min(axis=0))
        np.testing.assert_allclose(a.transform(Dataset.from_numpy(X)).to_numpy(), b.transform(dense), atol=1e-14)
    np.testing.assert_array_equal(X.data, before[0])
    np.testing.assert_array_equal(X.indices, before[1])


@pytest.mark.parametrize("Model", [PCA, TruncatedSVD])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30)])
@pytest.mark.parametrize("weighted", [False, True])
def test_dual_equals_gram(Model: Any, scale: bool, shape: tuple[int, int], weighted: bool) -> None:
    X, w = RNG(14).normal(size=shape) + 2, RNG(15).integers(0, 3, shape[0]).astype(float) if weighted else None
    a, b = (Model(8, scale=scale, solver=s).fit(X, sample_weight=w) for s in ("gram", "dual"))
    for name in ("singular_values_", "explained_variance_", "explained_variance_ratio_", "mean_"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(a.components_, b.components_, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_several_panels(dtype: Any) -> None:
    small = other(gram_panel=7, leaf_bytes=1)
    X = (RNG(16).normal(size=(500, 33)) + 3).astype(dtype)
    X[RNG(17).random(X.shape) < 0.05] = np.nan
    filled = np.where(np.isnan(X), np.nanmean(X.astype(float), axis=0), X)
    for Model, A in ((PCA, filled - filled.mean(axis=0)), (TruncatedSVD, filled)):
        found = Model(33).fit(Dataset.from_numpy(X, missing="mean", format=small))
        truth = np.linalg.svd(A, compute_uv=False)
        np.testing.assert_allclose(found.singular_values_, truth, rtol=1e-12 if dtype is np.float64 else 1e-5)


def test_wider_than_one_panel() -> None:
    X = (RNG(18).normal(size=(1200, 700)) @ np.diag(np.linspace(2, 1, 700))).astype(np.float32)
    found = PCA(40).fit(X)
    np.testing.assert_allclose(found.explained_variance_, variances(X)[:40], rtol=1e-5)
    wide = PCA(40, solver="dual").fit(X.T.copy())
    np.testing.assert_allclose(wide.explained_variance_, variances(X.T)[:40], rtol=1e-5)


# The number of components


def test_share_of_the_variance() -> None:
    X = RNG(19).normal(size=(300, 10)) @ np.diag(np.linspace(3, 0.3, 10))
    for share in (0.1, 0.5, 0.77, 0.95, 0.9999):
        mine, peer = PCA(share).fit(X), PeerPCA(share, svd_solver="full").fit(X)
        assert mine.n_components_ == peer.n_components_
        assert mine.explained_variance_ratio_.sum() >= share > mine.explained_variance_ratio_[:-1].sum()
    found = TruncatedSVD(0.9).fit(X)
    squares = np.linalg.svd(X, compute_uv=False) ** 2
    assert found.n_components_ == int((np.cumsum(squares) / squares.sum() < 0.9).sum()) + 1


def test_none_keeps_the_numerical_rank() -> None:
    X = RNG(20).normal(size=(100, 4)) @ RNG(21).normal(size=(4, 9))
    assert PCA().fit(X).n_components_ == 4
    assert PCA().fit(X + 1000).n_components_ == 4
    assert TruncatedSVD(None).fit(X).n_components_ == 4
    assert PCA().fit(X.astype(np.float32)).n_components_ == 4
    assert PCA().fit(RNG(0).normal(size=(6, 20))).n_components_ == 5
    assert PCA(solver="gram").fit(RNG(0).normal(size=(6, 20))).n_components_ == 5
    assert PCA().fit(RNG(0).normal(size=(300, 12))).n_components_ == 12


@pytest.mark.parametrize("seed", range(6))
def test_mle_against_sklearn(seed: int) -> None:
    rng = RNG(seed)
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 12)) * 3 + rng.normal(size=(400, 12)) * rng.uniform(0.1, 2)
    assert PCA("mle").fit(X).n_components_ == PeerPCA("mle", svd_solver="full").fit(X).n_components_


@pytest.mark.parametrize("beta", [0.05, 0.25, 0.5, 0.75, 1.0])
def test_gavish_donoho_coefficients(beta: float) -> None:
    """Table and equation 5 of the paper: omega(1) = 2.858, omega(beta) within 0.02 of the cubic."""
    omega = optimal_threshold(np.array([1.0]), int(10_000 * beta), 10_000)
    assert omega == pytest.approx(0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43, abs=0.02)
    assert omega == optimal_threshold(np.array([1.0]), 10_000, int(10_000 * beta))
    if beta == 1.0:
        assert omega == pytest.approx(2.858, abs=5e-4)


@pytest.mark.parametrize("shape", [(400, 100), (100, 300), (150, 150)])
@pytest.mark.parametrize("rank", [1, 5])
def test_denoise_recovers_a_planted_rank(shape: tuple[int, int], rank: int) -> None:
    rng = RNG(22)
    noise = rng.normal(size=shape) * 0.1
    X = 2 * rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])) + noise + 50
    model = PCA("denoise").fit(X)
    assert model.n_components_ == rank
    clean = X - noise
    assert abs(model.inverse_transform(model.transform(X)) - clean).std() < 0.5 * noise.std()


# Wider input types and going on


def test_narrow_rows_first_do_not_narrow_later_ones() -> None:
    X = RNG(23).normal(1e8, 1, size=(500, 3))
    scaler = StandardScaler().partial_fit(np.full((1, 3), 1e8, np.float32)).partial_fit(X)
    np.testing.assert_allclose(scaler.var_, np.vstack([np.full((1, 3), 1e8), X]).var(axis=0), rtol=1e-6)
    pca = PCA().partial_fit(X[:100].astype(np.float32)).partial_fit(X)
    both = np.vstack([X[:100].astype(np.float32), X])
    np.testing.assert_allclose(pca.explained_variance_, variances(both), rtol=1e-6)


def test_quality_keeps_its_digits_under_a_fill() -> None:
    """A leaf that starts with gaps filled by 0 has 0 as its pivot, which is far from the values to come."""
    X = RNG(24).normal(1e8, 1, size=(20_000, 1))
    X[:8192] = np.nan
    quality = StandardScaler().fit(Dataset.from_numpy(X, missing="zero")).quality_
    np.testing.assert_allclose(quality.variance, np.nanvar(X, axis=0), rtol=1e-6)


def test_one_thread_for_the_dense_algebra() -> None:
    from threadpoolctl import threadpool_limits

    X = RNG(25).normal(size=(800, 400))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append([PCA(k).fit(X).components_.tobytes() for k in (10, None)])
    assert found[0] == found[1]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("Model", [PCA, TruncatedSVD])
def test_weights_and_gaps_together(
    missing: bool, solver: str, refine: bool, scale: bool, Model: Any, small_leaves: None
) -> None:
    rng = RNG(26)
    X, w = rng.normal(2, 1, size=(90, 6)), rng.integers(0, 4, 90)
    if missing:
        X[rng.random(X.shape) < 0.2] = np.nan
    R = np.repeat(X, w, axis=0)
    R = np.where(np.isnan(R), np.nanmean(R, axis=0), R)
    sd = R.std(axis=0) if scale else 1.0
    A = (R - R.mean(axis=0) if Model is PCA else R) / sd
    truth = np.linalg.svd(A, compute_uv=False)
    found = Model(6, solver=solver, refine=refine, scale=scale).fit(Dataset.from_numpy(X, weights=w, missing="mean"))
    np.testing.assert_allclose(found.singular_values_, truth, rtol=1e-11)
    Z = A @ found.components_.T
    np.testing.assert_allclose(found.explained_variance_, Z.var(axis=0, ddof=1 if Model is PCA else 0), rtol=1e-10)
    np.testing.assert_allclose(found.explained_variance_ratio_, Z.var(axis=0) / A.var(axis=0).sum(), rtol=1e-10)


def test_some_eigenvectors_of_clusters_are_orthonormal_to_rounding() -> None:
    """LAPACK's driver for a subset leaves 1.2e-13 here."""
    d, k = 2000, 500
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    A = (Q * np.repeat(2.0 ** -np.arange(d // 10), 10)) @ Q.T
    gram = Gram(Moments.empty(d), 1.0 * d, np.zeros(d), np.zeros(d), (A + A.T) / 2, np.diag(A).copy(), 1, 1)
    spectrum = of_gram(gram, None, np.dtype(np.float64), centred=True, k=k)
    V = spectrum.vectors
    assert V.shape == (d, k)
    assert np.abs(V.T @ V - np.eye(k)).max() < 2e-14
    np.testing.assert_allclose(spectrum.values, np.repeat(2.0 ** -np.arange(d // 10), 10)[:k], rtol=0, atol=1e-13)
