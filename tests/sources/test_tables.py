"""Tables in memory, and everything that ``as_dataset`` takes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from eigenmill.reduce.dataset import Dataset, as_dataset
from eigenmill.reduce.errors import ConfigError, SchemaError
from tests.support.formats import other

FRAME = pd.DataFrame(
    {"x": [1.0, np.nan, 3.0], "n": [1, 2, 3], "b": [True, False, True], "s": ["u", "v", None]},
    index=[7, 8, 9],
)


def test_pandas(whole: Any) -> None:
    data = Dataset.from_pandas(FRAME, carry="s", weights="n", missing="mean")
    assert list(data.feature_names) == ["x", "b"]
    assert data.cleaning.missing == "mean"
    read = whole(data)
    np.testing.assert_array_equal(read.X, [[1, 1], [np.nan, 0], [3, 1]])
    np.testing.assert_array_equal(read.weights, [1, 2, 3])
    assert read.carried.to_pydict() == {"s": ["u", "v", None]}


def test_pandas_extension_and_categorical_types(whole: Any) -> None:
    frame = pd.DataFrame(
        {
            "i": pd.array([1, None, 3], dtype="Int16"),
            "f": pd.array([1.5, None, 3], dtype="Float32"),
            "b": pd.array([True, None, False], dtype="boolean"),
            "c": pd.Categorical([4, 5, 4]),
        }
    )
    data = Dataset.from_pandas(frame, columns=["i", "f", "b", "c"])
    nan = np.nan
    np.testing.assert_array_equal(whole(data).X, [[1, 1.5, 1, 4], [nan, nan, nan, 5], [3, 3, 0, 4]])


def test_pandas_objects_without_a_type() -> None:
    with pytest.raises(SchemaError, match="Arrow cannot hold"):
        Dataset.from_pandas(pd.DataFrame({"x": [1, "a", object()]}))


def test_pandas_lists(whole: Any) -> None:
    data = Dataset.from_pandas(pd.DataFrame({"v": [np.array([1.0, 2.0]), np.array([3.0, 4.0])]}))
    np.testing.assert_array_equal(whole(data).X, [[1, 2], [3, 4]])


def test_as_dataset_takes_everything(tmp_path: Path, whole: Any) -> None:
    table = arrow_input = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert arrow_input is not None  # DuckDB finds it by its name
    pq.write_table(table, tmp_path / "t.parquet")
    X = np.array([[1.0, 3.0], [2.0, 4.0]])
    inputs: list[Any] = [
        X,
        sparse.csr_matrix(X),
        sparse.coo_array(X),
        table,
        table.to_batches()[0],
        table.to_pandas(),
        ds.dataset(tmp_path),
        str(tmp_path),
        tmp_path,
        [tmp_path / "t.parquet"],
        duckdb.sql("select * from arrow_input"),
        Dataset.from_numpy(X),
    ]
    for x in inputs:
        np.testing.assert_array_equal(whole(as_dataset(x)).X, X)
    data = as_dataset(X)
    assert as_dataset(data) is data


@pytest.mark.parametrize("x", [None, 7, {"a": [1]}, [[1.0, 2.0]], object()])
def test_as_dataset_refuses_the_rest(x: Any) -> None:
    with pytest.raises(ConfigError, match=f"found {type(x).__name__}"):
        as_dataset(x)
    with pytest.raises(ConfigError, match="expected an Arrow table"):
        Dataset.from_arrow(x)


def test_the_digest_is_of_the_content() -> None:
    few = other(digest_rows=4)
    table = pa.table(
        {"a": np.arange(10.0), "s": pa.array([str(i) for i in range(10)]).dictionary_encode(), "z": [1] * 10}
    )

    def digest(table: pa.Table, **options: Any) -> str:
        return Dataset.from_arrow(table, format=few, **{"columns": "a", "carry": "s", **options}).source.digest

    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    padded = pa.concat_tables([table.slice(5, 1), table]).combine_chunks().slice(1)
    assert digest(table) == digest(chunked) == digest(padded) == digest(table.drop_columns("z"))
    changed = table.set_column(0, "a", pa.array([*range(9), 10.0]))
    assert len({digest(table), digest(changed), digest(table, columns="z"), digest(table, carry=())}) == 4


def test_slices_across_chunks_and_pickling(whole: Any) -> None:
    table = pa.concat_tables([pa.table({"a": [float(i)], "v": [[i, i]]}) for i in range(10)])
    for options in ({"columns": "a"}, {"vector": "v"}):
        data = pickle.loads(pickle.dumps(Dataset.from_arrow(table, **options)))
        read = whole(data, height=4)
        assert read.blocks == [4, 4, 2]
        np.testing.assert_array_equal(read.X[:, 0], np.arange(10))


def test_empty_tables(whole: Any) -> None:
    data = Dataset.from_arrow(pa.table({"a": pa.array([], pa.float32())}))
    assert data.fragments == ()
    assert whole(data).X.shape == (0, 1)
