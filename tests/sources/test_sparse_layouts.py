"""Spark ML vectors and pairs of lists, for Arrow tables and for Parquet files."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import DataError, SchemaError
from eigenmill.reduce.sources.base import NumberedNames
from eigenmill.reduce.sources.layouts import SPARK_VECTOR
from tests.sources.forms import both, first_block, pair, spark_dense, spark_sparse

NAN = math.nan

# Spark ML vectors


def test_dense_spark_vectors_are_a_dense_matrix(tmp_path: Path, whole: Any) -> None:
    rows = [spark_dense([1.0, 2.0, 3.0]), None, spark_dense([4.0, 5.0, 6.0]), spark_dense([7.0, 8.0, 9.0])]
    table = pa.table({"f": pa.array(rows, SPARK_VECTOR)})
    for data in both(table, tmp_path):
        assert not data.source.sparse
        np.testing.assert_array_equal(whole(data).X, [[1, 2, 3], [NAN] * 3, [4, 5, 6], [7, 8, 9]])
    pq.write_table(table.slice(2), tmp_path / "t.parquet")
    assert isinstance(first_block(Dataset.from_parquet(tmp_path / "t.parquet")).X, np.ndarray)


def test_sparse_and_mixed_spark_vectors_are_csr(tmp_path: Path, whole: Any) -> None:
    rows = [
        spark_sparse(4, {1: 2.0, 3: 0.0}),
        spark_dense([1.0, 2.0, 3.0, 4.0]),
        None,
        spark_sparse(4, {}),
        spark_dense([0.0, 0.0, 0.0, 5.0]),
        spark_sparse(4, {0: -1.0}),
    ]
    expected = [[0, 2, 0, 0], [1, 2, 3, 4], [NAN] * 4, [0] * 4, [0, 0, 0, 5], [-1, 0, 0, 0]]
    table = pa.table({"f": pa.array(rows, SPARK_VECTOR)})
    for data in both(table, tmp_path):
        assert data.source.sparse
        assert data.dtype == np.float64
        assert dict(data.source.describe()) == {"vector": "f", "n_features": 4}
        for height in (1, 4, 100):
            np.testing.assert_array_equal(whole(data, height=height).X, expected)
    X = first_block(Dataset.from_arrow(table)).X
    assert isinstance(X, sparse.csr_array)
    assert X.has_canonical_format
    assert X.nnz == 2 + 4 + 4 + 0 + 4 + 1  # explicit zeros stay


@pytest.mark.parametrize("statistics", [True, False, ["f.values.list.element"]], ids=["all", "none", "of_values"])
def test_without_statistics_spark_vectors_may_be_sparse(tmp_path: Path, whole: Any, statistics: Any) -> None:
    """Only the statistics of every row group can promise that all vectors are dense."""
    one, other = spark_dense([1.0, 2.0, 3.0]), spark_sparse(3, {1: 7.0})
    for rows, group in itertools.product(([one, one], [one, other], [other, one]), (1, 2)):
        table = pa.table({"f": pa.array(rows, SPARK_VECTOR)})
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=group, write_statistics=statistics)
        data = Dataset.from_parquet(tmp_path / "t.parquet")
        assert data.source.sparse == (statistics is not True or other in rows)
        np.testing.assert_array_equal(whole(data).X, [[1, 2, 3] if row is one else [0, 7, 0] for row in rows])


def test_bad_spark_vectors_name_the_row(whole: Any) -> None:
    def read(rows: list[Any]) -> Any:
        return whole(Dataset.from_arrow(pa.table({"f": pa.array(rows, SPARK_VECTOR)}), vector="f", n_features=3))

    with pytest.raises(SchemaError, match=r"expected 3 .* found 4 in <table>, row 1"):
        read([spark_sparse(3, {}), spark_sparse(4, {})])
    with pytest.raises(SchemaError, match=r"expected 3 .* found 2 in <table>, row 1"):
        read([spark_sparse(3, {}), spark_dense([1.0, 2.0])])
    with pytest.raises(DataError, match=r"type 0 \(sparse\) or 1 .* found type 7 in <table>, row 1"):
        read([spark_sparse(3, {}), {"type": 7, "size": 3, "indices": [], "values": []}])
    with pytest.raises(DataError, match=r"from 0 to 2 .* found 3 in <table>, row 0"):
        read([spark_sparse(3, {3: 1.0})])


# Sparse pairs


def test_sparse_pairs_are_csr(tmp_path: Path, whole: Any) -> None:
    table = pair([[3, 0], None, [], [2, 2, 1], [0], [4]], [[1, 2], None, [], [1, 2, 3], [0], [None]])
    expected = [[2, 0, 0, 1, 0], [NAN] * 5, [0] * 5, [0, 3, 3, 0, 0], [0] * 5, [0, 0, 0, 0, NAN]]
    for data in both(table, tmp_path, sparse=("i", "x", 5)):
        assert data.source.sparse
        assert data.dtype == np.float32
        assert data.feature_names == NumberedNames("x_", 5)
        assert dict(data.source.describe()) == {"sparse": ["i", "x"], "n_features": 5}
        for height in (1, 2, 100):
            np.testing.assert_array_equal(whole(data, height=height).X, expected)
    X = first_block(Dataset.from_arrow(table, sparse=("i", "x"), n_features=5)).X
    assert X.has_canonical_format
    assert X.dtype == np.float32
    assert X.nnz == 2 + 5 + 0 + 2 + 1 + 1


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.uint64()])
def test_any_integer_is_an_index(kind: pa.DataType, whole: Any) -> None:
    data = Dataset.from_arrow(pair([[1], [0, 2]], [[5], [6, 7]], kind), sparse=("i", "x", 3))
    np.testing.assert_array_equal(whole(data).X, [[0, 5, 0], [6, 0, 7]])


def test_a_very_wide_pair_does_not_cost_its_width() -> None:
    data = Dataset.from_arrow(pair([[2**40]], [[5]]), sparse=("i", "x", 2**41))
    X = first_block(data).X
    assert X.shape == (1, 2**41)
    assert X.indices.dtype == np.int64
    assert data.feature_names[2**40] == f"x_{2**40}"


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([[0], [0, 1]], [[1], [1]], r"as many indices as values .* found 2 and 1 in .*row group 0, row 1"),
        ([[0], None], [[1], [1]], r"found 0 and 1 in .*row group 0, row 1"),
        ([[0], [0]], [[1], None], r"found 1 and 0 in .*row group 0, row 1"),
        ([[0], []], [[1], None], r"found 0 and 0 in .*row group 0, row 1"),
        ([[0], [], [1, 3]], [[1], [], [1, 1]], r"from 0 to 2 .* found 3 in .*row group 0, row 2"),
        ([[0], [-1]], [[1], [1]], r"from 0 to 2 .* found -1 in .*row group 0, row 1"),
        ([[0], [None]], [[1], [1]], r"from 0 to 2 .* found None in .*row group 0, row 1"),
    ],
)
def test_bad_pairs_name_file_row_group_and_row(
    indices: list[Any], values: list[Any], message: str, tmp_path: Path, whole: Any
) -> None:
    pq.write_table(pair(indices, values), tmp_path / "t.parquet")
    data = Dataset.from_parquet(tmp_path / "t.parquet", sparse=("i", "x", 3))
    with pytest.raises(DataError, match=message):
        whole(data)


def test_pairs_must_be_lists_of_integers_and_of_numbers() -> None:
    with pytest.raises(SchemaError, match="lists of integers in column 'x'"):
        Dataset.from_arrow(pair([[0]], [[1]]), sparse=("x", "x", 3))
    with pytest.raises(SchemaError, match="lists of numbers in column 's'"):
        Dataset.from_arrow(pa.table({"i": [[1]], "s": [["a"]]}), sparse=("i", "s", 3))
