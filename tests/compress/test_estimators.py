"""CompactClassifier and CompactRegressor: scikit-learn's checks, and awkward data done right or refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")

from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_dict_unchanged,
    check_estimators_pickle,
    check_fit1d,
    check_fit_idempotent,
    parametrize_with_checks,
)

from eigenmill.compress import CompactClassifier, CompactRegressor, load
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from tests.compress.made_tables import late, months


@pytest.mark.parametrize("estimator", [CompactClassifier(trials=1), CompactRegressor(trials=1)], ids=repr)
@pytest.mark.parametrize("check", [check_fit_idempotent, check_estimators_pickle, check_fit1d, check_dict_unchanged])
def test_the_main_checks(estimator: Any, check: Any) -> None:
    check(type(estimator).__name__, estimator)


@pytest.mark.slow
@parametrize_with_checks([CompactClassifier(trials=2), CompactRegressor(trials=2)])
def test_sklearn_check(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a check of 4 rows and 1,000 columns, for one
        check(estimator)


def test_it_keeps_to_its_bytes_and_is_about_as_good_as_its_peer(digits: Any, tmp_path: Path) -> None:
    X, y, Xt, yt = digits
    model = CompactClassifier(max_bytes=1500, epochs=30).fit(X, y)
    assert model.pack(tmp_path / "m.emill") == model.n_bytes_ == (tmp_path / "m.emill").stat().st_size <= 1500
    np.testing.assert_array_equal(load(tmp_path / "m.emill").predict(Xt), model.predict(Xt))
    np.testing.assert_array_equal(load(tmp_path / "m.emill").predict_proba(Xt), model.predict_proba(Xt))
    peer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(X, y)
    assert model.score(Xt, yt) > peer.score(Xt, yt) - 0.03


def test_a_regression_is_about_as_good_as_a_line(tmp_path: Path) -> None:
    X, y = load_diabetes(return_X_y=True)
    X, Xt, y, yt = train_test_split(X, y, random_state=0)
    model = CompactRegressor(max_bytes=600, hidden=()).fit(X, y)
    assert model.score(Xt, yt) > 0.3
    assert model.pack(tmp_path / "m.emill") <= 600
    np.testing.assert_array_equal(load(tmp_path / "m.emill").predict(Xt), model.predict(Xt))


def test_labels_of_any_kind_come_back(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "<b>virginica</b>"])[y]
    for labels in (names, y.to_numpy() + 5, y.to_numpy() == 1, y.to_numpy().astype(float)):
        model = CompactClassifier(epochs=40).fit(X, labels)
        assert model.predict(X).dtype == labels.dtype
        assert model.score(X, labels) > (0.9 if len(set(labels.tolist())) == 3 else 0.6)
    model = CompactClassifier(epochs=40).fit(X.rename(columns={X.columns[0]: "y"}), names)
    assert model.score(X.rename(columns={X.columns[0]: "y"}), names) > 0.9
    model = CompactClassifier(epochs=40).fit(X, names)
    model.pack(tmp_path / "m.emill")
    net = load(tmp_path / "m.emill")
    assert list(net.front.names) == list(X.columns)
    assert net.predict(X.to_numpy()).tolist() == model.predict(X).tolist()


def test_one_class_and_labels_with_nulls_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(DataError, match="two classes"):
        CompactClassifier().fit(X, np.zeros(30, int))
    for null in (None, np.nan, pd.NA):
        y = np.array(["a", "b"] * 15, object)
        y[7] = null
        with pytest.raises(DataError, match=r"row 7 of y"):
            CompactClassifier().fit(X, y)
    with pytest.raises(DataError, match="row 2 of y"):
        CompactRegressor().fit(X, np.where(np.arange(30) == 2, np.nan, 1.0))


def test_missing_values_are_refused_or_filled_and_the_file_knows_how(tmp_path: Path) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    holes = X.copy()
    holes[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        CompactClassifier().fit(holes, y)
    model = CompactClassifier(missing="mean", epochs=40).fit(holes, y)
    assert model.score(holes, y) > 0.9
    model.pack(tmp_path / "m.emill")
    np.testing.assert_array_equal(load(tmp_path / "m.emill").predict(holes), model.predict(holes))
    with pytest.raises(ValueError, match="NaN"):
        CompactClassifier(epochs=2).fit(X, y).predict(holes)


def test_rare_classes_count_when_they_are_to() -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(2000) % 40 == 0).astype(int)
    X = rng.normal(size=(2000, 4)) + 1.2 * y[:, None]
    plain, balanced = (CompactClassifier(hidden=(), epochs=30, balanced=b).fit(X, y) for b in (False, True))
    scores = [balanced_accuracy_score(y, model.predict(X)) for model in (plain, balanced)]
    assert scores[1] > scores[0] + 0.1
    assert scores[1] > 0.8


def test_fewer_rows_than_columns() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 60))
    X[:, 3] += 4 * y
    model = CompactClassifier(hidden=(), epochs=60).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.n_bytes_ <= 5000


def test_a_limit_that_cannot_be_kept_warns_and_gives_the_smallest(digits: Any) -> None:
    X, y, _, _ = digits
    with pytest.warns(ConvergenceWarning, match="at most 40 bytes"):
        model = CompactClassifier(max_bytes=40, trials=2, epochs=1).fit(X, y)
    assert not model.search_.met
    assert model.n_bytes_ == min(trial.bytes for trial in model.search_.trials)


def test_a_loss_that_is_no_number_is_a_clear_error(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _, _ = digits
    from eigenmill.compress import Model, train

    with pytest.raises(ConfigError, match="finite loss"):
        train(Model.mlp(None, [8]), (X, y), optimizer={"name": "sgd", "lr": 1e30}, epochs=2, schedule="constant")


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        CompactClassifier(epochs=5, random_state=seed).fit(X, y).pack(tmp_path / name)
    files = [(tmp_path / name).read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]
    with pytest.raises(ConfigError, match="random_state"):
        CompactClassifier(random_state=None).fit(X, y)  # type: ignore[arg-type]


def test_pipelines_searches_and_clones() -> None:
    X, y = load_iris(return_X_y=True)
    grid = GridSearchCV(CompactClassifier(epochs=10, trials=1), {"max_bytes": [400, 3000]}, cv=2).fit(X, y)
    assert grid.best_score_ > 0.6
    assert clone(CompactClassifier(missing="mean", balanced=True)).get_params()["balanced"] is True
    assert cross_val_score(make_pipeline(StandardScaler(), CompactRegressor(epochs=40)), X, y, cv=3).shape == (3,)


def test_importing_compress_loads_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import eigenmill.compress, sys, json; print(json.dumps([m for m in ('torch', 'sklearn') if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


def test_text_and_categories_of_a_data_frame(tmp_path: Path) -> None:
    rows = late(1500)
    frame = rows.drop_columns(["late", "when"]).to_pandas()
    y = rows["late"].to_numpy()
    plain = CompactClassifier(epochs=15, trials=1, missing="mean", categories=["city"]).fit(frame, y)
    assert plain.score(frame, y) > 0.68
    assert plain.n_features_in_ == 2
    found = CompactClassifier(epochs=15, trials=1, missing="mean").fit(
        frame.assign(city=frame.city.astype("category")), y
    )
    assert found.categories_ == ("city",)
    np.testing.assert_array_equal(found.predict_proba(frame), plain.predict_proba(frame))
    plain.pack(tmp_path / "m.emill")
    np.testing.assert_array_equal(load(tmp_path / "m.emill").predict_proba(frame), plain.predict_proba(frame))
    only = CompactRegressor(epochs=15, trials=1).fit(frame[["city"]], (frame.city == "LAX") * 9.0)
    assert only.score(frame[["city"]], (frame.city == "LAX") * 9.0) > 0.5
    with pytest.raises(SchemaError, match="expected a DataFrame with the columns"):
        CompactClassifier(categories=["town"]).fit(frame, y)


def test_a_month_to_come_does_no_harm_to_a_classifier_that_forgets() -> None:
    table, new = months(0).to_pandas(), months(1, new=True).to_pandas()
    options = {"epochs": 20, "trials": 1, "categories": ["month(date)", "side"]}
    found = []
    for share in (0.0, 0.2):
        model = CompactClassifier(1000, forget=share, **options).fit(table.drop(columns="label"), table["label"])
        assert model.score(table.drop(columns="label"), table["label"]) > 0.99
        found.append(log_loss(new["label"], model.predict_proba(new.drop(columns="label"))))
    # The entropy of what ``side`` tells is 0.325.
    assert found[1] < 0.36 < 0.4 < found[0]
