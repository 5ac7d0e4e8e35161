"""Inputs at the edge, cleaning, and going on day by day: what is documented, or a clear error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from eigenmill.reduce import (
    PCA,
    ChangedInputError,
    ConfigError,
    DataError,
    Dataset,
    EigenmillError,
    MissingValueError,
    StandardScaler,
    TruncatedSVD,
    load,
)
from tests.support.formats import other, use
from tests.support.trees import tree

MODELS = [PCA, lambda **k: TruncatedSVD(2, **k), StandardScaler]
EACH = pytest.mark.parametrize("Model", MODELS, ids=["PCA", "TruncatedSVD", "StandardScaler"])
LINEAR = pytest.mark.parametrize("Model", MODELS[:2], ids=["PCA", "TruncatedSVD"])
RNG = np.random.default_rng
GAPS = np.array([[1.0, 5, np.nan], [2, np.nan, 1], [4, 4, 3], [8, 1, 0], [np.nan, 2, 2]])


def dataset(X: Any, **options: Any) -> Dataset:
    return Dataset.from_numpy(np.asarray(X), **options)


# Edges


@EACH
def test_no_rows_and_no_columns(Model: Any) -> None:
    with pytest.raises(DataError, match="at least one row"):
        Model().fit(dataset(np.empty((0, 3))))
    with pytest.raises(DataError, match="at least one feature column"):
        Model().fit(dataset(np.empty((5, 0))))
    with pytest.raises(ValueError, match="0 sample"):
        Model().fit(np.empty((0, 3)))


@EACH
def test_all_missing(Model: Any) -> None:
    X = np.full((5, 3), np.nan)
    with pytest.raises(MissingValueError, match=r"'x0'.*row 0"):
        Model().fit(dataset(X))
    with pytest.raises(DataError, match="found none among 5 rows"):
        Model().fit(dataset(X, missing="drop"))
    with pytest.raises(DataError, match="learn the mean of column 'x0'"):
        Model().fit(dataset(X, missing="mean"))
    for fill, value in (("zero", 0.0), (3.5, 3.5)):
        model = Model().fit(dataset(X, missing=fill))
        np.testing.assert_array_equal(model.mean_, [value] * 3)
        np.testing.assert_array_equal(model.quality_.missing, [5] * 3)


@EACH
def test_one_column_missing(Model: Any) -> None:
    X = RNG(0).normal(size=(50, 3))
    X[:, 1] = np.nan
    with pytest.raises(DataError, match="column 'x1'"):
        Model().fit(dataset(X, missing="mean"))
    model = Model().fit(dataset(X, missing=7.0))
    assert model.mean_[1] == 7
    assert np.isnan(model.quality_.mean[1])


def test_single_rows() -> None:
    X = np.array([[1.0, 2, 3]])
    np.testing.assert_array_equal(StandardScaler().fit_transform(X), [[0, 0, 0]])
    with pytest.raises(DataError, match="above 1"):
        PCA().fit(dataset(X))
    for solver in ("gram", "dual"):
        svd = TruncatedSVD(1, solver=solver).fit(dataset(X))
        np.testing.assert_allclose(svd.singular_values_, [14**0.5])
        np.testing.assert_allclose(abs(svd.components_), X / 14**0.5)


@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("value", [0.0, 14.62, -1e300])
def test_constant_data(solver: str, value: float) -> None:
    X = np.full((20, 3), value)
    for k in (None, 2, 0.9):
        model = PCA(k, solver=solver, scale=True).fit(X)
        assert (model.explained_variance_ == 0).all()
        assert (model.explained_variance_ratio_ == 0).all()
        np.testing.assert_array_equal(model.transform(X), 0)
        np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X)
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(model.n_components_), atol=1e-15)


@pytest.mark.parametrize("shape", [(50, 6), (5, 30)])
@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("refine", [False, True])
def test_rank_deficient(shape: tuple[int, int], solver: str, refine: bool) -> None:
    X = RNG(1).normal(size=(shape[0], 2)) @ RNG(2).normal(size=(2, shape[1])) + 5
    k = min(shape) - 1
    model = PCA(k, solver=solver, refine=refine).fit(X)
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(k), atol=1e-13)
    assert (model.explained_variance_[2:] <= 1e-12 * model.explained_variance_[0]).all()
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X, atol=1e-12)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.get_precision()).all()


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_float64_whose_squares_leave_its_range(factor: float) -> None:
    """A right answer, or a clear error; not LAPACK's words, and not a variance of 0."""
    X = RNG(3).normal(size=(30, 3)) * factor
    try:
        model = PCA(1).fit(X)
    except EigenmillError:
        return
    assert model.explained_variance_[0] > 0


def test_bad_parameters() -> None:
    X = RNG(4).normal(size=(10, 4))
    for parameters in (
        {"n_components": 0},
        {"n_components": 5},
        {"n_components": -1},
        {"n_components": 1.0},
        {"n_components": 0.0},
        {"n_components": True},
        {"n_components": "some"},
        {"n_components": np.nan},
        {"n_components": [2]},
        {"solver": "randomized"},
        {"precision": "float16"},
    ):
        with pytest.raises(ConfigError, match="expected"):
            PCA(**parameters).fit(X)
    with pytest.raises(ConfigError, match="mle"):
        TruncatedSVD("mle").fit(X)
    with pytest.raises(ConfigError, match="n_samples >= n_features"):
        PCA("mle").fit(X[:3])


# Weights


@EACH
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_are_refused_by_row(Model: Any, bad: float) -> None:
    w = np.ones(10)
    w[[2, 7]] = 0, bad
    with pytest.raises(DataError, match=r"finite weights >= 0.*row 7"):
        Model().fit(dataset(RNG(0).normal(size=(10, 3)), weights=w))


@pytest.mark.parametrize("total", [0.5, 1.0])
def test_weights_of_one_row_or_less_are_refused(total: float) -> None:
    X, w = RNG(0).normal(size=(10, 3)), np.full(10, total / 10)
    with pytest.raises(EigenmillError, match="sum of weights"):
        PCA().fit(X, sample_weight=w)
    if total < 1:
        with pytest.raises(EigenmillError):
            TruncatedSVD(1).fit(X, sample_weight=w)
        with pytest.raises(EigenmillError):
            StandardScaler().fit(X, sample_weight=w)


def test_rows_of_weight_zero_are_not_there() -> None:
    X, w = RNG(5).normal(size=(30, 3)), RNG(6).integers(0, 2, 30).astype(float)
    spoilt = np.where((w == 0)[:, None], np.nan, X)
    for Model in MODELS:
        a, b = Model().fit(dataset(spoilt, weights=w)), Model().fit(X[w > 0])
        np.testing.assert_allclose(a.mean_, b.mean_, rtol=1e-14)
        assert a.quality_.rows == b.quality_.rows


def test_errors_name_the_row_even_after_rows_without_weight() -> None:
    X = RNG(0).normal(size=(5, 2))
    X[3, 1] = np.nan
    with pytest.raises(MissingValueError, match="row 3"):
        PCA(1).fit(dataset(X, weights=[0, 1, 0, 1, 1]))


# Cleaning is learnt at fit and applied by transform


@LINEAR
@pytest.mark.parametrize("missing", ["mean", "zero", 2.5, {"x0": "mean", "x1": "zero", "*": "mean"}])
@pytest.mark.parametrize("solver", ["gram", "dual"])
@pytest.mark.parametrize("scale", [False, True])
def test_gaps_are_filled_as_if_before(Model: Any, missing: Any, solver: str, scale: bool) -> None:
    means = np.nanmean(GAPS, axis=0)
    fill = {"mean": means, "zero": 0.0, 2.5: 2.5}.get(
        missing if not isinstance(missing, dict) else "", np.where([0, 1, 0], 0, means)
    )
    X = np.where(np.isnan(GAPS), fill, GAPS)
    a, b = (
        Model(solver=solver, scale=scale).fit(dataset(GAPS, missing=missing)),
        Model(solver=solver, scale=scale).fit(X),
    )
    np.testing.assert_allclose(a.singular_values_, b.singular_values_, rtol=1e-10)
    np.testing.assert_allclose(a.mean_, b.mean_, rtol=1e-13)
    np.testing.assert_allclose(a.transform(dataset(GAPS)).to_numpy(), b.transform(X), atol=1e-9)
    back = a.reconstruction_error(dataset(GAPS))
    np.testing.assert_allclose(
        back["rmse"], np.sqrt(((b.inverse_transform(b.transform(X)) - X) ** 2).mean(axis=0)), atol=1e-9
    )


def test_dropped_rows_are_dropped_by_transform() -> None:
    model = PCA(1).fit(dataset(GAPS, missing="drop"))
    assert model.n_samples_ == 2
    assert model.transform(dataset(GAPS)).to_numpy().shape == (2, 1)
    lazy = StandardScaler().fit(dataset(GAPS, missing="drop")).transform(dataset(GAPS))
    assert PCA(1).fit(lazy).n_samples_ == 2


def test_keep_is_for_the_scaler_alone() -> None:
    from sklearn.preprocessing import StandardScaler as Peer

    a, b = StandardScaler().fit(dataset(GAPS, missing="keep")), Peer().fit(GAPS)
    np.testing.assert_allclose(a.mean_, b.mean_)
    np.testing.assert_allclose(a.var_, b.var_)
    np.testing.assert_allclose(a.transform(GAPS), b.transform(GAPS))
    np.testing.assert_allclose(a.inverse_transform(a.transform(GAPS)), GAPS)
    np.testing.assert_array_equal(a.n_samples_seen_, b.n_samples_seen_)
    with pytest.raises(ConfigError, match="only StandardScaler"):
        PCA().fit(dataset(GAPS, missing="keep"))
    with pytest.raises(MissingValueError, match="inf"):
        StandardScaler().fit(dataset([[1.0, np.inf]] * 3, missing="keep"))


@EACH
def test_clipping(Model: Any) -> None:
    X = RNG(7).standard_t(2, size=(200, 3)) * 3
    X[0] = np.inf, -np.inf, 1
    a, b = Model().fit(dataset(X, clip=(-4, 5))), Model().fit(np.clip(X, -4, 5))
    np.testing.assert_allclose(a.mean_, b.mean_, rtol=1e-12)
    np.testing.assert_allclose(a.transform(dataset(X)).to_numpy(), b.transform(np.clip(X, -4, 5)), atol=1e-12)
    named = Model().fit(dataset(X[1:], clip={"x1": (-1, 1)}))
    both = X[1:].copy()
    both[:, 1] = both[:, 1].clip(-1, 1)
    np.testing.assert_allclose(named.mean_, both.mean(axis=0), rtol=1e-12)


@EACH
def test_clipping_at_standard_deviations_is_frozen(Model: Any) -> None:
    X = RNG(8).standard_t(3, size=(300, 3)) + 7
    mean, sd = X.mean(axis=0), X.std(axis=0)
    C = np.clip(X, mean - 2 * sd, mean + 2 * sd)
    a, b = Model().fit(dataset(X, clip_sd=2)), Model().fit(C)
    np.testing.assert_allclose(a.mean_, b.mean_, rtol=1e-12)
    far = np.full((2, 3), 1e6)
    np.testing.assert_allclose(
        a.transform(dataset(far)).to_numpy(), b.transform(np.clip(far, None, mean + 2 * sd)), rtol=1e-9
    )


def test_sparse_rows_are_clipped_as_well() -> None:
    S = sparse.random_array((60, 4), density=0.5, rng=RNG(9), format="csr") * 100
    a = StandardScaler(with_mean=False).fit(dataset(S.toarray(), clip=(-1.0, 10.0)))
    b = StandardScaler(with_mean=False).fit(Dataset.from_numpy(S, clip=(-1.0, 10.0)))
    np.testing.assert_allclose(a.scale_, b.scale_)
    expected = np.clip(S.toarray(), -1, 10) / a.scale_
    np.testing.assert_allclose(a.transform(dataset(S.toarray())).to_numpy(), expected)
    np.testing.assert_allclose(b.transform(Dataset.from_numpy(S)).to_sparse().toarray(), expected)


def test_unknown_policies_and_columns() -> None:
    for options in (
        {"missing": "median"},
        {"missing": np.nan},
        {"missing": {"x0": "mode"}},
        {"clip": (2, 1)},
        {"clip": (np.nan, 1)},
        {"clip_sd": 0},
        {"clip_sd": np.nan},
    ):
        with pytest.raises(ConfigError, match="expected"):
            dataset(GAPS, **options)
    for options in ({"missing": {"z": "mean"}}, {"clip": {"z": (0, 1)}}):
        with pytest.raises(ConfigError, match="'z'"):
            PCA().fit(dataset(GAPS, **options))


@LINEAR
def test_transform_meets_gaps_that_the_fit_did_not(Model: Any) -> None:
    model = Model().fit(dataset(RNG(0).normal(size=(20, 3))))
    X = np.ones((4, 3))
    X[2, 1] = np.nan
    with pytest.raises(MissingValueError, match=r"'x1'.*row 2"):
        model.transform(dataset(X)).to_numpy()


# Transforms in a row


@pytest.mark.parametrize("form", ["columns", "list", "array"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chains_of_transforms(form: str, dtype: Any, tmp_path: Path) -> None:
    """Buffers are reused from block to block and from transform to transform; no value may be lost on the way."""
    low = other(max_height=16)
    X = (RNG(10).normal(size=(100, 5)) * [1, 2, 3, 4, 5] + 10).astype(dtype)
    X[RNG(11).random(X.shape) < 0.05] = np.nan
    table = pa.table({f"f{j}": pa.array(X[:, j], from_pandas=True) for j in range(5)})
    data = {
        "columns": lambda: Dataset.from_arrow(table, missing="mean", format=low),
        "list": lambda: Dataset.from_arrow(
            pa.table({"v": pa.array(X.tolist(), pa.list_(pa.from_numpy_dtype(X.dtype)))}), missing="mean", format=low
        ),
        "array": lambda: dataset(X, missing="mean", format=low),
    }[form]()
    filled = np.where(np.isnan(X), np.nanmean(X.astype(np.float64), axis=0), X)
    first = StandardScaler().fit(data)
    second = StandardScaler(with_mean=False).fit(first.transform(data))
    third = PCA(5).fit(second.transform(first.transform(data)))
    fourth = PCA(2, whiten=True).fit(third.transform(second.transform(first.transform(data))))
    last = fourth.transform(third.transform(second.transform(first.transform(data))))
    Z = (filled - filled.mean(axis=0)) / filled.std(axis=0)
    U = np.linalg.svd(Z, full_matrices=False)[0][:, :2] * np.sqrt(len(Z) - 1)
    tolerance = 2e-4 if dtype is np.float32 else 1e-9
    got = last.to_numpy()
    np.testing.assert_allclose(got * np.sign((got * U).sum(axis=0)), U, atol=tolerance)
    back = third.inverse_transform(third.transform(second.transform(first.transform(data))))
    np.testing.assert_allclose(back.to_numpy() * second.scale_, Z, atol=tolerance)


# Going on day by day


def put(path: Path, n: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    X = RNG(seed).normal(size=(n, 3)) + 100
    pq.write_table(pa.table({c: X[:, j] for j, c in enumerate("abc")}), path, row_group_size=8)


@pytest.mark.parametrize("Model", MODELS, ids=["PCA", "TruncatedSVD", "StandardScaler"])
def test_day_by_day_to_the_byte(Model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=24 * 20)
    model: Any = None
    for day, n in enumerate([30, 9, 41, 3]):
        put(tmp_path / "in" / f"{day}.parquet", n, day)
        if model is None:
            model = Model().fit(tmp_path / "in", keep_state=True)
        else:
            model = load(tmp_path / f"m{day - 1}").partial_fit(tmp_path / "in")
        model.save(tmp_path / f"m{day}", state=True)
        fit = Model().fit(tmp_path / "in", keep_state=True)
        fit.save(tmp_path / f"f{day}", state=True)
        ours, theirs = (tree(tmp_path / f"{x}{day}") for x in "mf")
        assert ours == theirs


def test_files_seen_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "in" / "b.parquet", 30, 0)
    put(tmp_path / "in" / "c.parquet", 30, 1)
    model = PCA().fit(tmp_path / "in", keep_state=True)
    before = model.components_.tobytes()
    assert model.partial_fit(tmp_path / "in").components_.tobytes() == before
    put(tmp_path / "in" / "a.parquet", 30, 2)
    with caplog.at_level(logging.WARNING, "eigenmill"):
        assert model.partial_fit(tmp_path / "in").n_samples_ == 90
    assert "a.parquet" in caplog.text
    put(tmp_path / "in" / "b.parquet", 31, 0)
    with pytest.raises(ChangedInputError, match=r"b\.parquet"):
        model.partial_fit(tmp_path / "in")
    (tmp_path / "in" / "b.parquet").unlink()
    with pytest.raises(ChangedInputError, match=r"b\.parquet"):
        model.partial_fit(tmp_path / "in")
    with pytest.raises(ConfigError, match="found data in memory"):
        model.partial_fit(Dataset.from_numpy(np.ones((3, 3)), feature_names="abc"))


def test_a_directory_for_each_day(tmp_path: Path) -> None:
    for day in range(3):
        for part in range(3 - day):
            put(tmp_path / f"day{day}" / f"part-{part}.parquet", 20, 10 * day + part)
    model = PCA().fit(tmp_path / "day0", keep_state=True)
    for day in (1, 2, 0, 1, 2):
        model.partial_fit(tmp_path / f"day{day}")
    assert model.n_samples_ == 120
    put(tmp_path / "day2" / "part-7.parquet", 20, 77)
    assert model.partial_fit(tmp_path / "day2").n_samples_ == 140


def test_bad_new_data_leave_the_model_as_it_was() -> None:
    X = RNG(12).normal(size=(60, 3))
    model = PCA().partial_fit(X[:30])
    bad = X[30:].copy()
    bad[3, 1] = np.nan
    before = model.components_.tobytes()
    with pytest.raises(MissingValueError):
        model.partial_fit(Dataset.from_numpy(bad))
    assert model.components_.tobytes() == before
    np.testing.assert_allclose(
        model.partial_fit(X[30:]).explained_variance_, PCA().fit(X).explained_variance_, rtol=1e-12
    )
