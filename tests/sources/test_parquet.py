"""Parquet as a source: fragments, order, schema disagreement, damage, changes, pickling, memory."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.errors import ChangedInputError, DataError, SchemaError
from eigenmill.reduce.format import FORMAT_1
from eigenmill.reduce.rows.blocks import Workspace
from eigenmill.reduce.sources import footers
from eigenmill.reduce.sources.catalog import FileInfo, Fragments
from tests.support.formats import other
from tests.support.tables import columns


def table(n: int, start: int = 0) -> pa.Table:
    x = np.arange(start, start + n, dtype=np.float32)
    return pa.table({"id": pa.array([f"r{i}" for i in range(start, start + n)], pa.string()), "a": x, "b": -x})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for i, n in enumerate([250, 130, 0, 20]):
        pq.write_table(table(n, 1000 * i), tmp_path / f"part-{i}.parquet", row_group_size=100)
    return tmp_path


def test_equals_pandas(files: Path, whole: Any) -> None:
    data = Dataset.from_parquet(files, carry="id")
    read, expected = whole(data), pd.concat([pd.read_parquet(p) for p in sorted(files.iterdir())])
    np.testing.assert_array_equal(read.X, expected[["a", "b"]])
    assert read.carried.column("id").to_pylist() == expected["id"].tolist()
    assert data.n_rows == 400
    assert data.dtype == np.float32
    assert [f.rows for f in data.source.files] == [(100, 100, 50), (100, 30), (0,), (20,)]
    assert [f.path for f in data.source.files] == [f"part-{i}.parquet" for i in range(4)]
    assert data.source.root == str(files)


def test_blocks_have_the_asked_height_across_row_groups(files: Path, whole: Any) -> None:
    assert whole(Dataset.from_parquet(files, carry="id"), height=64).blocks == [64, 64, 64, 58, 64, 64, 2, 20]


def test_small_row_groups_join_and_files_do_not(files: Path, whole: Any) -> None:
    data = Dataset.from_parquet(files, carry="id")
    assert [(f.file, f.start, f.stop, f.rows) for f in data.fragments] == [
        (0, 0, 3, 250),
        (1, 0, 2, 130),
        (3, 0, 1, 20),
    ]
    cut = Dataset.from_parquet(files, carry="id", format=other(leaf_bytes=150 * 8 * 2))
    assert [(f.file, f.start, f.stop, f.rows) for f in cut.fragments] == [
        (0, 0, 1, 100),
        (0, 1, 3, 150),
        (1, 0, 2, 130),
        (3, 0, 1, 20),
    ]
    assert [f.index for f in cut.fragments] == [0, 1, 2, 3]
    np.testing.assert_array_equal(whole(cut).X, whole(data).X)


@given(st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=4), st.integers(1, 10))
def test_fragments_cover_all_rows_once(rows: list[list[int]], target: int) -> None:
    infos = [FileInfo(str(i), 0, "", tuple(r), 0) for i, r in enumerate(rows)]
    fragments = list(Fragments(infos, target))
    assert [f.index for f in fragments] == list(range(len(fragments)))
    covered = [(f.file, g) for f in fragments for g in range(f.start, f.stop)]
    assert len(covered) == len(set(covered))
    assert covered == sorted(covered)
    assert {(i, g) for i, r in enumerate(rows) for g, n in enumerate(r) if n} <= set(covered)
    for f in fragments:
        inside = rows[f.file][f.start : f.stop]
        assert f.rows == sum(inside) > 0
        assert f.rows <= target or sum(n > 0 for n in inside) == 1


def test_encoded_bytes_are_those_of_the_columns_that_are_read(files: Path) -> None:
    path = files / "part-0.parquet"
    metadata = pq.read_metadata(path)

    def chunk(i: int) -> int:
        return sum(metadata.row_group(g).column(i).total_compressed_size for g in range(3))

    assert Dataset.from_parquet(path, columns=["a"]).source.files[0].encoded == chunk(1)
    everything = Dataset.from_parquet(path, carry="id").source.files[0].encoded
    assert chunk(0) + chunk(1) + chunk(2) <= everything < path.stat().st_size


def test_the_source_pickles_small_and_reads_elsewhere(files: Path, whole: Any) -> None:
    data = Dataset.from_parquet(files, carry="id", filters=[("a", ">=", 10)])
    whole(data)
    sent = pickle.dumps(data)
    assert len(sent) < 6000
    again = pickle.loads(sent)
    np.testing.assert_array_equal(whole(again).X, whole(data).X)
    assert again.source.digest == data.source.digest
    assert again.fragments == data.fragments
    assert str(data.source.describe()) == "{'columns': ['a', 'b']}"
    assert Dataset.from_parquet(files / "part-1.parquet", **data.source.describe()).n_features == 2


def test_the_digest_follows_content_and_reading(files: Path) -> None:
    def digest(**options: Any) -> str:
        return Dataset.from_parquet(files, **{"carry": "id", **options}).source.digest

    first = digest()
    assert first == digest()
    others = [
        digest(columns=["a"]),
        digest(carry=["id", "a"]),
        digest(weights="a"),
        digest(filters=[("a", ">", 3)]),
        digest(filters=[("a", "in", [*range(100), 7.5, *range(100)])]),
        digest(filters=[("a", "in", [*range(100), 8.5, *range(100)])]),
        digest(dtype="float64"),
    ]
    pq.write_table(table(21), files / "part-3.parquet")
    others.append(digest())
    assert len({first, *others}) == 1 + len(others)


def test_the_digest_tells_data_apart_that_have_no_statistics(tmp_path: Path) -> None:
    digests = []
    for value in (1.0, 2.0):
        pq.write_table(
            pa.table({"a": [value] * 10}),
            tmp_path / "t",
            write_statistics=False,
            compression="none",
            use_dictionary=False,
        )
        digests.append(Dataset.from_parquet(tmp_path / "t").source.files[0].digest)
    assert digests[0] != digests[1]


def test_only_some_files(files: Path, whole: Any) -> None:
    source = Dataset.from_parquet(files, carry="id").source
    some = source.only([1])
    assert [f.path for f in some.files] == ["part-1.parquet"]
    assert whole(Dataset(some)).X[0, 0] == 1000
    assert source.listed


# Files that disagree


def test_another_type_names_both_files_the_column_and_both_types(files: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "a": [1.0], "b": pa.array([1.0], pa.float32())}), files / "part-9.parquet")
    with pytest.raises(SchemaError, match=r"'a' .* float in .*part-0\.parquet and double in .*part-9\.parquet"):
        Dataset.from_parquet(files, carry="id")
    assert Dataset.from_parquet(files, columns=["b"]).n_rows == 401


def test_a_missing_column_names_its_file(files: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "a": pa.array([1.0], pa.float32())}), files / "part-9.parquet")
    with pytest.raises(SchemaError, match=r"'b' .*part-9\.parquet"):
        Dataset.from_parquet(files, columns=["a", "b"])


def test_the_names_of_list_elements_and_their_nullability_may_differ(tmp_path: Path, whole: Any) -> None:
    for i, field in enumerate([pa.field("item", pa.float32()), pa.field("element", pa.float32(), nullable=False)]):
        column = pa.array([[1.0, i], [2.0, i]], pa.list_(field))
        pq.write_table(pa.table({"v": column, "tags": column}), tmp_path / f"{i}.parquet")
    read = whole(Dataset.from_parquet(tmp_path, vector="v", carry="tags"))
    np.testing.assert_array_equal(read.X, [[1, 0], [2, 0], [1, 1], [2, 1]])
    assert read.carried.column("tags").to_pylist() == [[1, 0], [2, 0], [1, 1], [2, 1]]


def test_columns_may_lie_in_another_order_and_have_dots(tmp_path: Path, whole: Any) -> None:
    pq.write_table(pa.table({"a": [1.0], "a.b": [2.0], "c": [3.0]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"c": [6.0], "a.b": [5.0], "a": [4.0]}), tmp_path / "2.parquet")
    np.testing.assert_array_equal(whole(Dataset.from_parquet(tmp_path, columns=["c", "a"])).X, [[3, 1], [6, 4]])
    np.testing.assert_array_equal(whole(Dataset.from_parquet(tmp_path, columns=["a.b"])).X, [[2], [5]])


def test_carried_columns_of_any_type(tmp_path: Path, whole: Any) -> None:
    carried = pa.table(
        {
            "binary": pa.array([b"x", None], pa.large_binary()),
            "when": pa.array([0, 1], pa.timestamp("us", "UTC")),
            "nested": [{"k": [1, 2]}, {"k": []}],
            "category": pa.array(["u", "v"]).dictionary_encode(),
            "money": pa.array([None, 1], pa.decimal128(5, 2)),
            "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
        }
    )
    pq.write_table(carried.append_column("x", pa.array([1.0, 2.0])), tmp_path / "t.parquet")
    read = whole(Dataset.from_parquet(tmp_path, columns="x", carry=carried.column_names))
    assert read.carried.to_pydict() == carried.to_pydict()
    assert read.carried.schema.types == pq.read_schema(tmp_path / "t.parquet").types[:6]


# Vectors that are decoded in pieces


WIDTH = 1 << 10
"""Columns of which a block holds 8,192 rows, decoded 256 (float32) or 128 (float64) at a time."""


@pytest.mark.parametrize("gaps", [[700], [0], [255, 256], [300, 900], [1023], []])
@pytest.mark.parametrize("kind", ["uint8", "int16", "int32"])
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "lists"])
def test_pieces_of_whole_numbers_become_floats_at_the_first_gap(
    tmp_path: Path, whole: Any, kind: str, gaps: list[int], fixed: bool
) -> None:
    """Pieces without a gap are whole numbers, those with one are floats, and a block holds both."""
    info = np.iinfo(kind)
    numbers = np.random.default_rng(1).integers(info.min, info.max, size=(1024, WIDTH), dtype=kind, endpoint=True)
    type_ = pa.list_(pa.from_numpy_dtype(np.dtype(kind)), WIDTH if fixed else -1)
    rows = [None if i in gaps else row for i, row in enumerate(numbers)]
    pq.write_table(pa.table({"v": pa.array(rows, type_)}), tmp_path / "t.parquet", use_dictionary=False)
    expected = numbers.astype(np.float64)
    expected[gaps] = np.nan
    read = whole(Dataset.from_parquet(tmp_path / "t.parquet"))
    assert read.blocks == [1024]
    np.testing.assert_array_equal(read.X, expected)


# Damage and change


def damaged(path: Path, how: str) -> None:
    raw = path.read_bytes()
    half, start = len(raw) // 2, len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    path.write_bytes(
        {
            "empty": b"",
            "short": b"PAR1",
            "truncated": raw[:half],
            "tail": raw[:-4] + b"XXXX",
            "footer": raw[:start] + bytes(40) + raw[start + 40 :],
            "length": raw[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
            "text": b"id,a,b\n1,2,3\n" * 100,
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "short", "truncated", "tail", "footer", "length", "text"])
def test_damaged_files_are_data_errors_that_name_the_file(files: Path, how: str) -> None:
    damaged(files / "part-1.parquet", how)
    with pytest.raises(DataError, match=r"part-1\.parquet"):
        Dataset.from_parquet(files, carry="id")


@pytest.mark.parametrize("checksums", [True, False])
def test_a_damaged_page_names_row_group_and_row(tmp_path: Path, checksums: bool, whole: Any) -> None:
    path = tmp_path / "t.parquet"
    x = np.random.default_rng(0).normal(size=300)
    pq.write_table(
        pa.table({"a": x}),
        path,
        row_group_size=100,
        use_dictionary=False,
        write_page_checksum=checksums,
        compression="zstd",
    )
    chunk = pq.read_metadata(path).row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    place = chunk.data_page_offset + chunk.total_compressed_size // 2
    if checksums:
        raw[place] ^= 1  # zstd alone would not notice
    else:
        raw[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(raw)
    data = Dataset.from_parquet(path)  # the footer is whole
    with pytest.raises(DataError, match=r"t\.parquet, row group 1, row 0: .*write it again"):
        whole(data, height=50)


def test_a_file_that_was_written_anew_is_refused(files: Path, whole: Any) -> None:
    data = Dataset.from_parquet(files, carry="id")
    pq.write_table(table(131), files / "part-1.parquet", row_group_size=100)
    with pytest.raises(ChangedInputError, match=r"planned, found \d+ bytes instead of \d+ at .*part-1\.parquet"):
        whole(data)


def test_a_file_of_the_same_size_with_other_rows_is_refused(tmp_path: Path, whole: Any) -> None:
    def write(value: float) -> int:
        pq.write_table(pa.table({"a": [value] * 9}), tmp_path / "t.parquet", use_dictionary=False, compression="none")
        return (tmp_path / "t.parquet").stat().st_size

    size = write(1.0)
    data = Dataset.from_parquet(tmp_path)
    assert write(3.0) == size
    with pytest.raises(ChangedInputError, match=r"another footer at .*t\.parquet"):
        whole(data)


def test_a_vanished_file_is_refused(files: Path, whole: Any) -> None:
    data = Dataset.from_parquet(files, carry="id")
    (files / "part-3.parquet").unlink()
    with pytest.raises(ChangedInputError, match=r"found none at .*part-3\.parquet"):
        whole(data)


def test_a_file_without_permission(files: Path) -> None:
    # Also as root: the file system says no, however it comes to it.
    import fsspec.implementations.local

    class Forbidding(fsspec.implementations.local.LocalFileSystem):
        def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
            if path.endswith("part-1.parquet"):
                raise PermissionError(13, "Permission denied", path)
            return super()._open(path, *args, **kwargs)

    with pytest.raises(DataError, match=r"part-1\.parquet.*Permission denied.*may read it"):
        Dataset.from_parquet(str(files), carry="id", filesystem=Forbidding())


def test_memory_errors_stay_memory_errors() -> None:
    with pytest.raises(MemoryError), footers.parquet_errors("here"):
        raise pa.lib.ArrowMemoryError("too much")


def test_no_data_at_all(tmp_path: Path, whole: Any) -> None:
    pq.write_table(table(0), tmp_path / "t.parquet")
    data = Dataset.from_parquet(tmp_path, carry="id")
    assert data.fragments == ()
    assert whole(data).X.shape == (0, 2)


def test_long_footers_are_read_whole(tmp_path: Path, whole: Any) -> None:
    X = np.random.default_rng(0).normal(size=(40, 300))
    pq.write_table(pa.table(columns(X, "c")), tmp_path / "t.parquet", row_group_size=10)
    with (tmp_path / "t.parquet").open("rb") as file:
        file.seek(-8, os.SEEK_END)
        assert int.from_bytes(file.read(4), "little") > footers.TAIL
    np.testing.assert_array_equal(whole(Dataset.from_parquet(tmp_path)).X, X)


def test_interleaved_streams_do_not_disturb_each_other(files: Path) -> None:
    data = Dataset.from_parquet(files, carry="id")
    one, two = (data.source.blocks(data.fragments[0], 30, Workspace(), carry=False) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.X, b.X)


def test_leaf_rows_decide_the_cut() -> None:
    assert FORMAT_1.leaf_rows(2) == (64 << 20) // 16


def test_a_large_row_group_streams_in_little_memory(tmp_path: Path) -> None:
    """80 MB in one row group; the process may grow by a third of it at most."""
    script = textwrap.dedent(
        """
        import resource, sys
        import numpy as np, pyarrow as pa, pyarrow.parquet as pq
        from eigenmill.reduce.rows.blocks import Workspace
        from eigenmill.reduce.dataset import Dataset

        path, rng = sys.argv[1], np.random.default_rng(0)
        if sys.argv[2] == "write":
            schema = pa.schema([(f"c{j}", pa.float64()) for j in range(20)])
            rows = pa.table([rng.normal(size=500_000) for _ in range(20)], schema=schema)
            pq.write_table(rows, path, 500_000, compression="none", use_dictionary=False)
        else:
            data = Dataset.from_parquet(path)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            rows = sum(b.rows for f in data.fragments for b in data.blocks(f, Workspace()))
            print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    root = Path(__file__).parents[2]
    for mode in ("write", "read"):
        ran = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "t.parquet"), mode],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root / "src")},
            capture_output=True,
            text=True,
            check=True,
        )
    rows, grown = map(int, ran.stdout.split())
    assert rows == 500_000
    assert grown < 27 << 10  # KiB


# Counts that disagree


def varint(value: int) -> bytes:
    """A zigzag number as Thrift's compact protocol writes it."""
    value, found = value << 1, b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def test_case_f08_a_footer_whose_counts_disagree_is_refused(tmp_path: Path) -> None:
    """Each number of rows in the footer in turn is made half of what it is: of the file, a group, a column."""
    path, rows, half = tmp_path / "x.parquet", 777_774, 388_887
    pq.write_table(pa.table({"a": np.arange(rows) * 1.0, "b": np.arange(rows) * 1.0}), path, row_group_size=rows)
    whole, places = path.read_bytes(), []
    at = whole.find(varint(rows), len(whole) - 2000)
    while at >= 0:
        places.append(at)
        at = whole.find(varint(rows), at + 1)
    assert len(places) >= 4
    refused = 0
    for at in places:
        path.write_bytes(whole[:at] + varint(half) + whole[at + len(varint(rows)) :])
        if [pq.read_metadata(path).num_rows, *counts(path)] == [rows] * 4:
            continue  # a number of the statistics
        with pytest.raises(DataError, match=r"expected \d+ .*x\.parquet.*damaged"):
            Dataset.from_parquet(path)
        refused += 1
    assert refused == 4


def counts(path: Path) -> list[int]:
    """Rows of the only row group, values of its columns."""
    group = pq.read_metadata(path).row_group(0)
    return [group.num_rows, *(group.column(i).num_values for i in range(group.num_columns))]
