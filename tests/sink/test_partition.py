from __future__ import annotations

import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.output.sink import Sink
from tests.sink.made import MadeSource, Scaled, made, run
from tests.support.formats import other
from tests.support.trees import tree


def keyed(values, **source):
    X = np.random.default_rng(0).standard_normal((len(values), 3)).astype(np.float32)
    table = pa.table({"row": np.arange(len(values)), "key": values})
    return Dataset(MadeSource(X, table, **source))


@pytest.mark.parametrize("layout", ["list", "columns"])
def test_each_value_has_its_directory(tmp_path, layout):
    values = ["b", None, "a b/c=é%", "c", "b"] * 100
    data = keyed(values)
    manifest = run(Sink(tmp_path / "out", partition_by="key", part_bytes=2400, layout=layout), data)
    directories = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert directories == sorted(["key=b", "key=c", "key=__HIVE_DEFAULT_PARTITION__", "key=a%20b%2Fc%3Dé%25"])
    assert manifest.rows == 500
    assert len(manifest.parts) == 3
    for file in (tmp_path / "out").rglob("*.parquet"):
        assert "key" not in pq.read_schema(file).names
    expected = dict(enumerate(values))
    table = ds.dataset(tmp_path / "out", partitioning="hive").to_table()
    assert dict(zip(table["row"].to_pylist(), table["key"].to_pylist(), strict=True)) == expected
    if layout == "list":
        np.testing.assert_array_equal(np.array(table["features"].to_pylist())[np.argsort(table["row"])], data.source.X)
    rows = duckdb.sql(f"select row, key from read_parquet('{tmp_path}/out/**/*.parquet', hive_partitioning=true)")
    assert dict(rows.fetchall()) == expected
    for directory in directories:  # rows keep their order
        files = sorted((tmp_path / "out" / directory).glob("*.parquet"))
        order = np.concatenate([pq.ParquetFile(f).read(["row"])["row"].to_numpy() for f in files])
        assert (np.diff(order) > 0).all()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([3, -1]), ["-1", "3"]),
        (pa.array([True, False]), ["false", "true"]),
        (pa.array([datetime.date(2024, 1, 2), None]), ["2024-01-02", "__HIVE_DEFAULT_PARTITION__"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([datetime.datetime(2024, 1, 2, 3)] * 2, pa.timestamp("s")), ["2024-01-02%2003%3A00%3A00"]),
    ],
)
def test_types_of_values(tmp_path, values, names):
    run(Sink(tmp_path / "out", partition_by="key"), keyed(values))
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == [f"key={n}" for n in names]


def test_large_parts_are_written_in_rounds(tmp_path):
    values = [f"v{i % 3}" for i in range(2000)]
    run(Sink(tmp_path / "one", partition_by="key"), keyed(values, step=2000))
    small = other(partition_bytes=20_000)
    manifest = run(Sink(tmp_path / "out", partition_by="key"), keyed(values, step=2000, format=small))
    assert {"key=v0/part-00000.parquet", "key=v2/part-00000-1.parquet"} <= {f.path for f in manifest.parts[0].files}
    one, many = (pq.read_table(tmp_path / name).sort_by("row") for name in ("one", "out"))
    assert one.equals(many)
    assert run(Sink(tmp_path / "out", partition_by="key"), keyed(values, step=2000, format=small)) == manifest


def test_the_same_bytes_and_dropped_rows(tmp_path):
    for name in ("a", "b"):
        manifest = run(Sink(tmp_path / name, partition_by="kind", part_bytes=3000), made(500).then(Scaled(5, drop=2)))
    assert manifest.rows == 245
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_too_many_values(tmp_path):
    with pytest.raises(ConfigError, match="at most 4096 values of 'key' within a part, found 4097 by"):
        run(Sink(tmp_path / "out", partition_by="key"), keyed([str(i) for i in range(4097)], step=5000))
    assert not list((tmp_path / "out").rglob("*.parquet*"))


@pytest.mark.parametrize("name", ["tags", "none", "features"])
def test_columns_that_cannot_partition(tmp_path, name):
    with pytest.raises(ConfigError, match="partition_by"):
        Sink(tmp_path / "out", partition_by=name).open(made(50))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"a" * 16, b"b" * 16], pa.binary(16)).cast(pa.uuid()),
        pa.array([b"a", b"b"], pa.binary(1)),
        pa.array([b"a", b"b"]),
        pa.array([[1], [2]]),
    ],
)
def test_case_d06_types_that_are_no_keys(tmp_path, values):
    with pytest.raises(ConfigError, match="'key' for partition_by to hold text, numbers, dates or times, found "):
        Sink(tmp_path / "out", partition_by="key").open(keyed(values))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["", "__HIVE_DEFAULT_PARTITION__"])
def test_case_d06_text_that_would_come_back_as_null(tmp_path, lost):
    data = keyed([None, "a", lost])
    with pytest.raises(DataError, match=rf"comes back as it was, found '{lost}' in the rows from"):
        run(Sink(tmp_path / "out", partition_by="key"), data)
    assert not list((tmp_path / "out").rglob("*.parquet*"))


@pytest.mark.parametrize("name", ["_key", ".key", "a/b", "a=b"])
def test_names_that_are_no_directories(tmp_path, name):
    data = Dataset(MadeSource(np.ones((2, 2)), pa.table({name: ["x", "y"]})))
    with pytest.raises(ConfigError, match="can be a directory"):
        Sink(tmp_path / "out", partition_by=name).open(data)
