"""Small digits (1,797 of 8 x 8, inside scikit-learn) as Parquet and as arrays, and nets trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("torch")

from eigenmill.compress import Model, Samples, gather, prune, quantize, train
from eigenmill.reduce import Dataset
from tests.support.tables import vectors

OPTIMIZER = {"name": "momentum", "lr": 0.05, "momentum": 0.9}
SPLIT = 1400


def write(folder: Path, X: Any, y: Any, group: int = 300) -> Path:
    """Parquet of ``id``, ``label`` and ``pixels``."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = vectors(X)
    table = pa.table({"id": np.arange(len(X)), "label": y, "pixels": pixels})
    pq.write_table(table, folder / "part-0.parquet", row_group_size=group)
    return folder


def read(folder: Path, **options: Any) -> Dataset:
    return Dataset.from_parquet(folder, vector="pixels", carry=["id", "label"], **options)


@pytest.fixture(scope="session")
def digits() -> tuple[Any, Any, Any, Any]:
    """X, y to train on and X, y to test on."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.data))
    X, y = found.data[order].astype(np.uint8), found.target[order]
    return X[:SPLIT], y[:SPLIT], X[SPLIT:], y[SPLIT:]


@pytest.fixture(scope="session")
def folder(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("digits") / "train", *digits[:2])


@pytest.fixture(scope="session")
def samples(folder: Path) -> Samples:
    return gather(Model.mlp(None, [32], 10), read(folder), validation={"by": "id"})


@pytest.fixture(scope="session")
def trained(samples: Samples) -> Model:
    return train(Model.mlp(None, [32], 10), samples, optimizer=OPTIMIZER, epochs=15)


@pytest.fixture(scope="session")
def pruned(trained: Model, samples: Samples) -> Model:
    return train(prune(trained, 0.8), samples, optimizer=OPTIMIZER, epochs=8)


@pytest.fixture(scope="session")
def small(pruned: Model, samples: Samples) -> Model:
    """Pruned and of 8 bits."""
    return quantize(pruned, samples, bits=8)


def error(model: Any, X: Any, y: Any) -> float:
    return float(np.mean(model.predict(X) != y))
