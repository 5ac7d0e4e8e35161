"""Loading a model whose JSON was changed and signed anew: an ArtifactError or a model, never a crash, never code."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.reduce import PCA, ArtifactError, StandardScaler, TruncatedSVD, load
from eigenmill.reduce.storage import plain

STRANGE: list[Any] = [
    *(None, True, -1, 0, 3, 10**12, 1e308, "", "x", "__import__('os')", "../x", "float16", "O", "PCA", [], [[]], {}),
    *({"prefix": "p", "count": 10**12}, {"prefix": 1, "count": "2"}, ["a", "b"], [1, 2, 3, 4, 5], "numpy.float64"),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within nested dicts and lists."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = new
    return copy


def sign(model: dict[str, Any]) -> dict[str, Any]:
    model.pop("digest", None)
    return {**model, "digest": plain.digest(model)}


# scikit-learn's word about a model that is made to know names.
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("make", [lambda: PCA(2, scale=True), lambda: TruncatedSVD(2), lambda: StandardScaler()])
def test_signed_changes_of_the_json(make: Any, space: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 5))
    make().fit(X).save(space / "model", state=True)
    original = json.loads((space / "model/model.json").read_text())
    assert sign(dict(original)) == original, "the test signs as the writer does"
    rng = random.Random(0)
    refused = 0
    for path in places(original):
        for new in rng.sample(STRANGE, 2):
            shutil.rmtree(space / "copy", ignore_errors=True)
            shutil.copytree(space / "model", space / "copy")
            (space / "copy/model.json").write_text(json.dumps(sign(changed(original, path, new))))
            try:
                model = load(space / "copy")
            except ArtifactError:
                refused += 1
                continue
            try:
                assert model.transform(X).shape[0] == 40
                model.partial_fit(X)
            except (ValueError, TypeError):
                pass  # a wrong parameter or name is an error of the call
    assert refused > len(places(original)) // 2
