"""One meaning of a path, whoever is given it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from eigenmill.jobs.reduction.build import work_directory
from eigenmill.jobs.reduction.config import load_job
from eigenmill.reduce import PCA, Dataset, Sink, connect, load
from eigenmill.reduce.engines.ship import workplace
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.sources.discovery import discover
from eigenmill.reduce.storage import places

SPELLINGS: dict[str, Callable[[Path], Any]] = {
    "absolute": str,
    "a Path": lambda place: place,
    "relative": lambda place: place.name,
    "dots": lambda place: f"../{place.parent.name}/./{place.name}/",
    "home": lambda place: f"~/{place.name}",
    "a Path at home": lambda place: Path("~") / place.name,
    "file URI": lambda place: f"file://{place}",
    "file URI with a host": lambda place: f"file://localhost{place}",
    "percent-encoded": lambda place: f"file://{str(place).replace(' ', '%20')}",
    "home URI": lambda place: f"file://~/{place.name}",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and working directory in one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_everybody_finds_the_same_place(home: Path, spelling: str) -> None:
    place = home / "a place"
    given = SPELLINGS[spelling](place)

    def at(name: str) -> Any:
        return given / name if isinstance(given, Path) else f"{given.rstrip('/')}/{name}"

    X = np.random.default_rng(0).standard_normal((50, 3))
    engine = connect("local", workers=1, work=at("work"))
    Dataset.from_numpy(X).to_parquet(at("features"))
    assert (place / "features" / "_SUCCESS").exists()
    assert read_manifest(at("features")).rows == 50
    data = Dataset.from_parquet(at("features"))
    np.testing.assert_array_equal(data.to_numpy(), X)
    assert discover(at("features")) == discover(place / "features")
    assert discover(at("feat*")).root == str(place)
    pca = PCA(2).fit(data, engine=engine)
    assert (place / "work").is_dir()
    pca.save(at("model"))
    assert (place / "model" / "model.json").exists()
    np.testing.assert_array_equal(load(at("model")).components_, pca.components_)
    for name in ("features", "model"):
        filesystem, path = places.resolve(at(name))
        store, same = places.locate(at(name))
        assert places.is_local(filesystem)
        assert places.is_local(store.filesystem)
        assert path == same == str(place / name)
    assert workplace(at("work")) == places.absolute(at("work")) == str(place / "work")


@pytest.mark.parametrize("spelling", ["absolute", "relative", "home", "file URI"])
def test_a_job_file_and_what_it_names(home: Path, spelling: str) -> None:
    place = home / "a place"
    place.mkdir()
    given = SPELLINGS[spelling](place)
    (place / "job.yaml").write_text(
        f"input: {{path: {given}/in}}\nreduce: {{components: 1}}\noutput: {{model: {given}/model}}\n"
    )
    job = load_job(f"{given}/job.yaml").job
    work = work_directory(job, "0" * 32)
    assert work == f"{place}/.model.work-{'0' * 16}"


def test_file_systems_that_are_given(home: Path) -> None:
    pq.write_table(pa.table({"a": [1.0]}), home / "x.parquet")
    for filesystem, path in [
        (fs.LocalFileSystem(), "x.parquet"),
        (fs.LocalFileSystem(), "~/x.parquet"),
        (fs.LocalFileSystem(), f"file://{home}/x.parquet"),
        (fs.SubTreeFileSystem(str(home), fs.LocalFileSystem()), "x.parquet"),
        (fsspec.filesystem("file"), "x.parquet"),
        (fsspec.filesystem("file"), "~/x.parquet"),
        (fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file"))), f"file://{home}/x.parquet"),
    ]:
        found, same = places.resolve(path, filesystem)
        assert places.is_local(found)
        assert same == str(home / "x.parquet")
        store, inner = places.locate(path, filesystem)
        assert store.filesystem.get_file_info(inner).is_file
        assert len(discover(path, filesystem).files) == 1


def test_a_store_by_uri_takes_outputs_as_well_as_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    X = np.arange(12.0).reshape(4, 3)
    Dataset.from_numpy(X).to_parquet("memory://bucket/a b%20c")
    assert memory.exists("/bucket/a b%20c/_SUCCESS")
    np.testing.assert_array_equal(Dataset.from_parquet("memory://bucket/a b%20c").to_numpy(), X)
    assert Sink("memory://bucket/x").open(Dataset.from_numpy(X)).directory == "/bucket/x"


@pytest.mark.parametrize(
    "uri", ["nope://user:se/cret?@host/path", "nope://user:secret@host/a", "secret s3://bucket", "file://secret@host/a"]
)
def test_what_cannot_be_opened_is_refused_alike_and_masked(uri: str) -> None:
    said = []
    for ask in (discover, places.resolve, places.locate, Dataset.from_parquet):
        with pytest.raises(ConfigError) as caught:
            ask(uri)
        said.append(str(caught.value))
    assert len(set(said)) == 1
    assert not re.search("se/?cret|user", said[0].replace("no scheme", ""))


def test_names_below_and_beside(home: Path) -> None:
    assert places.below("a/b/", "c", "d") == "a/b/c/d"
    assert places.below("s3://b/a?region=x", "c") == "s3://b/a/c?region=x"
    assert places.beside("~/out/", ".", ".work") == os.fspath(home / ".out.work")
    assert places.beside("s3://b/a/?region=x", ".", ".work") == "s3://b/.a.work?region=x"
