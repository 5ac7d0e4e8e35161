"""Every reader is asked itself; Spark, which takes its time, at three moments only."""

from __future__ import annotations

import os

import duckdb
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import files
from tests.sink.made import Scaled, carried_table, made, run, write_parts


def by_arrow(path):
    return ds.dataset(path, format="parquet").to_table(columns=["id"])["id"].to_pylist()


def by_table(path):
    return pq.read_table(path, columns=["id"])["id"].to_pylist()


def by_pandas(path):
    return pd.read_parquet(path, columns=["id"])["id"].tolist()


def by_duckdb(path):
    return [row[0] for row in duckdb.sql(f"select id from read_parquet('{path}/*.parquet')").fetchall()]


def by_dask(path):
    import dask.dataframe as dd

    frame = dd.read_parquet(path, columns=["id"])
    return frame.compute(scheduler="synchronous")["id"].tolist()


READERS = [by_arrow, by_table, by_pandas, by_duckdb, by_dask]


@pytest.mark.filterwarnings("default")  # those of other packages
@pytest.mark.parametrize("read", READERS)
def test_a_reader_sees_whole_parts_at_any_moment(tmp_path, monkeypatch, read):
    """Read before and after every change of the directory, while the writer stands still."""
    path = str(tmp_path / "out")
    data = made(400).then(Scaled(5))
    seen = []

    def look():
        if any(name.endswith(".parquet") and name[0] != "." for name in os.listdir(path)):
            ids = read(path)
            assert sorted(ids) == sorted(set(ids))
            seen.append(len(ids))

    replace, unlink = os.replace, os.unlink

    def watched(step):
        def change(*args, **kwargs):
            look()
            step(*args, **kwargs)
            look()

        return change

    sink = Sink(path, part_bytes=2000)
    job = sink.open(data)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", watched(replace))
        patch.setattr(files.os, "unlink", watched(unlink))
        write_parts(job, data)
        job.commit()
    look()
    assert seen == sorted(seen)
    assert set(seen) == {100, 200, 300, 400}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("read", READERS)
def test_a_reader_of_a_version(tmp_path, read):
    for n in (1, 2):
        run(Sink(tmp_path / "out", part_bytes=2000, overwrite=True), made(100 * n).then(Scaled(5)))
        assert sorted(read(str(tmp_path / "out"))) == list(range(100 * n))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("layout", ["list", "columns"])
def test_values_by_every_reader(tmp_path, layout):
    path = str(tmp_path / "out")
    data = made(100)
    run(Sink(path, layout=layout), data)
    X = data.source.X.tolist()
    columns = ["features"] if layout == "list" else [f"pc_{j:04d}" for j in range(1, 6)]
    frame = pd.read_parquet(path)
    rows = duckdb.sql(f"select {', '.join(columns)} from read_parquet('{path}/*.parquet')").fetchall()
    if layout == "list":
        assert [list(v) for v in frame["features"]] == X
        assert [list(row[0]) for row in rows] == X
    else:
        assert frame[columns].to_numpy().tolist() == X
        assert [list(row) for row in rows] == X


def by_spark(spark, path):
    return sorted((row.asDict() for row in spark.read.parquet(str(path)).collect()), key=lambda row: row["id"])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("partition_by", [None, "kind"])
def test_spark_reads_values(spark, tmp_path, partition_by):
    data = made(300)
    run(Sink(tmp_path / "out", partition_by=partition_by, part_bytes=2000), data)
    rows = by_spark(spark, tmp_path / "out")
    table = carried_table(300)
    for name in table.column_names:
        assert [row[name] for row in rows] == table[name].to_pylist()
    assert [row["features"] for row in rows] == data.source.X.tolist()
    schema = spark.read.parquet(str(tmp_path / "out")).schema
    assert schema["features"].dataType.simpleString() == "array<float>"


@pytest.mark.filterwarnings("default")
def test_spark_reads_the_whole_parts_of_an_unfinished_output(spark, tmp_path):
    data = made(400)
    job = Sink(tmp_path / "out", part_bytes=2000).open(data)
    write_parts(job, data, job.parts[:2])
    (tmp_path / "out" / ".part-00002.parquet.host-1-0123abcd.tmp").write_bytes(b"PAR1 of a dead attempt")
    assert {"_job.json", "_parts"} <= set(os.listdir(tmp_path / "out"))
    rows = by_spark(spark, tmp_path / "out")
    assert [row["id"] for row in rows] == list(range(200))
    assert [row["features"] for row in rows] == data.source.X[:200].tolist()
