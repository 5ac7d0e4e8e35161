"""Filters: rows, pruned row groups, and the columns that an expression needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.sources.filters import row_filter

FILTERS = [
    pc.field("k") >= 37,
    (pc.field("k") > 10) & (pc.field("s") == "odd"),
    pc.field("k").isin([3, 77]),
    pc.field("x").is_null(),
    pc.field("x") > 0,  # null rows are dropped
    ~(pc.field("x") > 0),
    pc.field("k") < 0,
    pc.field("k") >= 0,
    pc.scalar(True),
    pc.field("nested", "z") == 4,
    pc.field("day") == 2,
    (pc.field("day") == 1) | (pc.field("k") == 55),
    [("k", ">", 90), ("s", "=", "odd")],
    [[("k", "<", 5)], [("k", ">", 95), ("day", "=", 2)]],
    [("s", "in", ["odd"]), ("k", "not in", [1, 2, 3])],
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    n = 50
    for day in (1, 2):
        k = np.arange(n) + n * (day - 1)
        table = pa.table(
            {
                "k": k,
                "s": ["odd" if i % 2 else "even" for i in k],
                "x": pa.array([None if i % 7 == 0 else float(i % 3) - 1 for i in k]),
                "nested": [{"z": int(i) % 5} for i in k],
                "v": np.arange(n) * 1.0,
            }
        )
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(table, tmp_path / f"day={day}" / "t.parquet", row_group_size=10)
    return tmp_path


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_rows_are_those_that_pyarrow_keeps(files: Path, filters: Any, whole: Any) -> None:
    expected = pq.read_table(files, filters=filters, use_threads=False)
    data = Dataset.from_parquet(files, columns=["v", "k"], carry=["k", "day", "s"], filters=filters)
    for height in (4, 1000):
        read = whole(data, height=height)
        np.testing.assert_array_equal(read.X[:, 1], expected["k"])
        np.testing.assert_array_equal(read.X[:, 0], expected["v"])
        assert read.carried["s"].to_pylist() == expected["s"].to_pylist()
        assert read.carried["day"].to_pylist() == [1 if k < 50 else 2 for k in expected["k"].to_pylist()]
    assert data.n_rows == 100  # a filter does not move fragments or leaves
    np.testing.assert_array_equal(whole(data, carry=False).X[:, 1], expected["k"])


def test_pruned_row_groups_are_not_read(files: Path, monkeypatch: pytest.MonkeyPatch, whole: Any) -> None:
    read: list[list[int]] = []
    iter_batches = pq.ParquetFile.iter_batches

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["row_groups"])
        return iter_batches(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    whole(Dataset.from_parquet(files, columns=["v"], filters=(pc.field("k") >= 35) & (pc.field("k") < 75)))
    assert read == [[3, 4], [0, 1, 2]]
    read.clear()
    whole(Dataset.from_parquet(files, columns=["v"], filters=[("day", "=", 2)]))
    assert read == [[0, 1, 2, 3, 4]]


def test_errors_after_a_filter_count_rows_of_the_file(tmp_path: Path, whole: Any) -> None:
    rows = [[1.0, 2.0]] * 17 + [[1.0]] + [[1.0, 2.0]] * 2
    pq.write_table(pa.table({"v": rows, "k": range(20)}), tmp_path / "t.parquet", row_group_size=10)
    data = Dataset.from_parquet(tmp_path, vector="v", filters=[("k", ">=", 3), ("k", "not in", [11, 12])])
    for height in (1, 4, 1000):
        with pytest.raises(SchemaError, match=r"found 1 in .*t\.parquet, row group 1, row 7;"):
            whole(data, height=height)
    np.testing.assert_array_equal(
        whole(Dataset.from_parquet(tmp_path, vector="v", filters=[("k", "<", 2)])).X, [[1, 2]] * 2
    )


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (pc.field("kk") > 1, "kk"),
        ([("kk", ">", 1)], "kk"),
        (pc.field("k") == "x", "check names and types"),
        (pc.field("k"), "check names and types"),
        (pc.field(0) > 1, "by number"),
        ([("k", "~", 1)], "tuples"),
        ("k > 1", "tuples"),
        (7, "tuples"),
    ],
    ids=str,
)
def test_bad_filters_are_config_errors(files: Path, filters: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Dataset.from_parquet(files, columns=["v"], filters=filters)


def test_the_columns_of_an_expression_are_found_among_many() -> None:
    schema = pa.schema([(f"c{j}", pa.int64()) for j in range(500)])
    expression = (pc.field("c3") > 1) & (pc.field("c3") < pc.field("c499")) | pc.field("c250").is_null()
    found = row_filter(expression, schema)
    assert found is not None
    assert sorted(found.columns) == ["c250", "c3", "c499"]
    assert row_filter(pc.scalar(True), schema).columns == ()  # type: ignore[union-attr]


def test_columns_that_only_a_filter_uses_need_no_mention(files: Path) -> None:
    data = Dataset.from_parquet(files, carry=["nested"], filters=[("s", "=", "odd")])
    assert list(data.feature_names) == ["k", "x", "v"]


def test_a_pyarrow_dataset_stands_for_its_files(files: Path, whole: Any) -> None:
    dataset = ds.dataset(files, partitioning="hive")
    data = Dataset.from_pyarrow(dataset, columns=["k"], carry="day", filters=pc.field("k") > 97)
    assert whole(data).X.ravel().tolist() == [98, 99]
    assert whole(data).carried.to_pydict() == {"day": [2, 2]}
    assert not data.source.listed
    with pytest.raises(ConfigError, match="filters="):
        Dataset.from_pyarrow(dataset.filter(pc.field("k") > 97), columns=["k"])
    with pytest.raises(ConfigError, match="dataset of Parquet files, found InMemoryDataset"):
        Dataset.from_pyarrow(ds.dataset(pa.table({"a": [1.0]})))


def test_partition_values_of_a_dataset_need_not_be_in_its_paths(tmp_path: Path, whole: Any) -> None:
    fragments = []
    for i in (1, 2):
        pq.write_table(pa.table({"a": [float(i)]}), tmp_path / f"{i}.parquet")
        fragments.append(
            ds.ParquetFileFormat().make_fragment(
                f"{tmp_path}/{i}.parquet",
                pa.fs.LocalFileSystem(),
                partition_expression=pc.field("day") == f"d{i}",
            )
        )
    schema = pa.schema([("a", pa.float64()), ("day", pa.string())])
    dataset = ds.FileSystemDataset(fragments, schema, ds.ParquetFileFormat(), pa.fs.LocalFileSystem())
    data = Dataset.from_pyarrow(dataset, carry="day", filters=pc.field("day") == "d2")
    assert whole(data).carried.to_pydict() == {"day": ["d2"]}
