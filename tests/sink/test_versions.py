from __future__ import annotations

import os
import shutil

import fsspec
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import files, places
from tests.sink.made import Scaled, made, run, write_parts
from tests.support.trees import tree


def version(n: int):
    """Data whose model differs for every n."""
    return made(300).then(Scaled(5, factor=float(n)))


@pytest.fixture
def sink(tmp_path):
    return Sink(tmp_path / "out", part_bytes=2000, overwrite=True)


def entries(tmp_path):
    return sorted(os.listdir(tmp_path))


def factor(path):
    table = pq.read_table(path)
    return round(table["features"][0].as_py()[0] / made(300).source.X[0, 0])


def test_overwriting_moves_a_link_and_keeps_one_version(sink, tmp_path):
    for n in (1, 2, 3, 4):
        manifest = run(sink, version(n))
        assert factor(tmp_path / "out") == n
        assert read_manifest(tmp_path / "out") == manifest
        names = ["out"] if n == 1 else [f".out.v{n - 1:06d}", f".out.v{n:06d}", "out"]
        assert entries(tmp_path) == names
        assert (tmp_path / "out").is_symlink() == (n > 1)
    assert factor(tmp_path / ".out.v000003") == 3
    before = tree(tmp_path)
    assert run(sink, version(4)) == manifest
    assert run(Sink(sink.path, part_bytes=2000), version(4)) == manifest
    assert tree(tmp_path) == before


def test_until_commit_readers_see_the_old_version(sink, tmp_path):
    run(sink, version(1))
    job = sink.open(version(2))
    write_parts(job, version(2))
    assert factor(tmp_path / "out") == 1
    job.commit()
    assert factor(tmp_path / "out") == 2


def test_an_interrupted_overwrite_is_continued(sink, tmp_path):
    run(sink, version(1))
    job = sink.open(version(2))
    write_parts(job, version(2), job.parts[:1])
    again = sink.open(version(2))
    assert again.directory == job.directory
    assert [p.index for p in again.pending] == [1, 2]
    write_parts(again, version(2))
    again.commit()
    assert factor(tmp_path / "out") == 2


def test_an_abandoned_overwrite_is_removed_by_the_next(sink, tmp_path):
    run(sink, version(1))
    run(sink, version(2))
    sink.open(version(3))
    run(sink, version(4))
    assert entries(tmp_path) == [".out.v000002", ".out.v000004", "out"]
    assert factor(tmp_path / "out") == 4


def test_an_unfinished_or_damaged_output_is_overwritten(sink, tmp_path):
    job = sink.open(version(1))
    write_parts(job, version(1), job.parts[:1])
    run(sink, version(2))
    assert entries(tmp_path) == [".out.v000002", "out"]
    (tmp_path / "out" / "_manifest.json").write_text("{")
    with pytest.raises(OutputError, match=r"_manifest\.json to be plain JSON"):
        Sink(sink.path, part_bytes=2000).open(version(2))
    run(sink, version(2))
    assert factor(tmp_path / "out") == 2


@pytest.mark.parametrize("crash", ["symlink", "rename", "replace", "sync_directory", "rmtree"])
@pytest.mark.parametrize("first", [True, False])
def test_a_crash_while_the_link_moves(sink, tmp_path, monkeypatch, crash, first):
    class CrashError(BaseException):
        pass

    def fail(*args, **kwargs):
        raise CrashError

    run(sink, version(1))
    if not first:
        run(sink, version(2))
        run(sink, version(3))
    job = sink.open(version(4))
    write_parts(job, version(4))
    replace = os.replace

    def fail_at_link(source, target):
        if str(source).endswith(".next"):
            fail()
        replace(source, target)

    with monkeypatch.context() as patch:
        if crash == "replace":
            patch.setattr(os, "replace", fail_at_link)
        elif crash == "sync_directory":
            patch.setattr(files, crash, lambda path: fail() if path == str(tmp_path) else None)
        else:
            patch.setattr(shutil if crash == "rmtree" else os, crash, fail)
        if (first and crash == "rmtree") or (not first and crash == "rename"):
            job.commit()
        else:
            with pytest.raises(CrashError):
                job.commit()
    run(sink, version(4))
    assert factor(tmp_path / "out") == 4
    assert entries(tmp_path) == (
        [".out.v000001", ".out.v000002", "out"] if first else [".out.v000003", ".out.v000004", "out"]
    )


def test_a_users_own_link_is_followed(sink, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere" / "data", tmp_path / "out")
    for n in (1, 2):
        run(sink, version(n))
        assert factor(tmp_path / "out") == n
    assert os.readlink(tmp_path / "out") == str(tmp_path / "elsewhere" / "data")
    assert entries(tmp_path / "elsewhere") == [".data.v000001", ".data.v000002", "data"]


def test_a_link_to_a_version_that_is_gone(sink, tmp_path):
    run(sink, version(1))
    run(sink, version(2))
    shutil.rmtree(tmp_path / ".out.v000002")
    run(sink, version(3))
    assert factor(tmp_path / "out") == 3


def test_no_overwriting_without_links():
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    sink = Sink("/data/out", filesystem=memory, overwrite=True)
    manifest = run(sink, version(1))
    assert run(sink, version(1)) == manifest
    with pytest.raises(OutputError, match="overwriting needs a local file system, found py::fsspec"):
        sink.open(version(2))
    assert isinstance(places.resolve("/data", memory)[0], pafs.PyFileSystem)
