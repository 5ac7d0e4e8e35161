"""Files that a real Spark wrote: ML vectors, page checksums, hive partitions."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from reduce.dataset import Dataset

SCRIPT = Path(__file__).with_name("spark_vectors.py")
JAVA = shutil.which("java") or os.environ.get("JAVA_HOME")
pytestmark = pytest.mark.skipif(not JAVA, reason="Spark needs Java")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spark_vectors", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("spark")
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    subprocess.run(
        [sys.executable, str(SCRIPT), str(directory)], check=True, env=env, capture_output=True, timeout=300
    )
    return directory


@pytest.mark.parametrize("kind", ["dense", "sparse", "mixed"])
def test_vectors_as_spark_writes_them(written: Path, script: ModuleType, kind: str, whole: Any) -> None:
    rows = script.KINDS[kind]
    expected = np.array(
        [
            [np.nan] * script.WIDTH
            if row is None
            else [row.get(j, 0.0) for j in range(script.WIDTH)]
            if isinstance(row, dict)
            else row
            for row in rows
        ]
    )
    data = Dataset.from_parquet(written / kind, vector="features", carry="id")
    assert data.source.sparse == (kind != "dense")
    assert data.n_features == script.WIDTH
    for height in (2, 1000):
        read = whole(data, height=height)
        np.testing.assert_array_equal(read.X, expected)
        assert read.carried["id"].to_pylist() == list(range(len(rows)))


def test_dense_and_sparse_files_together(written: Path, script: ModuleType, whole: Any) -> None:
    data = Dataset.from_parquet([written / "dense", written / "sparse"], vector="features", carry="id")
    assert data.source.sparse
    np.testing.assert_array_equal(
        whole(data).X, whole(Dataset.from_parquet(written / "mixed", vector="features", carry="id")).X
    )


def test_a_spark_directory_with_partitions(written: Path, whole: Any) -> None:
    data = Dataset.from_parquet(written / "scalars", carry=["even"], filters=[("even", "=", "true")])
    read = whole(data)
    np.testing.assert_array_equal(sorted(read.X.tolist()), [[i, i] for i in range(0, 10, 2)])
    assert set(read.carried["even"].to_pylist()) == {"true"}
