from __future__ import annotations

import contextlib
import fnmatch
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ConfigError, OutputError
from eigenmill.reduce.output import versions
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import places
from tests.sink.made import Scaled, made, run, write_parts
from tests.support.trees import tree


def version(n: int):
    """Data whose model differs for every n."""
    return made(300).then(Scaled(5, factor=float(n)))


@pytest.fixture(params=["exchange", "link"])
def sink(request, tmp_path, monkeypatch):
    """On a file system where directories can change places, and on one where they cannot."""
    if request.param == "link":
        monkeypatch.setattr(versions, "exchange", lambda a, b: False)
    return Sink(tmp_path / "out", part_bytes=2000, overwrite=True)


def factor(path):
    table = pq.read_table(path)
    return round(table["features"][0].as_py()[0] / made(300).source.X[0, 0])


def counted(tmp_path):
    """Rows of the files that a pattern finds which looks into hidden directories, and not through links."""
    return sum(
        pq.read_metadata(os.path.join(folder, name)).num_rows
        for folder, _, names in os.walk(tmp_path)
        for name in fnmatch.filter(names, "*.parquet")
    )


def waiting(tmp_path):
    """The versions that are not published."""
    return versions.Versions(str(tmp_path / "out"), str(tmp_path)).waiting()


def test_overwriting_keeps_the_version_before(sink, tmp_path):
    for n in (1, 2, 3, 4):
        manifest = run(sink, version(n))
        assert factor(tmp_path / "out") == n
        assert read_manifest(tmp_path / "out") == manifest
        assert counted(tmp_path) == 300
        assert len(waiting(tmp_path)) == (n > 1)
    before = tree(tmp_path)
    assert run(sink, version(4)) == manifest
    assert run(Sink(sink.path, part_bytes=2000), version(4)) == manifest
    assert tree(tmp_path) == before
    (kept,) = waiting(tmp_path)
    assert sorted(os.listdir(kept)) == [
        "_SUCCESS",
        "_manifest.json",
        *(f"part-0000{i}.parquet.aside" for i in range(3)),
    ]


def test_the_version_before_comes_back_without_writing(sink, tmp_path):
    first = run(sink, version(1))
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.parquet")}
    run(sink, version(2))
    job = sink.open(version(1))
    assert job.pending == ()
    assert job.commit() == first
    assert factor(tmp_path / "out") == 1
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.parquet")} == inodes


def test_until_commit_readers_see_the_old_version(sink, tmp_path):
    run(sink, version(1))
    job = pickle.loads(pickle.dumps(sink.open(version(2))))  # as it travels to a worker
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
    job = sink.open(version(3))
    write_parts(job, version(3), job.parts[:1])
    assert counted(tmp_path) == 300
    run(sink, version(4))
    (kept,) = waiting(tmp_path)
    assert read_manifest(kept).key == sink.open(version(2)).key
    assert factor(tmp_path / "out") == 4


def test_an_unfinished_or_damaged_output_is_overwritten(sink, tmp_path):
    job = sink.open(version(1))
    write_parts(job, version(1), job.parts[:1])
    run(sink, version(2))
    assert waiting(tmp_path) == []
    (tmp_path / "out" / "_manifest.json").write_text("{")
    with pytest.raises(OutputError, match=r"_manifest\.json to be plain JSON"):
        Sink(sink.path, part_bytes=2000).open(version(2))
    run(sink, version(2))
    assert factor(tmp_path / "out") == 2
    assert counted(tmp_path) == 300


class CrashError(BaseException):
    pass


@pytest.mark.parametrize("before", [1, 2])
def test_a_crash_before_any_step(sink, tmp_path, monkeypatch, before):
    """Readers find one version whole, or none for a moment where the first link is made; running again finishes."""
    sink, saved = replace(sink, path=tmp_path / "at" / "out", part_bytes=None), tmp_path / "saved"
    for n in range(1, before + 1):
        run(sink, version(n))
    job = sink.open(version(9))
    write_parts(job, version(9))
    os.rename(tmp_path / "at", saved)
    for reached in range(100):  # until it ends before it can crash
        shutil.rmtree(tmp_path / "at", ignore_errors=True)
        shutil.copytree(saved, tmp_path / "at", symlinks=True)
        calls = iter(range(100))

        def crashing(step, calls=calls, at=reached):
            def call(*args, **kwargs):
                if next(calls) == at:
                    raise CrashError
                return step(*args, **kwargs)

            return call

        with monkeypatch.context() as patch, contextlib.suppress(CrashError):
            for name in ("symlink", "rename", "replace", "unlink", "fsync"):
                patch.setattr(os, name, crashing(getattr(os, name)))
            patch.setattr(shutil, "rmtree", crashing(shutil.rmtree))
            job.commit()
            break
        if before > 1 or (tmp_path / "at" / "out").exists():
            assert factor(tmp_path / "at" / "out") in (before, 9)
        sink.open(version(9))
        assert counted(tmp_path / "at") == 300
        run(sink, version(9))
        assert factor(tmp_path / "at" / "out") == 9
        assert counted(tmp_path / "at") == 300
        run(sink, version(10))
        assert [read_manifest(kept).rows for kept in waiting(tmp_path / "at")] == [300]
    assert 10 < reached < 99


def replaced_by(out, numbers, seed):
    """Exit codes of runs that overwrite ``out`` at once: 0, 5 when it was told, 9 for anything else."""
    children = []
    for number in numbers:
        if not (child := os.fork()):
            time.sleep(random.Random(f"{seed} {number}").random() * 0.02)
            code = 0
            try:
                run(Sink(out, part_bytes=2000, overwrite=True), version(number))
            except OutputError:
                code = 5
            except BaseException:
                traceback.print_exc()
                code = 9
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def overwritten_at_once(folder, times):
    """As one after the other, or the loser is told: what is there in the end is whole, and of one that ended well."""
    for seed in range(times):
        out, numbers = os.path.join(folder, str(seed), "out"), random.Random(seed).choices([2, 3, 4], k=2 + seed % 2)
        run(Sink(out, part_bytes=2000), version(1))
        codes = replaced_by(out, numbers, seed)
        won = [number for number, code in zip(numbers, codes, strict=True) if code == 0]
        assert factor(out) in won, (seed, numbers, codes)
        assert set(codes) <= {0, 5}
        assert counted(os.path.dirname(out)) == 300
        assert run(Sink(out, part_bytes=2000), version(factor(out))) == read_manifest(out)


@pytest.mark.parametrize("times", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_random_runs_at_once(tmp_path, times):
    """In a process of its own, which has no threads when it forks."""
    script = f"from tests.sink.test_versions import overwritten_at_once as go; go({str(tmp_path)!r}, {times})"
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True, timeout=600)


def test_two_jobs_at_once(sink, tmp_path):
    """The second to end finds its version gone, and is told."""
    run(sink, version(1))
    jobs = [sink.open(version(n)) for n in (2, 3)]
    assert jobs[0].directory != jobs[1].directory
    for n, job in zip((2, 3), jobs, strict=True):
        write_parts(job, version(n))
    jobs[0].commit()
    with pytest.raises(OutputError, match=r"found no _job\.json; open the sink again"):
        jobs[1].commit()
    assert factor(tmp_path / "out") == 2
    assert counted(tmp_path) == 300


def test_the_same_job_twice_at_once(sink, tmp_path):
    run(sink, version(1))
    jobs = [sink.open(version(2)) for _ in range(2)]
    for job in jobs:
        write_parts(job, version(2))
    assert jobs[0].commit() == jobs[1].commit()
    write_parts(jobs[1], version(2))  # a task that comes late
    assert factor(tmp_path / "out") == 2
    assert counted(tmp_path) == 300


def test_versions_in_a_place_of_their_own(sink, tmp_path):
    place = tmp_path / "aside"
    sink = replace(sink, versions=place)
    for n in (1, 2, 3):
        run(sink, version(n))
        assert factor(tmp_path / "out") == n
        assert sorted(os.listdir(tmp_path)) == (["out"] if n == 1 else ["aside", "out"])
    assert counted(tmp_path) == 300
    run(replace(sink, versions=None), version(4))
    run(sink, version(5))
    assert counted(tmp_path) == 300
    sink.open(version(5))
    assert sorted(os.listdir(tmp_path)) == ["aside", "out"]


@pytest.mark.parametrize("place", ["out", "out/aside", "out/kind=k0"])
def test_no_place_within_what_is_read(tmp_path, place):
    with pytest.raises(ConfigError, match="place for versions outside of"):
        Sink(tmp_path / "out", overwrite=True, versions=tmp_path / place).open(version(1))


def test_a_users_own_link_is_followed(sink, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere" / "data", tmp_path / "out")
    for n in (1, 2):
        run(sink, version(n))
        assert factor(tmp_path / "out") == n
    assert os.readlink(tmp_path / "out") == str(tmp_path / "elsewhere" / "data")
    assert len(os.listdir(tmp_path / "elsewhere")) == 2 + (tmp_path / "elsewhere" / "data").is_symlink()


def test_a_link_to_a_version_that_is_gone(sink, tmp_path):
    os.symlink(".out.v000002", tmp_path / "out")
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
