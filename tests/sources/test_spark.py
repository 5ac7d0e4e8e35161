"""Files that a real Spark wrote: ML vectors, page checksums, hive partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.reduce.dataset import Dataset
from tests.sources import spark_vectors

pytestmark = pytest.mark.filterwarnings("default")  # those of pyspark


@pytest.fixture(scope="module")
def written(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("spark")
    spark_vectors.write(spark, str(directory))
    return directory


@pytest.mark.parametrize("kind", ["dense", "sparse", "mixed"])
def test_vectors_as_spark_writes_them(written: Path, kind: str, whole: Any) -> None:
    rows = spark_vectors.KINDS[kind]
    expected = np.array(
        [
            [np.nan] * spark_vectors.WIDTH
            if row is None
            else [row.get(j, 0.0) for j in range(spark_vectors.WIDTH)]
            if isinstance(row, dict)
            else row
            for row in rows
        ]
    )
    data = Dataset.from_parquet(written / kind, vector="features", carry="id")
    assert data.source.sparse == (kind != "dense")
    assert data.n_features == spark_vectors.WIDTH
    for height in (2, 1000):
        read = whole(data, height=height)
        np.testing.assert_array_equal(read.X, expected)
        assert read.carried["id"].to_pylist() == list(range(len(rows)))


def test_dense_and_sparse_files_together(written: Path, whole: Any) -> None:
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
