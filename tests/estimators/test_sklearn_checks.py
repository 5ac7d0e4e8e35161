"""scikit-learn's own checks, without exclusions, and what its users expect of names, containers and pipelines."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.decomposition import PCA as PeerPCA  # noqa: N811
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from eigenmill.reduce import PCA, Dataset, EigenmillError, StandardScaler, TruncatedSVD

ESTIMATORS = [
    PCA(),
    PCA(n_components=1, whiten=True),
    PCA(scale=True),
    TruncatedSVD(n_components=1),
    StandardScaler(),
    StandardScaler(with_mean=False),
]
EACH = [
    PCA(2),
    PCA(2, whiten=True),
    PCA(scale=True),
    TruncatedSVD(2),
    StandardScaler(),
    StandardScaler(with_mean=False),
]


@parametrize_with_checks(ESTIMATORS)
def test_sklearn_check(estimator: Any, check: Any) -> None:
    check(estimator)


def frame(n: int = 40) -> pd.DataFrame:
    values = np.random.default_rng(3).normal(size=(n, 4)) @ np.diag([3.0, 2.0, 1.0, 0.5])
    return pd.DataFrame(values, columns=["a", "b", "c", "d"])


@pytest.mark.parametrize("model", EACH, ids=repr)
def test_pandas_output_for_arrays_while_datasets_bypass(model: Any) -> None:
    data, model = frame(), clone(model).set_output(transform="pandas")
    for out in (model.fit(data).transform(data), model.fit_transform(data)):
        assert isinstance(out, pd.DataFrame)
        assert list(out.columns) == list(model.get_feature_names_out())
        assert out.index.equals(data.index)
    lazy = model.transform(Dataset.from_pandas(data))
    assert isinstance(lazy, Dataset)
    np.testing.assert_allclose(lazy.to_numpy(), out.to_numpy(), rtol=1e-12, atol=1e-12)
    assert isinstance(model.fit_transform(Dataset.from_pandas(data)), Dataset)


def test_names() -> None:
    data = frame()
    pca = PCA(3).fit(data)
    assert list(pca.feature_names_in_) == ["a", "b", "c", "d"]
    assert list(pca.get_feature_names_out()) == ["pca0", "pca1", "pca2"]
    assert list(TruncatedSVD(2).fit(data).get_feature_names_out()) == ["truncatedsvd0", "truncatedsvd1"]
    assert list(StandardScaler().fit(data).get_feature_names_out()) == ["a", "b", "c", "d"]
    assert not hasattr(pca.fit(data.to_numpy()), "feature_names_in_")
    assert not hasattr(StandardScaler().fit(Dataset.from_numpy(data.to_numpy())), "feature_names_in_")


@pytest.mark.parametrize("model", EACH, ids=repr)
def test_other_names_are_refused(model: Any) -> None:
    data = frame()
    model = clone(model).fit(data)
    with pytest.raises(ValueError, match="feature names"):
        model.transform(data.rename(columns={"c": "z"}))
    with pytest.raises(ValueError, match="feature names"):
        model.transform(data[["b", "a", "c", "d"]])
    with pytest.raises(ValueError, match="feature names"):
        model.transform(data[["a", "b", "c"]])
    with pytest.raises(ValueError, match=r"3 features.*4 features"):
        clone(model).fit(data.to_numpy()).transform(data.to_numpy()[:, :3])
    with pytest.raises(EigenmillError, match=r"'b' in (the )?place of 'a'"):
        model.transform(Dataset.from_pandas(data[["b", "a", "c", "d"]]))
    with pytest.raises(EigenmillError, match="expected 4 features, found 3"):
        model.transform(Dataset.from_pandas(data[["a", "b", "c"]]))
    with pytest.raises(EigenmillError, match="place of"):
        model.partial_fit(Dataset.from_pandas(data[["b", "a", "c", "d"]]))


@pytest.mark.parametrize("model", EACH, ids=repr)
def test_clone_and_pickle(model: Any) -> None:
    data = frame().to_numpy()
    fitted = clone(model).fit(data)
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert not [name for name in vars(twin) if name.endswith("_")]
    with pytest.raises(NotFittedError):
        twin.transform(data)
    loaded = pickle.loads(pickle.dumps(fitted))
    assert loaded.transform(data).tobytes() == fitted.transform(data).tobytes()
    with pytest.raises(EigenmillError, match="kept its state"):
        loaded.partial_fit(data)


@pytest.mark.parametrize("sparse_input", [False, True])
def test_scaling_without_mean_keeps_the_kind_of_matrix(sparse_input: bool) -> None:
    X = np.array([[1.0, 0], [0, 2], [3, 4]])
    given = sparse.csr_matrix(X) if sparse_input else X
    model = StandardScaler(with_mean=False).fit(given)
    out = model.transform(given)
    assert sparse.issparse(out) == sparse.issparse(model.inverse_transform(out)) == sparse_input
    # A second estimator takes what the first one made of dense rows for dense.
    if not sparse_input:
        lazy = model.transform(Dataset.from_numpy(X))
        assert not lazy.sparse
        StandardScaler().fit(lazy)


def test_what_partial_fit_cannot_go_on_from() -> None:
    X = frame().to_numpy()
    with pytest.raises(EigenmillError, match="keep_state=True"):
        PCA(2, solver="dual").fit(X).partial_fit(X)
    with pytest.raises(EigenmillError, match="refine=False"):
        PCA(2, refine=True).fit(X).partial_fit(X)
    assert PCA(2, solver="dual").fit(X, keep_state=True).partial_fit(X).n_samples_ == 80


def test_pipelines_and_searches() -> None:
    data, y = frame(), (frame()["a"] + frame()["d"] > 0).to_numpy()
    mine = make_pipeline(StandardScaler(), PCA(2)).fit(data)
    peer = make_pipeline(StandardScaler(), PeerPCA(2)).fit(data)
    np.testing.assert_allclose(abs(mine.transform(data)), abs(peer.transform(data)), rtol=1e-10, atol=1e-12)
    assert list(mine.get_feature_names_out()) == ["pca0", "pca1"]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), PCA(), LogisticRegression()), {"pca__n_components": [1, 0.9, None]}
    )
    assert search.fit(data, y).best_score_ > 0.5


def test_fitted_on_arrays_and_on_a_path(tmp_path: Path) -> None:
    data = frame()
    pq.write_table(pa.Table.from_pandas(data, preserve_index=False), tmp_path / "t.parquet")
    by_path, by_table, by_frame = (
        PCA(2).fit(x) for x in (tmp_path / "t.parquet", pa.Table.from_pandas(data, preserve_index=False), data)
    )
    for other in (by_table, by_frame):
        np.testing.assert_allclose(by_path.components_, other.components_, rtol=1e-12, atol=1e-13)
        assert list(by_path.feature_names_in_) == list(other.feature_names_in_)
    assert isinstance(by_frame.transform(tmp_path / "t.parquet"), Dataset)


def test_a_list_of_paths_is_data_as_well(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pandas(frame(), preserve_index=False), tmp_path / "t.parquet")
    assert PCA(2).fit([tmp_path / "t.parquet"]).n_samples_ == 40
