"""Dask arrays and DataFrames in, the same out: results agree with those of Parquet files to 1e-12."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eigenmill.reduce import (
    PCA,
    ConfigError,
    Dataset,
    EngineError,
    SchemaError,
    Sink,
    StandardScaler,
    TruncatedSVD,
    connect,
)
from eigenmill.reduce.dataset import as_dataset
from eigenmill.reduce.errors import MissingValueError

pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

N, D = 1500, 7


@pytest.fixture(scope="module")
def matrix() -> Any:
    rng = np.random.default_rng(3)
    return rng.normal(size=(N, D)) * np.linspace(5, 1, D) + 1e4


@pytest.fixture(scope="module")
def files(matrix: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for k, rows in enumerate(np.array_split(np.arange(N), 5)):
        frame = pd.DataFrame(matrix[rows], columns=[f"c{j}" for j in range(D)])
        frame.to_parquet(folder / f"{k}.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def expected(files: Path) -> Any:
    return PCA(3, scale=True).fit(Dataset.from_parquet(files))


def reference(model: Any, X: Any) -> Any:
    """Features of an array by a model that knows its columns' names or not."""
    return model.transform(
        pd.DataFrame(X, columns=model.feature_names_in_) if hasattr(model, "feature_names_in_") else X
    )


def agree(mine: Any, theirs: Any) -> None:
    for name in ("components_", "explained_variance_", "mean_", "scale_"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-12, atol=1e-12, err_msg=name)
    assert mine.n_samples_ == theirs.n_samples_


@pytest.mark.parametrize("chunks", [(400, -1), (N, -1), (100, 3), (1, D)])
def test_an_array(client: Any, matrix: Any, expected: Any, chunks: Any) -> None:
    if chunks == (1, D):
        matrix, chunks = matrix[:50], (5, D)
        expected = PCA(3, scale=True).fit(matrix)
    X = da.from_array(matrix, chunks=chunks)
    pca = PCA(3, scale=True).fit(X)
    agree(pca, expected)
    Z = pca.transform(X)
    assert isinstance(Z, da.Array)
    assert (Z.shape, Z.dtype, Z.chunks[1]) == ((len(matrix), 3), matrix.dtype, (3,))
    np.testing.assert_allclose(Z.compute(), reference(expected, matrix), rtol=1e-12, atol=1e-11)
    # Further computation on the result.
    np.testing.assert_allclose(Z.std(axis=0).compute(), reference(expected, matrix).std(axis=0), rtol=1e-12)


def test_a_frame_read_from_parquet(client: Any, files: Path, matrix: Any, expected: Any) -> None:
    frame = dd.read_parquet(files)
    pca = PCA(3, scale=True).fit(frame)
    agree(pca, expected)
    assert list(pca.feature_names_in_) == [f"c{j}" for j in range(D)]
    out = pca.transform(frame)
    assert isinstance(out, dd.DataFrame)
    assert list(out.columns) == list(pca.get_feature_names_out())
    found = out.compute()
    assert (found.dtypes == np.float64).all()
    np.testing.assert_allclose(found.to_numpy(), reference(expected, matrix), rtol=1e-12, atol=1e-11)
    pd.testing.assert_frame_equal(out._meta, found.iloc[:0])


def test_other_estimators_weighing_nothing(client: Any, matrix: Any) -> None:
    X = da.from_array(matrix, chunks=(300, D))
    scaled = StandardScaler().fit(X).transform(X)
    np.testing.assert_allclose(scaled.mean(axis=0).compute(), 0, atol=1e-9)
    mine, theirs = TruncatedSVD(2, refine=True).fit(X), TruncatedSVD(2, refine=True).fit(matrix)
    np.testing.assert_allclose(mine.singular_values_, theirs.singular_values_, rtol=1e-12)
    # Fewer rows than columns: the rows themselves travel.
    wide = np.random.default_rng(0).normal(size=(6, 40))
    dual = PCA(2).fit(da.from_array(wide, chunks=(4, 13)))
    assert dual.solver_ == "dual"
    np.testing.assert_allclose(dual.explained_variance_, PCA(2).fit(wide).explained_variance_, rtol=1e-12)


def test_unknown_lengths_are_counted(client: Any, matrix: Any) -> None:
    X = da.from_array(matrix, chunks=(300, D))
    some = X[X[:, 0] > 1e4]
    assert np.isnan(some.shape[0])
    chosen = matrix[matrix[:, 0] > 1e4]
    pca, theirs = PCA(2).fit(some), PCA(2).fit(chosen)
    np.testing.assert_allclose(pca.explained_variance_, theirs.explained_variance_, rtol=1e-12)
    np.testing.assert_allclose(pca.transform(some).compute(), theirs.transform(chosen), rtol=1e-12, atol=1e-11)


def test_lengths_are_not_asked_for_without_need(client: Any, matrix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = dd.from_pandas(pd.DataFrame(matrix, columns=[f"c{j}" for j in range(D)]), npartitions=3)
    pca = PCA(2).fit(frame)
    monkeypatch.setattr(
        "eigenmill.reduce.engines.dask.collections._computed", lambda counts: pytest.fail("lengths were counted")
    )
    pca.transform(frame).compute()
    PCA(2).fit(da.from_array(matrix, chunks=(300, D)))


def test_dropped_rows_keep_the_index(client: Any, matrix: Any) -> None:
    gaps = matrix.copy()
    gaps[::50, 1] = np.nan
    table = pd.DataFrame(gaps, columns=[f"c{j}" for j in range(D)], index=[f"r{i:05d}" for i in range(N)])
    frame = dd.from_pandas(table, npartitions=4)
    with pytest.raises(MissingValueError, match="c1"):
        PCA(2).fit(frame)
    pca = PCA(2).fit(as_dataset(frame).with_cleaning(missing="drop"))
    out = pca.transform(frame).compute()
    whole = table.dropna()
    assert list(out.index) == list(whole.index)
    np.testing.assert_allclose(out.to_numpy(), PCA(2).fit(whole).transform(whole), rtol=1e-12, atol=1e-11)
    X = da.from_array(gaps, chunks=(300, D))
    pca = PCA(2).fit(as_dataset(X).with_cleaning(missing="drop"))
    assert pca.transform(X).compute().shape == (len(whole), 2)


def test_kinds_of_columns(client: Any) -> None:
    n = 40
    table = pd.DataFrame(
        {
            "small": np.arange(n, dtype=np.int8),
            "flag": np.arange(n) % 3 == 0,
            "gap": pd.array([None if i % 9 == 4 else i for i in range(n)], dtype="Int32"),
            "text": ["t"] * n,
            "when": pd.Timestamp("2026-01-01"),
        }
    )
    frame = dd.from_pandas(table, npartitions=3)
    with pytest.raises(SchemaError, match=r"found 'text' \(.*\) in the Dask DataFrame; choose the features"):
        StandardScaler().fit(frame)
    frame = frame[["small", "flag", "gap"]]
    with pytest.raises(MissingValueError, match=r"column 'gap', found a missing value .* at partition 0, row 4"):
        StandardScaler().fit(frame)
    scaler = StandardScaler().fit(as_dataset(frame).with_cleaning(missing="keep"))
    assert list(scaler.feature_names_in_) == ["small", "flag", "gap"]
    plain = table[["small", "flag", "gap"]].astype("float64").to_numpy()
    np.testing.assert_allclose(scaler.mean_, np.nanmean(plain, axis=0))
    np.testing.assert_allclose(scaler.transform(frame).compute(), StandardScaler().fit_transform(plain), atol=1e-12)


def test_as_dataset_and_written(client: Any, files: Path, matrix: Any, expected: Any, tmp_path: Path) -> None:
    data = as_dataset(dd.read_parquet(files))
    features = expected.transform(data)
    assert isinstance(features, Dataset)
    engine = connect("dask", client)
    np.testing.assert_allclose(features.to_numpy(engine), reference(expected, matrix), rtol=1e-12, atol=1e-11)
    assert engine.write(features, Sink(tmp_path / "out")).rows == N
    with pytest.raises(EngineError, match="give engine=connect"):
        PCA(2).fit(data, engine=connect("local"))


def test_going_on_from_a_collection(client: Any, matrix: Any) -> None:
    X = da.from_array(matrix, chunks=(300, D))
    pca = PCA(2).fit(X[:700], keep_state=True).partial_fit(X[700:])
    np.testing.assert_allclose(pca.explained_variance_, PCA(2).fit(matrix).explained_variance_, rtol=1e-12)


def test_what_is_refused(client: Any, matrix: Any) -> None:
    with pytest.raises(SchemaError, match="2 dimensions, found 1"):
        PCA(1).fit(da.from_array(matrix[:, 0], chunks=10))
    with pytest.raises(SchemaError, match="numeric columns"):
        PCA(1).fit(dd.from_pandas(pd.DataFrame({"a": ["x", "y"]}), npartitions=1))
    with pytest.raises(SchemaError, match="found dtype complex128"):
        PCA(1).fit(da.from_array(matrix.astype(complex), chunks=100))
    import dask.bag

    for other in (dask.bag.from_sequence([1, 2]), dask.delayed(matrix)):
        with pytest.raises(ConfigError, match=f"Dask array or DataFrame, found {type(other).__name__}"):
            PCA(1).fit(other)


def test_a_wrong_solver_is_refused_before_rows_are_counted(client: Any) -> None:
    def read(_: int) -> Any:
        raise OSError("has been read")

    meta = pd.DataFrame({"a": [1.0], "b": [2.0]})
    with pytest.raises(ConfigError, match="expected solver among"):
        PCA(1, solver="qr").fit(dd.from_map(read, range(3), meta=meta))


def test_without_a_client() -> None:
    import subprocess
    import sys

    code = (
        "import dask.array as da, numpy as np\nfrom eigenmill.reduce import PCA, ConfigError\n"
        "try:\n    PCA(1).fit(da.ones((9, 3), chunks=3))\nexcept ConfigError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "found none; start one: client = distributed.Client()" in said.stdout, said


def test_wide_sparse_rows(client: Any) -> None:
    """Numbers stored are counted, so that a plan fits the workers, and blocks have more than 32 of 200,000 columns."""
    from dask import delayed
    from scipy import sparse

    d = 200_000
    X = sparse.random_array((600, d), density=1e-4, format="csr", rng=np.random.default_rng(5))
    heights = [250, 350]
    empty = sparse.csr_array((0, d))
    parts = [da.from_delayed(delayed(X[a : a + h]), (h, d), meta=empty) for a, h in zip((0, 250), heights, strict=True)]
    rows = da.concatenate(parts)
    data = as_dataset(rows)
    assert data.sparse
    assert data.stored == X.nnz
    model = TruncatedSVD(3, solver="sketch", tol=None, max_scans=4)
    mine = TruncatedSVD(**model.get_params()).fit(data, engine=connect("dask", client, memory="3GiB"))
    theirs = model.fit(X)
    np.testing.assert_allclose(mine.singular_values_, theirs.singular_values_, rtol=1e-12)
    np.testing.assert_allclose(mine.components_, theirs.components_, rtol=0, atol=1e-12)
    found = mine.transform(rows).compute()
    np.testing.assert_allclose(found, theirs.transform(X), rtol=0, atol=1e-12)
