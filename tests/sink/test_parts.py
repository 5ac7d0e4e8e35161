from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ChangedInputError, ConfigError, DataError, SchemaError
from eigenmill.reduce.format import FORMAT_1
from eigenmill.reduce.output.parts import Part, plan_parts
from eigenmill.reduce.output.sink import COMPRESSIONS, Sink
from eigenmill.reduce.sources.catalog import Fragment
from tests.sink.made import MadeSource, Scaled, carried_table, drawn, made, run, write_parts
from tests.support.formats import other
from tests.support.trees import tree


def matrix(table: pa.Table, column: str = "features") -> np.ndarray:
    return np.array(table[column].to_pylist())


@pytest.mark.parametrize("form", ["dense", "fortran", "columns", "csr"])
@pytest.mark.parametrize("layout", ["list", "columns"])
@pytest.mark.parametrize("dtype", ["float32", "float64", None])
def test_every_row_comes_back_in_order(tmp_path, form, layout, dtype):
    data = made(530, form=form, dtype=np.float64)
    manifest = run(Sink(tmp_path / "out", layout=layout, dtype=dtype, part_bytes=5000), data)
    table = pq.read_table(tmp_path / "out")
    assert table.select(["id", "label", "tags"]).equals(carried_table(530).select(["id", "label", "tags"]))
    assert table["kind"].to_pylist() == [f"k{i % 5}" for i in range(530)]
    expected = data.source.X.astype(dtype or np.float64)
    if layout == "list":
        assert table.schema.field("features").type.list_size == 5
        found = matrix(table)
    else:
        assert table.column_names[-5:] == ["pc_0001", "pc_0002", "pc_0003", "pc_0004", "pc_0005"]
        found = np.stack([table[f"pc_{j:04d}"].to_numpy() for j in range(1, 6)], axis=1)
        assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert manifest.rows == 530
    assert len(manifest.parts) > 1


def test_arrays_without_carried_columns(tmp_path):
    X = np.arange(20, dtype=np.float32).reshape(10, 2)
    run(Sink(tmp_path / "out", column="z"), Dataset.from_numpy(X))
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["z"]
    np.testing.assert_array_equal(matrix(table, "z"), X)


def test_names_override_the_prefix(tmp_path):
    run(Sink(tmp_path / "out", layout="columns", names=list("abcde")), made(50, carry=False))
    assert pq.read_table(tmp_path / "out").column_names == list("abcde")
    with pytest.raises(ConfigError, match="expected 5 names"):
        Sink(tmp_path / "x", layout="columns", names=["a"]).open(made(50))
    with pytest.raises(ConfigError, match="twice"):
        Sink(tmp_path / "x", column="id").open(made(50))


def test_rows_that_a_transform_drops(tmp_path):
    data = made(500).then(Scaled(5, drop=3))
    manifest = run(Sink(tmp_path / "out", part_bytes=2000), data)
    table = pq.read_table(tmp_path / "out")
    assert manifest.rows == table.num_rows < 500
    ids = table["id"].to_numpy()
    np.testing.assert_array_equal(matrix(table), 2 * data.source.X[ids])
    assert (np.diff(ids) > 0).all()


def test_metadata_and_manifest(tmp_path):
    data = made(500).then(Scaled(5))
    manifest = run(Sink(tmp_path / "out", part_bytes=4000), data)
    assert manifest.transforms == (Scaled(5).digest,)
    assert manifest.input["rows"] == 500
    assert [name for name, _ in manifest.schema] == ["id", "label", "tags", "kind", "features"]
    assert manifest.bytes == sum(f.stat().st_size for f in (tmp_path / "out").glob("*.parquet"))
    for part in manifest.parts:
        (file,) = part.files
        footer = pq.read_metadata(tmp_path / "out" / file.path)
        assert footer.metadata[b"eigenmill.model"].decode() == manifest.model
        assert footer.metadata[b"eigenmill.part"] == str(part.index).encode()
        assert (file.path, footer.num_rows) == (f"part-{part.index:05d}.parquet", part.rows)
    assert [p.source for p in manifest.parts] == [((0, 0, 200),), ((0, 200, 400),), ((0, 400, 500),)]


def test_row_groups_are_bounded(tmp_path):
    small = other(group_bytes=150 * 5 * 4)
    data = made(1000, carry=False, step=1000, format=small)
    run(Sink(tmp_path / "out"), data)
    footer = pq.read_metadata(tmp_path / "out" / "part-00000.parquet")
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [150] * 6 + [100]
    np.testing.assert_array_equal(matrix(pq.read_table(tmp_path / "out")), data.source.X)
    # wide carried columns end a group as well
    table = pa.table({"text": ["x" * 1000] * 1000})
    run(Sink(tmp_path / "wide"), Dataset(MadeSource(data.source.X, table, step=1000, format=small)))
    footer = pq.read_metadata(tmp_path / "wide" / "part-00000.parquet")
    assert footer.num_row_groups > 10


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows(tmp_path, rows):
    manifest = run(Sink(tmp_path / "out"), made(rows))
    table = pq.read_table(tmp_path / "out")
    assert (table.num_rows, manifest.rows, len(manifest.parts)) == (rows, rows, 1)
    assert table.column_names[-1] == "features"


def test_all_rows_dropped(tmp_path):
    run(Sink(tmp_path / "out"), made(100).then(Scaled(5, drop=1)))
    assert pq.read_table(tmp_path / "out").num_rows == 0


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_same_bytes_each_time(tmp_path, compression):
    for name in ("a", "b"):
        run(Sink(tmp_path / name, compression=compression), made(600))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert pq.read_table(tmp_path / "a").num_rows == 600


def test_values_beyond_float32(tmp_path):
    X = np.ones((50, 2))
    X[40, 1] = 1e300
    with pytest.raises(DataError, match=r"range of float32.*row 0.*float64"):
        run(Sink(tmp_path / "out", dtype=np.float32), Dataset.from_numpy(X))
    assert not list((tmp_path / "out").glob("*part*"))
    run(Sink(tmp_path / "whole"), Dataset.from_numpy(X))


def test_blocks_that_do_not_fit_the_plan(tmp_path):
    data = made(200)
    job = Sink(tmp_path / "out").open(data)
    (part,) = job.parts

    def write(blocks):
        with job.writing(part) as writer:
            for block in blocks:
                writer.add(block)

    with pytest.raises(SchemaError, match="carry=True"):
        write(b for i in part.fragments for b in data.source.blocks(data.fragments[i], 37, workspace(), carry=False))
    with pytest.raises(SchemaError, match="expected 5 features"):
        write(drawn(made(200, 6), part))

    def as_text(block):
        fields = [field.with_type(pa.string()) if field.name == "id" else field for field in block.carried.schema]
        return replace(block, carried=block.carried.cast(pa.schema(fields)))

    with pytest.raises(SchemaError, match="the carried columns"):
        write(map(as_text, drawn(data, part)))
    with pytest.raises(ChangedInputError, match="at most 200 rows"):
        write([b for _ in range(2) for b in drawn(made(200, form="csr"), part)])
    assert not list((tmp_path / "out").glob("*part*"))
    write_parts(job, data)
    job.commit()


def workspace():
    from eigenmill.reduce.rows.blocks import Workspace

    return Workspace()


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "table"},
        {"dtype": "int32"},
        {"dtype": "no"},
        {"part_bytes": 0},
        {"part_bytes": True},
        {"compression": "rar"},
        {"names": ["a"]},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match="expected"):
        Sink("out", **options)


def test_nothing_to_write(tmp_path):
    with pytest.raises(SchemaError, match="at least one feature"):
        Sink(tmp_path / "out").open(Dataset.from_numpy(np.empty((5, 0))))


def test_carried_types_that_parquet_does_not_know(tmp_path):
    table = pa.table({"span": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(SchemaError, match="Parquet can hold"):
        Sink(tmp_path / "out").open(Dataset(MadeSource(np.ones((1, 2)), table)))


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(0, 50_000), max_size=60),
    k=st.integers(1, 2000),
    part_bytes=st.none() | st.integers(1, 1 << 30),
)
def test_the_plan_covers_every_fragment_once(rows, k, part_bytes):
    fragments = [Fragment(i, i // 3, i % 3, i % 3 + 1, n) for i, n in enumerate(rows)]
    parts = plan_parts(fragments, k, 4, part_bytes, FORMAT_1)
    assert [i for p in parts for i in p.fragments] == list(range(len(rows)))
    assert [p.index for p in parts] == list(range(len(parts)))
    assert sum(p.rows for p in parts) == sum(rows)
    assert sum(c - b for p in parts for _, b, c in p.source) == len(rows)
    target = part_bytes or min(max(sum(rows) * k * 4 // 64, 8 << 20), 128 << 20)
    for p in parts[:-1]:
        assert p.rows * k * 4 + k * 4 > target
        assert (p.rows - rows[p.fragments.stop - 1]) * k * 4 < target


def test_the_plan_of_nothing():
    assert plan_parts([], 5, 4, None, FORMAT_1) == (Part(0, range(0), 0, ()),)
