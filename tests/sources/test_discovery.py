"""Which files a path stands for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from eigenmill.reduce.dataset import Dataset, as_dataset
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.sources.discovery import discover, hive_partitions

ROOT = "data"


def put(path: Path, value: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a": [value]}), path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for i, name in enumerate(
        [
            "b.parquet",
            "a.parquet",
            "sub/c.parquet",
            "sub/deep/d.parquet",
            "e.parq",
            "out.parquet/part-0.parquet",
        ]
    ):
        put(tmp_path / ROOT / name, float(i))
    for name in [
        "_manifest.json",
        "_SUCCESS",
        ".crc",
        "_model/m.parquet",
        ".git/x.parquet",
        "sub/_tmp/y.parquet",
    ]:
        path = tmp_path / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no parquet")
    return tmp_path / ROOT


ALL = [
    "a.parquet",
    "b.parquet",
    "e.parq",
    "out.parquet/part-0.parquet",
    "sub/c.parquet",
    "sub/deep/d.parquet",
]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("", ALL),
        ("/", ALL),
        ("/*", ALL),
        ("/**", ALL),
        ("/*.parquet", ["a.parquet", "b.parquet", "out.parquet/part-0.parquet"]),
        ("/[ab].parquet", ["a.parquet", "b.parquet"]),
        ("/?.par*", ["a.parquet", "b.parquet", "e.parq"]),
        ("/**/*.parquet", [f for f in ALL if f != "e.parq"]),
        ("/**/d.parquet", ["sub/deep/d.parquet"]),
        ("/s*/*.parquet", ["sub/c.parquet"]),
        ("/s*/d*", ["sub/deep/d.parquet"]),
        ("/*/deep/*", ["sub/deep/d.parquet"]),
    ],
)
def test_directories_and_globs(tree: Path, pattern: str, files: list[str]) -> None:
    for filesystem in (None, fs.LocalFileSystem(), fsspec.filesystem("file")):
        found = discover(str(tree) + pattern, filesystem)
        assert [os.path.join(found.root, f) for f in found.files] == [str(tree / f) for f in files]
        assert found.listed
    assert [os.path.join(found.root, f) for f in discover(f"file://{tree}{pattern}").files] == [
        str(tree / f) for f in files
    ]


def test_a_hidden_name_can_be_asked_for(tree: Path) -> None:
    put(tree / "_staged" / "z.parquet")
    assert discover(tree / "_staged").files == ("z.parquet",)
    assert discover(str(tree / "_st*")).files == ("_staged/z.parquet",)
    assert discover(tree / "_staged" / "z.parquet").files == ("z.parquet",)


def test_lists_keep_their_order_and_directories_in_them_are_sorted(tree: Path, whole: Any) -> None:
    found = discover([tree / "sub", tree / "b.parquet", str(tree / "a.parquet")])
    assert found.root == str(tree)
    assert found.files == ("sub/c.parquet", "sub/deep/d.parquet", "b.parquet", "a.parquet")
    assert not found.listed
    assert discover([tree / "sub", tree / "out.parquet"]).listed
    data = Dataset.from_parquet([tree / "b.parquet", tree / "a.parquet"])
    assert whole(data).X.ravel().tolist() == [0, 1]
    assert as_dataset([str(tree / "a.parquet")]).n_rows == 1


def test_relative_paths_become_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert discover(ROOT).root == str(tree)
    assert discover(f"{ROOT}/a.parquet", fs.LocalFileSystem()).root == str(tree)
    assert discover(f"./{ROOT}/*.parq").root == str(tree)


def test_a_path_that_looks_like_a_pattern_is_a_path_if_it_exists(tmp_path: Path) -> None:
    put(tmp_path / "a[1].parquet")
    put(tmp_path / "day=1 ä" / "x%20y.parquet")
    assert discover(tmp_path / "a[1].parquet").files == ("a[1].parquet",)
    assert Dataset.from_parquet(tmp_path / "day=1 ä").n_rows == 1
    assert Dataset.from_parquet((tmp_path / "day=1 ä" / "x%20y.parquet").as_uri()).n_rows == 1


def test_nothing_there(tree: Path) -> None:
    (tree / "empty" / "_x").mkdir(parents=True)
    for path, message in [
        (tree / "nope", "found nothing at"),
        (tree / "nope*", "match .*nope.*found none"),
        (tree / "empty", "in the directory .*empty, found none"),
        ([], "empty list"),
    ]:
        with pytest.raises(SchemaError, match=message):
            discover(path)


def test_a_file_given_twice_is_refused(tree: Path) -> None:
    with pytest.raises(SchemaError, match=r"c\.parquet more than once"):
        discover([tree / "sub", tree / "sub" / "c.parquet"])


def test_what_is_no_path(tree: Path) -> None:
    with pytest.raises(ConfigError, match="found int"):
        discover(7)
    with pytest.raises(ConfigError, match="found int"):
        discover([tree, 7])
    with pytest.raises(ConfigError, match=r"filesystem=, found str"):
        discover(tree, "s3")
    with pytest.raises(ConfigError, match="one file system"):
        discover([tree, "memory://x/y.parquet"])


def test_unknown_schemes_do_not_spell_out_the_uri() -> None:
    with pytest.raises(ConfigError, match="nope://\\*\\*\\*@host") as caught:
        discover("nope://user:secret@host/path")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_parquet_is_an_error_not_skipped(tree: Path) -> None:
    (tree / "README.md").write_text("hello")
    with pytest.raises(DataError, match=r"README\.md"):
        Dataset.from_parquet(tree)


# Tables with a log


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("_delta_log/0.json", "Delta"),
        ("metadata/v1.metadata.json", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
def test_tables_with_a_log_are_refused(tmp_path: Path, log: str, kind: str) -> None:
    table = tmp_path / "lake" / "table"
    put(table / "day=1" / "x.parquet")
    put(table / "y.parquet")
    (table / log).parent.mkdir()
    (table / log).write_text("{}")
    for path in (
        table,
        table / "day=1",
        table / "y.parquet",
        f"{table}/*.parquet",
        f"{table}/**/*.parquet",
        f"{tmp_path}/lake/*/y.parquet",
        f"{tmp_path}/*/*/day=*/*",
        tmp_path / "lake",
        tmp_path,
    ):
        with pytest.raises(SchemaError, match=rf"found a {kind} table in {table}: .*deleted.*live files"):
            discover(path)
    assert discover([table / "y.parquet"]).files == ("y.parquet",)  # the user's word that it is live


def test_a_directory_called_metadata_is_not_yet_a_table(tmp_path: Path) -> None:
    put(tmp_path / "x.parquet")
    put(tmp_path / "metadata" / "y.parquet")
    assert len(discover(tmp_path).files) == 2


# Hive


def test_hive_keys_are_typed_over_all_files() -> None:
    keys = hive_partitions(
        [
            "/r/day=1/city=S%C3%A3o%20Paulo/x.parquet",
            "/r/day=02/city=__HIVE_DEFAULT_PARTITION__/y.parquet",
            "/r/day=__HIVE_DEFAULT_PARTITION__/city=7/k=v=w/z.parquet",
        ]
    )
    assert [dict(k) for k in keys] == [
        {"day": 1, "city": "São Paulo"},
        {"day": 2, "city": None},
        {"day": None, "city": "7", "k": "v=w"},
    ]


def test_hive_keys_can_be_carried(tmp_path: Path, whole: Any) -> None:
    for day, city in [("1", "x"), ("2", "__HIVE_DEFAULT_PARTITION__")]:
        put(tmp_path / f"day={day}" / f"city={city}" / "t.parquet", float(day))
    data = Dataset.from_parquet(tmp_path, columns="a", carry=["city", "day", "a"])
    assert whole(data).carried.to_pydict() == {"city": ["x", None], "day": [1, 2], "a": [1, 2]}
    assert data.source.carried == pa.schema([("city", pa.string()), ("day", pa.int64()), ("a", pa.float64())])


def test_hive_keys_are_no_features_and_yield_to_columns(tmp_path: Path, whole: Any) -> None:
    for day in (1, 2):
        put(tmp_path / f"day={day}" / "a=9" / "t.parquet", float(day))
    data = Dataset.from_parquet(tmp_path, columns=["a"], carry=["a", "day"])
    assert whole(data).carried.to_pydict() == {"a": [1, 2], "day": [1, 2]}
    assert list(Dataset.from_parquet(tmp_path).feature_names) == ["a"]
    assert whole(Dataset.from_parquet(tmp_path / "day=2", carry=["day"])).carried.to_pydict() == {"day": [2]}
    with pytest.raises(SchemaError, match="'day'"):
        Dataset.from_parquet(tmp_path, columns=["day"])


def test_underscored_hive_keys_are_not_hidden(tmp_path: Path, whole: Any) -> None:
    put(tmp_path / "_day=3" / "t.parquet")
    assert whole(Dataset.from_parquet(tmp_path, carry="_day")).carried.to_pydict() == {"_day": [3]}


def test_a_key_that_some_file_lacks_cannot_be_carried(tmp_path: Path) -> None:
    put(tmp_path / "day=1" / "t.parquet")
    put(tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match="'day'"):
        Dataset.from_parquet(tmp_path, carry="day")


def test_fsspec_memory(tmp_path: Path, whole: Any) -> None:
    memory = fsspec.filesystem("memory")
    put(tmp_path / "t.parquet", 4.0)
    memory.pipe("/eigen/day=1/t.parquet", (tmp_path / "t.parquet").read_bytes())
    try:
        for path, filesystem in [
            ("memory://eigen", None),
            ("memory://eigen/*/t.parquet", None),
            ("/eigen", memory),
            ("memory://eigen/day=*", memory),
            ("/eigen/day=1/t.parquet", fs.PyFileSystem(fs.FSSpecHandler(memory))),
        ]:
            read = whole(Dataset.from_parquet(path, filesystem=filesystem, carry="day"))
            np.testing.assert_array_equal(read.X, [[4.0]])
            assert read.carried.to_pydict() == {"day": [1]}
    finally:
        memory.rm("/eigen", recursive=True)
