"""The iterative solver: right numbers with few scans, bounds that hold, clear refusals, same bytes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from eigenmill.reduce import PCA, Dataset, TruncatedSVD, connect, load
from eigenmill.reduce.engines.local.engine import LocalEngine
from eigenmill.reduce.engines.memory import resident
from eigenmill.reduce.errors import ConfigError, DataError, DoesNotFitError
from eigenmill.reduce.estimators.bounds import by_trace, chebyshev
from eigenmill.reduce.estimators.krylov import Krylov
from eigenmill.reduce.estimators.panels import inner, rotate, take_out
from eigenmill.reduce.estimators.solver import Shape, choose
from eigenmill.reduce.format import FORMAT_1
from eigenmill.reduce.rows.blocks import Workspace
from tests.engines.counting import CountingEngine
from tests.estimators.made_files import sparse_parquet
from tests.estimators.truth import aligned, thin, variances, with_spectrum

RNG = np.random.default_rng
FLAT = 1 / np.sqrt(1 + np.arange(200))


def svd(A: Any) -> Any:
    return np.linalg.svd(A, compute_uv=False)


@pytest.mark.parametrize("form", ["dense", "sparse", "float32"])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("kind", [PCA, TruncatedSVD])
def test_equals_lapack(kind: Any, scale: bool, form: str) -> None:
    X = with_spectrum(500, 10.0 * 0.8 ** np.arange(60), seed=1, mean=3.0)
    if form == "sparse":
        X[np.abs(X - 3) < 0.3] = 0
    given: Any = {"dense": X, "sparse": sp.csr_array(X), "float32": X.astype(np.float32)}[form]
    A = X.astype(given.dtype).astype(np.float64)
    variance = A.var(axis=0)
    A = A - A.mean(axis=0) if kind is PCA else A
    A = A / np.sqrt(np.where(variance > 0, variance, 1.0)) if scale else A
    _, s, Vt = np.linalg.svd(A, full_matrices=False)
    tol, eps = (1e-4, 2e-5) if form == "float32" else (1e-8, 1e-11)
    model = kind(5, solver="sketch", scale=scale, tol=tol).fit(given)
    assert model.solver_ == "sketch"
    assert model.converged_
    np.testing.assert_allclose(model.singular_values_, s[:5], rtol=max(eps, 1e-12))
    np.testing.assert_allclose(model.components_, aligned(model.components_, Vt[:5]), atol=30 * tol)
    exact = kind(5, solver="gram", scale=scale).fit(A * 0 + X.astype(given.dtype))
    np.testing.assert_allclose(model.explained_variance_, exact.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(model.explained_variance_ratio_, exact.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(model.mean_, exact.mean_, rtol=1e-6)
    if kind is PCA:
        np.testing.assert_allclose(model.noise_variance_, exact.noise_variance_, rtol=1e-4)


def test_one_scan_per_product_and_none_twice() -> None:
    X = with_spectrum(400, FLAT, mean=1.0)
    for kind, data, scale, names in (
        (PCA, X, False, ["SketchPass"] * 3),
        (PCA, X, True, ["MomentsPass", "SketchPass", "SketchPass"]),
        (PCA, sp.csr_array(X), False, ["MomentsPass", "SketchPass", "SketchPass"]),
        (TruncatedSVD, sp.csr_array(X), False, ["SketchPass"] * 3),
    ):
        engine = CountingEngine(connect("local"))
        with pytest.warns(ConvergenceWarning, match="found .* after 3 scans; give more max_scans"):
            model = kind(3, solver="sketch", scale=scale, tol=1e-12, max_scans=3).fit(data, engine=engine)
        assert (engine.scans, model.n_scans_, model.converged_) == (names, 3, False)
    engine = CountingEngine(connect("local"))
    model = TruncatedSVD(3, solver="sketch", tol=None, max_scans=4, refine=True).fit(X, engine=engine)
    assert engine.scans == ["SketchPass"] * 3 + ["TsqrPass"]
    assert (model.n_scans_, model.converged_) == (4, True)


def test_dense_sparse_and_spark_forms_agree(tmp_path: Path) -> None:
    import pyarrow as pa

    X = thin(700, 90, 0.05, seed=2).toarray()
    X[3] = 0
    C = sp.csr_array(X)
    # Explicit zeros, duplicates and unsorted indices stand for the same rows.
    odd = sp.csr_array(X)
    rows = [list(zip(odd[[i]].indices, odd[[i]].data, strict=True)) for i in range(700)]
    rows[0] = [
        (7, X[0, 7] - 1.0),
        (2, X[0, 2]),
        (7, 1.0),
        *[(j, X[0, j]) for j in range(89, -1, -1) if j not in (2, 7)],
    ]
    table = pa.table({"i": [[int(j) for j, _ in r] for r in rows], "v": [[float(v) for _, v in r] for r in rows]})
    type_ = pa.struct(
        {"type": pa.int8(), "size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())}
    )
    parts = [C[[i]] for i in range(700)]
    vectors = [{"type": 0, "size": 90, "indices": p.indices.tolist(), "values": p.data.tolist()} for p in parts]
    struct = pa.array(vectors, type_)
    forms: list[Any] = [
        X,
        C,
        sp.csr_array((C.data, C.indices.astype(np.int64), C.indptr.astype(np.int64)), shape=C.shape),
        Dataset.from_arrow(table, sparse=("i", "v", 90)),
        Dataset.from_arrow(pa.table({"f": struct}), vector="f", n_features=90),
        Dataset.from_parquet(sparse_parquet(tmp_path / "x.parquet", X), sparse=("indices", "values", 90)),
    ]
    for kind in (PCA, TruncatedSVD):
        fits = [kind(4, solver="sketch", scale=True, tol=1e-6).fit(form) for form in forms]
        for fit in fits[1:]:
            np.testing.assert_allclose(fit.singular_values_, fits[0].singular_values_, rtol=1e-12)
            np.testing.assert_allclose(fit.components_, fits[0].components_, atol=1e-10)
            np.testing.assert_allclose(fit.mean_, fits[0].mean_, rtol=1e-12, atol=1e-15)
            np.testing.assert_array_equal(fit.quality_.low, fits[0].quality_.low)
            np.testing.assert_array_equal(fit.quality_.high, fits[0].quality_.high)


def test_an_index_out_of_range_names_file_and_row(tmp_path: Path) -> None:
    X = sp.lil_array((100, 60))
    X[:, 3], X[41, 59] = 1.0, 2.0
    path = sparse_parquet(tmp_path / "x.parquet", X)
    with pytest.raises(DataError, match=r"from 0 to 49 .* found 59 in .*x\.parquet, row group 1, row 16;"):
        TruncatedSVD(2, solver="sketch").fit(Dataset.from_parquet(path, sparse=("indices", "values", 50)))


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_a_large_mean_costs_no_digits(form: str) -> None:
    X = thin(2000, 50, 0.1, seed=3).toarray() + 0.0
    X[:, 5] = RNG(4).normal(1e6, 1, 2000)
    X[:, 6] = RNG(5).normal(-3e6, 3, 2000)
    model = PCA(3, solver="sketch", tol=1e-9).fit(sp.csr_array(X) if form == "sparse" else X)
    # The data themselves carry 1e6 * eps.
    np.testing.assert_allclose(model.explained_variance_, variances(X)[:3], rtol=1e-10)


def test_centred_scaled_sparse_rows_are_never_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    from eigenmill.reduce.rows.blocks import Block

    X = thin(3000, 400, 0.01, seed=6)
    truth = X.toarray()
    truth = (truth - truth.mean(axis=0)) / truth.std(axis=0)

    def refused(*args: Any, **options: Any) -> Any:
        raise AssertionError("a sparse block was made dense")

    monkeypatch.setattr(Block, "dense", refused)
    model = PCA(3, solver="sketch", scale=True, max_scans=9, tol=None).fit(X)
    np.testing.assert_allclose(model.singular_values_, svd(truth)[:3], rtol=1e-2)


@pytest.mark.parametrize("kind", [PCA, TruncatedSVD])
def test_sparse_rows_are_projected_as_they_are(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X = thin(3000, 400, 0.01, seed=26)
    X = sp.csr_array(sp.hstack([X, sp.csr_array(RNG(27).normal(1e6, 1.0, size=(3000, 2)))]))
    model = kind(5, solver="sketch").fit(X)
    with monkeypatch.context() as patch:
        patch.setattr("eigenmill.reduce.rows.blocks.Block.dense", lambda *_args, **_options: pytest.fail("made dense"))
        found = next(
            iter(model.transform(Dataset.from_numpy(X)).blocks(Dataset.from_numpy(X).fragments[0], Workspace()))
        )
    wide = X[: found.rows].toarray().astype(np.longdouble)
    offset = model.mean_ if kind is PCA else 0.0
    right = ((wide - offset) @ model.components_.T.astype(np.longdouble)).astype(np.float64)
    # The mean of PCA itself is right to an ulp of 1e6, which every way of multiplying passes on.
    np.testing.assert_allclose(found.X, right, rtol=1e-13, atol=1e-9)


def test_gaps_are_filled_in_sparse_rows() -> None:
    X = thin(500, 30, 0.3, seed=7).toarray()
    X[RNG(8).random(X.shape) < 0.02] = np.nan
    data = Dataset.from_numpy(sp.csr_array(X), missing="mean")
    model = PCA(3, solver="sketch", tol=1e-8).fit(data)
    filled = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    np.testing.assert_allclose(model.explained_variance_, variances(filled)[:3], rtol=1e-10)


def test_weights_are_repeats() -> None:
    X = thin(300, 80, 0.1, seed=9)
    w = RNG(10).integers(0, 4, 300)
    a = PCA(3, solver="sketch", tol=1e-8).fit(X, sample_weight=w.astype(float))
    b = PCA(3, solver="sketch", tol=1e-8).fit(sp.csr_array(np.repeat(X.toarray(), w, axis=0)))
    np.testing.assert_allclose(a.singular_values_, b.singular_values_, rtol=1e-10)
    assert a.n_samples_ == w.sum()


def test_bounds_hold_over_seeds() -> None:
    spectra = {"flat": FLAT, "steep": 0.7 ** np.arange(200.0), "steps": np.repeat([3.0, 1.0, 0.1, 0.01], 50)}
    for name, sigma in spectra.items():
        A = with_spectrum(260, sigma, seed=11)
        truth = svd(A)
        for seed in range(50):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = TruncatedSVD(6, solver="sketch", random_state=seed, max_scans=2 + seed % 4).fit(A)
            s = model.singular_values_
            assert (np.abs(s - truth[:6]) <= model.error_bounds_).all(), (name, seed)
            near = np.abs(s[:, None] - truth).min(axis=1)
            assert (near <= model.residual_bounds_ * (1 + 1e-12)).all(), (name, seed)
            assert (s <= truth[:6] * (1 + 1e-12)).all()


def test_the_upper_bound_by_trace_is_sharp_where_little_is_left() -> None:
    """With all but a tail of 1e-6 captured, the bound is of the size of the tail, and a wrong trace breaks it."""
    M = np.diag(np.r_[4.0, 2.0, 1.0, np.full(20, 1e-6)])
    krylov = Krylov(np.linalg.qr(RNG(12).normal(size=(23, 5)))[0])
    for _ in range(2):
        krylov.absorb(M @ krylov.block)
    ritz = krylov.ritz()
    found = by_trace(ritz, 3, float(np.trace(M)))
    assert (found >= np.diag(M)[:3] * (1 - 1e-12)).all()
    assert (found - ritz.values[:3] <= 3e-5).all()
    assert chebyshev(3, np.array([2.0]))[0] == pytest.approx(26.0)  # 4 x^3 - 3 x


def test_a_share_of_the_variance() -> None:
    X = with_spectrum(500, FLAT, seed=17)
    for share in (0.2, 0.5):
        exact = PCA(share, solver="gram").fit(X)
        model = PCA(share, solver="sketch", max_components=60).fit(X)
        # Ritz values are lower bounds: never fewer than needed.
        assert exact.n_components_ <= model.n_components_ <= exact.n_components_ + 1
        assert model.explained_variance_ratio_.sum() >= share * (1 - 1e-9)
    with pytest.raises(ConfigError, match=r"within max_components=4, found 0\.\d+ with 4 components"):
        PCA(0.9, solver="sketch", max_components=4, max_scans=3).fit(X)


def test_a_block_smaller_than_the_number_of_values() -> None:
    X = with_spectrum(300, 0.9 ** np.arange(80.0), seed=18)
    model = TruncatedSVD(10, solver="sketch", block_size=4, tol=1e-6, max_scans=12).fit(X)
    np.testing.assert_allclose(model.singular_values_, svd(X)[:10], rtol=1e-10)
    with pytest.raises(ConfigError, match="a basis of 10 vectors, found 8 after 2 scans"):
        TruncatedSVD(10, solver="sketch", block_size=4, max_scans=2).fit(X)
    equal = np.eye(40)[:, :20]  # one product leads nowhere new: the rest is started afresh
    np.testing.assert_allclose(TruncatedSVD(6, solver="sketch", block_size=3).fit(equal).singular_values_, np.ones(6))


def test_same_bytes_with_any_workers_and_after_a_stop_in_any_scan(tmp_path: Path) -> None:
    X = thin(9000, 1200, 0.01, seed=19)
    data = Dataset.from_parquet(sparse_parquet(tmp_path / "x.parquet", X, 9), sparse=("indices", "values", 1200))
    assert len(data.fragments) > 1

    def fitted(engine: Any) -> Any:
        return PCA(4, solver="sketch", scale=True, max_scans=4, tol=None, random_state=3).fit(data, engine=engine)

    digests = {fitted(connect("local", workers=w)).save(tmp_path / f"w{w}") for w in (1, 2, 3)}
    for stop in (1, 2, 3, 4):
        work = tmp_path / f"work{stop}"
        with pytest.raises(KeyboardInterrupt):
            fitted(CountingEngine(connect("local", workers=2, work=work, memory="4GiB"), stop))
        assert len(list(work.glob("*.state"))) == stop - 1
        digests.add(fitted(connect("local", workers=3, work=work, memory="4GiB")).save(tmp_path / f"s{stop}"))
    assert len(digests) == 1
    again = load(tmp_path / "w1")
    assert (again.n_scans_, again.converged_, len(again.residual_bounds_)) == (4, True, 4)


def test_same_bytes_with_any_number_of_blas_threads() -> None:
    """Those the process has been given: the start is made orthonormal before the first scan."""
    X, starts = thin(2000, 3000, 0.01, seed=43), set[bytes]()
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            model = TruncatedSVD(100, solver="sketch", max_scans=2, tol=None).fit(X)
        starts.add(model.components_.tobytes())
    assert len(starts) == 1


def test_a_basis_never_has_more_vectors_than_columns() -> None:
    """Blocks of 3 in 8 columns: the third has room for two, and what else is left of a product is rounding."""
    X = with_spectrum(8, 6e5 * 10.0 ** (-3 * np.arange(8.0)), seed=46)
    for scans in (3, 4, 6):
        model = TruncatedSVD(8, solver="sketch", tol=None, max_scans=scans, block_size=3).fit(X)
        right = svd(X)
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(8), atol=1e-13)
        assert (np.abs(model.singular_values_ - right) <= model.error_bounds_ + 1e-14 * right[0]).all()
    equal = np.eye(8)[:, :7]  # a restart has room for one vector more
    model = TruncatedSVD(7, solver="sketch", tol=None, max_scans=9, block_size=3).fit(equal)
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(7), atol=1e-13)
    np.testing.assert_allclose(model.singular_values_, np.ones(7))


def test_residuals_need_no_next_block() -> None:
    """Ritz pairs and residuals before the basis is extended are those after it, and those of the definition."""
    U = np.linalg.qr(RNG(44).normal(size=(300, 300)))[0]
    M = (U / np.arange(1, 301)) @ U.T
    krylov = Krylov(np.linalg.qr(RNG(45).normal(size=(300, 20)))[0])
    for _ in range(4):
        krylov.absorb(M @ krylov.block)
        ritz = krylov.ritz()
        V = krylov.vectors(ritz.weights)
        np.testing.assert_allclose(ritz.residuals, np.linalg.norm(M @ V - V * ritz.values, axis=0), atol=1e-13)
        krylov.extend()
        np.testing.assert_allclose(krylov.ritz().values, ritz.values, rtol=0, atol=1e-14)
        np.testing.assert_allclose(krylov.ritz().residuals, ritz.residuals, rtol=0, atol=1e-13)


def test_panels_give_the_same_bytes_with_any_number_of_threads() -> None:
    left = [RNG(28).normal(size=(70_001, 7)), RNG(29).normal(size=(70_001, 5))]
    right = RNG(30).normal(size=(70_001, 6))
    both, found = np.concatenate(left, axis=1), []
    for threads in (1, 2, 3):
        inside, rest = inner(left, right, threads, FORMAT_1), right.copy()
        take_out(left, inside, rest, threads, FORMAT_1)
        found.append([part.tobytes() for part in (inside, rest, rotate(rest.copy(), inside[:6], threads, FORMAT_1))])
    assert found[0] == found[1] == found[2]
    np.testing.assert_allclose(inside, both.T @ right, rtol=0, atol=1e-10)
    np.testing.assert_allclose(rest, right - both @ inside, rtol=0, atol=1e-9)


def test_ritz_vectors_are_orthonormal_to_rounding() -> None:
    """Of a spectrum whose small values are crowded, as they are in text."""
    krylov = Krylov(np.linalg.qr(RNG(41).normal(size=(800, 100)))[0])
    U = np.linalg.qr(RNG(42).normal(size=(800, 800)))[0]
    M = (U / np.arange(1, 801)) @ U.T
    for _ in range(6):
        krylov.absorb(M @ krylov.block)
    weights = krylov.ritz().weights
    assert np.abs(weights.T @ weights - np.eye(len(weights))).max() < 2e-14


def test_faint_directions_are_orthogonal_to_the_basis_too() -> None:
    U = np.linalg.qr(RNG(31).normal(size=(300, 300)))[0]
    M = (U * 10.0 ** -(np.arange(300) / 20)) @ U.T  # every block holds sizes that differ by far more than FAINT
    krylov = Krylov(np.linalg.qr(RNG(32).normal(size=(300, 40)))[0])
    for _ in range(5):
        krylov.absorb(M @ krylov.block)
    krylov.extend()
    basis = np.concatenate(krylov.basis, axis=1)
    assert np.abs(basis.T @ basis - np.eye(krylov.size)).max() < 1e-13


@pytest.mark.parametrize("odd", ["", "thick", "missing"])
def test_sparse_rows_are_projected_many_at_a_time_unless_they_must_be_dense(odd: str, tmp_path: Path) -> None:
    from eigenmill.reduce.rows.transforms import ModelInput, Project

    X = sp.lil_array(thin(600, 200_000, 1e-4, seed=36))
    if odd == "thick":
        X[:, [7]] = 1e6 + RNG(37).normal(size=(600, 1))
    if odd == "missing":
        X[300, 5] = np.nan
    X = sp.csr_array(X)
    path = sparse_parquet(tmp_path / "a.parquet", X)
    data = Dataset.from_parquet(path, sparse=("indices", "values", 200_000), missing="zero")
    Y = X.copy()
    Y.data[np.isnan(Y.data)] = 0
    weights, mean = RNG(38).normal(size=(200_000, 3)), np.asarray(Y.mean(axis=0)).ravel()
    input = ModelInput(data.feature_names, np.dtype(np.float64), data.cleaning.resolve(data.feature_names))
    out = data.then(Project(input, mean, weights, ("a", "b", "c")))
    heights = [block.rows for f in out.fragments for block in out.blocks(f, Workspace())]
    # A row of 200,000 columns is 1.6 MB when dense: then 32 at a time.
    low = [32] * 18 + [24]
    assert heights == (low if odd == "missing" else [600])
    expected = Y @ weights - mean @ weights
    if odd == "thick":
        others = np.flatnonzero(np.arange(200_000) != 7)
        expected = Y[:, others] @ weights[others] - mean[others] @ weights[others]
        expected += (Y[:, [7]].toarray() - mean[7]) @ weights[[7]]
    np.testing.assert_allclose(out.to_numpy(), expected, rtol=0, atol=1e-8)
    assert [b.rows for f in data.fragments for b in data.blocks(f, Workspace())] == low


def test_a_finished_scan_is_not_read_again(tmp_path: Path) -> None:
    X = thin(3000, 300, 0.02, seed=20)
    path = sparse_parquet(tmp_path / "x.parquet", X)
    data = Dataset.from_parquet(path, sparse=("indices", "values", 300))
    model = TruncatedSVD(3, solver="sketch", max_scans=3, tol=None)
    first = model.fit(data, engine=connect("local", work=tmp_path / "w")).save(tmp_path / "a")
    path.unlink()
    assert model.fit(data, engine=connect("local", work=tmp_path / "w")).save(tmp_path / "b") == first


def test_a_warm_start_takes_fewer_scans(tmp_path: Path) -> None:
    X = with_spectrum(600, 1 / np.sqrt(1 + np.arange(150)), seed=21)
    model = TruncatedSVD(5, solver="sketch", tol=1e-5).fit(X[:590])
    model.save(tmp_path / "m")
    cold = TruncatedSVD(5, solver="sketch", tol=1e-5).fit(X)
    warm = load(tmp_path / "m").set_params(warm_start=True).fit(X)
    np.testing.assert_allclose(warm.singular_values_, cold.singular_values_, rtol=1e-9)
    assert warm.n_scans_ < cold.n_scans_


def test_what_an_iteration_cannot_do_is_refused() -> None:
    X = RNG(22).normal(size=(100, 30))
    with pytest.raises(ConfigError, match="warm_start=True"):
        PCA(3, solver="sketch").partial_fit(X)
    with pytest.raises(ConfigError, match="every eigenvalue"):
        PCA(None, solver="sketch").fit(X)
    with pytest.raises(ConfigError, match="max_scans above 1"):
        PCA(3, solver="sketch", scale=True, max_scans=1).fit(X)
    for bad in ({"tol": 0}, {"max_scans": 0}, {"max_components": 1.5}, {"block_size": True}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            PCA(3, solver="sketch", **bad).fit(X)


def test_over_the_budget_the_block_that_fits_is_named() -> None:
    X = sp.csr_array((np.ones(3), ([0, 1, 2], [0, 7, 200_000])), shape=(300, 400_000))
    model = TruncatedSVD(40, solver="sketch", max_scans=8, tol=None)
    held = resident()  # by this process, whatever tests before have brought: 100 MiB to some GiB
    with pytest.raises(DoesNotFitError, match=r"basis of 9 blocks of 50 vectors .* give block_size=(\d+)") as refused:
        model.fit(X, engine=connect("local", memory=held + (1350 << 20)))
    width = int(str(refused.value).split("block_size=")[1].split(",")[0])
    assert 5 <= width < 50
    with pytest.raises(DoesNotFitError, match="give fewer components"):
        model.fit(X, engine=connect("local", memory=held + (550 << 20)))


def test_a_million_columns_are_planned_within_8_gib_or_refused_with_what_would_fit() -> None:
    from eigenmill.reduce.plan import explain

    data = Dataset.from_numpy(sp.random_array((1000, 1_000_000), density=1e-6, format="csr", rng=RNG(34)))
    engine = LocalEngine(workers=2, memory="8GiB")
    with pytest.raises(DoesNotFitError, match=r"a basis of 17 blocks of 62 vectors .*; give block_size=\d+, a smaller"):
        TruncatedSVD(50, solver="sketch").fit(data, engine=engine)
    assert not explain(TruncatedSVD(50, solver="sketch"), data, engine).fits
    plan = explain(TruncatedSVD(50, solver="sketch", max_scans=6), data, engine)
    assert plan.fits
    assert plan.peak > 8 * 1_000_000 * 60 * 7  # the basis alone


def test_auto_depends_on_shape_and_parameters_only() -> None:
    def auto(n: int, d: int, k: Any, density: float = 1.0) -> str:
        return choose("auto", Shape(n, d, int(n * d * density), density < 1), k)[0]

    assert auto(100_000, 512, 50) == "gram"
    assert auto(200_000, 10_000, 50) == "sketch"
    assert auto(200_000, 10_000, None) == "gram"
    assert auto(200_000, 10_000, 5_000) == "gram"
    assert auto(117_659, 53_920, 100, 2e-4) == "sketch"
    assert auto(117_659, 53_920, 0.9, 2e-4) == "sketch"
    assert auto(1_000, 50_000, 10) == "dual"
    assert auto(20_000, 1_000_000, 10, 1e-5) == "sketch"
    with pytest.raises(ConfigError, match="found 53920 and 117659 rows"):
        auto(117_659, 53_920, None)


@pytest.mark.parametrize("times", [1.0, 1e20, 1e-20])
@pytest.mark.parametrize(
    ("m", "n", "k", "case"), [(400, 300, 25, 1), (200, 100, 20, 2), (200, 100, 20, 3), (1000, 500, 50, 3)]
)
def test_tables_of_li_kluger_and_tygert(m: int, n: int, k: int, case: int, times: float) -> None:
    """Li, Kluger and Tygert (2016): cosine bases, three spectra, scaled by 1e20 and 1e-20."""

    def cosines(size: int) -> Any:
        i, j = np.arange(size)[:, None] + 0.5, np.arange(k)[None, :] + 0.5
        return np.sqrt(2 / size) * np.cos(np.pi * i * j / size)

    i = np.arange(k)
    sigma = {1: np.exp(np.log(1e-20) * i / (k - 1)), 2: np.sqrt(i + 1.0), 3: np.sqrt(i % 3)}[case] * times
    A = (cosines(m) * sigma) @ cosines(n).T
    model = TruncatedSVD(k, solver="sketch", tol=1e-6).fit(A)
    V = model.components_.T
    assert np.linalg.norm(A - (A @ V) @ V.T, 2) <= 1e-7 * sigma.max()
    np.testing.assert_allclose(V.T @ V, np.eye(k), atol=5e-13)
    np.testing.assert_allclose(model.singular_values_, np.sort(sigma)[::-1], atol=1e-7 * sigma.max())


def test_explain_says_why_and_counts_scans() -> None:
    from eigenmill.reduce.plan import explain

    X = sp.csr_array((np.ones(2), ([0, 29_999], [0, 20_999])), shape=(30_000, 21_000))
    plan = explain(PCA(5, max_scans=4), Dataset.from_numpy(X))
    assert plan.solver == "sketch"
    assert "21000 columns are too many" in plan.reason
    assert [(scan.name, str(scan.times)) for scan in plan.scans] == [("moments", "1"), ("sketch", "1 to 3")]
    assert plan.peak < 2 << 30
