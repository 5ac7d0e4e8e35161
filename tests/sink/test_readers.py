"""Every reader is asked itself, with every pattern, after every kind of rewrite."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from eigenmill.jobs.daily import stages as daily
from eigenmill.jobs.daily.config import load_daily
from eigenmill.reduce import Dataset
from eigenmill.reduce.output import versions
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.rows.blocks import Workspace
from eigenmill.reduce.storage import files
from tests.jobs.days import DAYS, ROWS, write_day, write_three_days
from tests.sink.made import Scaled, carried_table, made, run, write_parts


def by_arrow(path):
    return ds.dataset(path, format="parquet").to_table(columns=["id"])["id"].to_pylist()


def by_table(path):
    return pq.read_table(path, columns=["id"])["id"].to_pylist()


def by_pandas(path):
    return pd.read_parquet(path, columns=["id"])["id"].tolist()


def by_duckdb(path):
    pattern = path if "*" in path else f"{path}/*.parquet"
    return [row[0] for row in duckdb.sql(f"select id from read_parquet('{pattern}')").fetchall()]


def by_dask(path):
    import dask.dataframe as dd

    frame = dd.read_parquet(path, columns=["id"])
    return frame.compute(scheduler="synchronous")["id"].tolist()


def by_polars(path):
    return pl.read_parquet(path if "*" in path else f"{path}/*.parquet", columns=["id"])["id"].to_list()


def by_polars_scan(path):
    return pl.scan_parquet(path).select("id").collect()["id"].to_list()


def by_glob(path):
    found = glob.glob(path, recursive=True)
    return [i for file in found for i in pq.ParquetFile(file).read(columns=["id"])["id"].to_pylist()]


def by_rglob(path):
    """Looks into hidden directories, and not through links."""
    root, _, pattern = path.partition("/*")
    return [
        i
        for file in Path(root).glob(f"*{pattern}")
        for i in pq.ParquetFile(file).read(columns=["id"])["id"].to_pylist()
    ]


def by_eigenmill(path):
    data = Dataset.from_parquet(path, vector="features", carry="id")
    workspace = Workspace()
    blocks = (block for each in data.fragments for block in data.blocks(each, workspace, carry=True))
    return [i for block in blocks for i in block.carried["id"].to_pylist()]


READERS = [by_arrow, by_table, by_pandas, by_duckdb, by_dask, by_polars]
OF_DIRECTORIES = [by_arrow, by_table, by_pandas, by_dask, by_eigenmill]
OF_PATTERNS = [by_duckdb, by_dask, by_polars, by_polars_scan, by_glob, by_rglob, by_eigenmill]


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


@dataclass(frozen=True)
class State:
    """What people read, and the ids that are there; ``above``: the directory from which more may be read."""

    path: Path
    ids: list[int]
    above: Path
    nested: bool = False

    def patterns(self):
        yield f"{self.path}/*/*.parquet" if self.nested else f"{self.path}/*.parquet"
        yield f"{self.path}/**/*.parquet"
        yield f"{self.above}/**/*.parquet"


def sunk(root, *versions, parts=None, **options):
    """``root/above/out``, replaced by one version of so many rows after another, of the last some parts only."""
    sink = Sink(root / "above" / "out", part_bytes=2000, overwrite=True, **options)
    for rows in versions[:-1] if parts is not None else versions:
        run(sink, made(rows).then(Scaled(5)))
    if parts is not None:
        data = made(versions[-1]).then(Scaled(5))
        job = sink.open(data)
        write_parts(job, data, job.parts[:parts])
    rows = versions[-1] if parts is None else versions[-2] if len(versions) > 1 else 100 * parts
    return State(root / "above" / "out", list(range(rows)), root / "above", "partition_by" in options)


def killed(root, crash):
    """Killed while the second version took the place of the first, and begun again."""
    found = sunk(root, 100, 200, parts=2)
    sink = Sink(found.path, part_bytes=2000, overwrite=True)
    job = sink.open(made(200).then(Scaled(5)))

    def stop(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, crash, stop)
        with pytest.raises(KeyboardInterrupt):
            job.commit()
    sink.settle()
    return replace(found, ids=list(range(200 if crash == "put_aside" else 100)))


def resumed(root):
    sunk(root, 200, parts=1)
    return sunk(root, 200)


def replaced_when_begun(root):
    sunk(root, 300, parts=2)
    return sunk(root, 100)


def linked(root):
    """As ba05dba leaves an output that was replaced once, and a version begun; opened again."""
    found = sunk(root, 100, 200, 300, parts=1)
    os.rename(found.above / ".out.v000002", found.above / ".out.v000003")
    os.rename(found.path, found.above / ".out.v000002")
    for version in found.above.iterdir():
        versions.bring_back(str(version))
    os.symlink(".out.v000002", found.path)
    Sink(found.path).settle()
    return found


def by_hand(root):
    """Days that somebody writes one by one into one directory."""
    for day in (1, 2):
        for rows in (100, 200):
            data = made(rows).then(Scaled(5))
            run(Sink(root / "above" / "out" / f"day={day}", part_bytes=2000, overwrite=True), data)
    return State(root / "above" / "out", 2 * list(range(200)), root / "above", nested=True)


def days(root, *, new=False):
    """A day-by-day job: a file came late, and, if asked for, a day opened the gate."""
    source = write_three_days(root)
    for day in DAYS[:2]:
        daily.run_day(source, day)
    write_day(root, DAYS[0], 9, name="b")
    daily.run_day(source, DAYS[0])
    if new:
        write_day(root, DAYS[2], 2, strengths=np.array([5.0, 3.0, 1.5, 9.0, 0.2, 0.2]))
        daily.run_day(source, DAYS[2])
    at = root / "out" / "published" / "features"
    return State(at, (4 if new else 3) * list(range(ROWS)), at, nested=True)


def linked_days(root):
    """As ba05dba leaves the features of a day after a late file; a day later."""
    found = days(root)
    features, at = found.path.resolve(), found.path.resolve().parent / "replaced"
    os.rename(features / f"day={DAYS[0]}", features / f".day={DAYS[0]}.v000002")
    os.symlink(f".day={DAYS[0]}.v000002", features / f"day={DAYS[0]}")
    (kept,) = at.iterdir()
    versions.bring_back(str(kept))
    os.rename(kept, features / f".day={DAYS[0]}.v000001")
    at.rmdir()
    daily.run_day(load_daily(root / "daily.yaml"), DAYS[2])
    return replace(found, ids=4 * list(range(ROWS)))


STATES = {
    "fresh": lambda root: sunk(root, 200),
    "half-written": lambda root: sunk(root, 400, parts=2),
    "overwritten": lambda root: sunk(root, 100, 200),
    "overwritten twice": lambda root: sunk(root, 100, 300, 200),
    "overwritten half-way": lambda root: sunk(root, 100, 300, 200, parts=1),
    "killed before the exchange": lambda root: killed(root, "exchange"),
    "killed after the exchange": lambda root: killed(root, "put_aside"),
    "partitioned": lambda root: sunk(root, 200, partition_by="kind"),
    "partitioned and overwritten half-way": lambda root: sunk(root, 100, 200, 300, parts=1, partition_by="kind"),
    "resumed": resumed,
    "begun, then replaced": replaced_when_begun,
    "links of ba05dba": linked,
    "days by hand": by_hand,
    "daily, a late file": days,
    "daily, links of ba05dba": linked_days,
    "daily, a new version": lambda root: days(root, new=True),
}


@pytest.fixture(scope="module")
def state(session_space):
    """A function that makes a state, once."""

    def make(name):
        root = session_space / "readers" / name.replace(" ", "-").replace(",", "")
        root.mkdir(parents=True)
        return STATES[name](root)

    return lru_cache(make)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", STATES)
def test_case_d01_every_reader_and_pattern_counts_the_same_rows(state, name):
    found = state(name)
    counts = {}
    for read in OF_DIRECTORIES:
        counts[read.__name__, str(found.path)] = sorted(read(str(found.path)))
    for pattern in found.patterns():
        for read in OF_PATTERNS:
            counts[read.__name__, pattern] = sorted(read(pattern))
    assert {asked: len(ids) for asked, ids in counts.items() if ids != sorted(found.ids)} == {}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", STATES)
def test_case_d01_spark_counts_the_same_rows(spark, state, name):
    found = state(name)
    rows = spark.read.parquet(str(found.path)).select("id").collect()
    assert sorted(row["id"] for row in rows) == sorted(found.ids)
    (pattern, *_) = found.patterns()
    assert spark.read.parquet(pattern).count() == len(found.ids)


def test_polars_is_given_a_pattern(tmp_path):
    """Of a directory it takes all files, hidden ones too, and wants them of one extension."""
    run(Sink(tmp_path / "out"), made(100))
    with pytest.raises(pl.exceptions.InvalidOperationError, match="different file extensions"):
        pl.read_parquet(tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out/**/*.parquet").height == 100


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
