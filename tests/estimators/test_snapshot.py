"""A snapshot says all that there is to say of a fitted model, and gives the model again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from eigenmill.reduce import PCA, Dataset, StandardScaler, TruncatedSVD, load
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.passes.base import to_arrays

X = np.random.default_rng(3).normal(size=(60, 7)) @ np.diag([9.0, 7, 5, 3, 1, 0.5, 0.1]) + 4
MODELS: dict[str, Callable[[], Any]] = {
    "pca": lambda: PCA(3, scale=True, whiten=True).fit(X),
    "named": lambda: PCA(0.9).fit(Dataset.from_numpy(X, feature_names="abcdefg", missing="mean")),
    "iterated": lambda: PCA(2, solver="sketch", random_state=4).fit(X),
    "svd": lambda: TruncatedSVD(3).fit(sparse.csr_array(np.where(X > 6, X, 0))),
    "scaler": lambda: StandardScaler().fit(X),
    "nothing": lambda: StandardScaler(with_mean=False, with_std=False).fit(X),
}
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def plain(found: Snapshot) -> dict[str, Any]:
    """Everything in it that the file has too, but for the digest and whether there is a state."""
    arrays = {**found.arrays, **to_arrays(found.quality, "quality."), **to_arrays(found.cleaning, "cleaning.")}
    told = [found.kind, found.parameters, found.values, list(found.names), found.layout, found.dtype]
    return {"told": [*told, found.fingerprint, found.versions], **{name: a.tobytes() for name, a in arrays.items()}}


@EACH
def test_the_estimator_comes_back_and_is_saved_to_the_same_bytes(model: Callable[[], Any], tmp_path: Path) -> None:
    fitted = model()
    again = type(fitted).from_snapshot(fitted.snapshot())
    assert plain(again.snapshot()) == plain(fitted.snapshot())
    assert fitted.save(tmp_path / "a") == again.save(tmp_path / "b")
    loaded = load(tmp_path / "a")
    assert plain(loaded.snapshot()) == plain(fitted.snapshot())
    assert again.as_transform().digest == loaded.as_transform().digest == fitted.as_transform().digest


@EACH
def test_what_it_says_cannot_be_changed_and_is_the_model_s_own(model: Callable[[], Any]) -> None:
    fitted = model()
    found = fitted.snapshot()
    for name, value in found.arrays.items():
        assert not value.flags.writeable
        assert np.shares_memory(value, getattr(fitted, name))
        assert not np.shares_memory(value, getattr(type(fitted).from_snapshot(found), name))
    for name, held in found.values.items():
        assert getattr(fitted, name) == held
        assert not isinstance(held, np.generic)


def test_digest_and_state_are_those_of_this_fit(tmp_path: Path) -> None:
    model = PCA(2).fit(X, keep_state=True)
    assert (model.snapshot().digest, model.snapshot().has_state) == (None, True)
    digest = model.save(tmp_path / "m", state=True)
    loaded = load(tmp_path / "m")
    assert (loaded.snapshot().digest, loaded.snapshot().has_state) == (digest, True)
    loaded.partial_fit(X)
    assert (loaded.snapshot().digest, loaded.snapshot().fingerprint["rows"]) == (None, 120)
    # A fit that keeps no state has none, though the model as it was saved had one.
    again = load(tmp_path / "m").fit(X, keep_state=False)
    assert (again.snapshot().has_state, again.state()) == (False, None)


def test_as_transform_is_what_transform_applies() -> None:
    model, data = PCA(2, whiten=True).fit(X), Dataset.from_numpy(X.astype(np.float32))
    for each in (data, Dataset.from_numpy(X)):
        (step,) = model.transform(each).transforms
        assert step.digest == model.as_transform(each.dtype).digest
