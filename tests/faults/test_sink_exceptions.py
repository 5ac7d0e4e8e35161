"""An exception at any step of a write: nothing half-written is left, and a rerun makes the same bytes."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import files
from tests.sink.made import MadeSource, Scaled, made, run, write_parts
from tests.support.trees import numberless, tree

OLD = made(300).then(Scaled(5, factor=-1.0))
NEW = made(300).then(Scaled(5))
STEPS = {
    "replace": (os, "replace"),
    "fsync": (os, "fsync"),
    "fstat": (os, "fstat"),
    "measure": (files, "_measure"),
    "write_table": (pq.ParquetWriter, "write_table"),
    "close": (pq.ParquetWriter, "close"),
    "metadata": (pq.ParquetWriter, "add_key_value_metadata"),
    "blocks": (MadeSource, "blocks"),
    "unlink": (os, "unlink"),
    "symlink": (os, "symlink"),
    "rename": (os, "rename"),
}


def whole(path):
    for name in files.visible_files(files.pafs.LocalFileSystem(), str(path)):
        pq.ParquetFile(path / name).read()


def temporaries(path):
    return [p for p in path.rglob("*") if p.name.endswith(".tmp")]


class Failing:
    """Fails at the call with the given number."""

    def __init__(self, patch, owner, name, failure, at):
        self.left, self.failure, self.step = at, failure, getattr(owner, name)
        patch.setattr(owner, name, lambda *a, **k: self(*a, **k))

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == -1:
            raise self.failure
        return self.step(*args, **kwargs)


def caught(run_it, failure):
    """Whether ``failure`` came out, as it was or as an OutputError that keeps its errno."""
    try:
        run_it()
    except OutputError as error:
        return isinstance(failure, OSError) and error.errno == failure.errno
    except type(failure) as error:
        return error is failure
    return False


@pytest.fixture(scope="module")
def little_garbage():
    """Collecting looks at what the tests here make only, not at all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_garbage")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", ["plain", "hive", "over"])
def test_an_exception_at_every_step(tmp_path, monkeypatch, step, case):
    options = {"plain": {}, "hive": {"partition_by": "kind"}, "over": {"overwrite": True}}[case]

    def prepare(name):
        sink = Sink(tmp_path / name / "out", part_bytes=3000, **options)
        if case == "over":
            run(sink, OLD)
        return sink

    run(prepare("whole"), NEW)
    expected, hits = numberless(tree(tmp_path / "whole")), 0
    for i, at in enumerate([0, 1, 3, 7, 15]):
        failure = KeyboardInterrupt("injected") if i % 2 else OSError(errno.EIO, "injected")
        sink = prepare("new")
        out = tmp_path / "new" / "out"
        before = tree(out) if case == "over" else {}
        gc.collect()  # writers of the run before, which would close while this one counts
        with monkeypatch.context() as patch:
            failing = Failing(patch, *STEPS[step], failure, at)
            hit = caught(lambda sink=sink: run(sink, NEW), failure)
        if failing.left >= 0:
            break
        # What fails while tidying up may go unnoticed; all else is told.
        assert hit or step in ("unlink", "fstat")
        hits += 1
        assert step in ("unlink", "fstat") or not temporaries(tmp_path)
        if out.exists():
            whole(out)
        if case == "over":
            assert tree(out) in (before, tree(tmp_path / "whole" / "out"))
        run(sink, NEW)
        assert numberless(tree(tmp_path / "new")) == expected
        shutil.rmtree(tmp_path / "new")
    assert hits or step in ("unlink", "symlink", "rename")


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts, and remounts, a tmpfs with the given options."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(*options):
        arguments = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")
        return path

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(path)], capture_output=True, check=False)


@pytest.mark.parametrize("layout", ["list", "columns"])
def test_a_full_disk(small_disk, tmp_path, layout):
    data = made(20_000, 10, carry=False, step=1000)
    run(Sink(tmp_path / "whole", layout=layout, part_bytes=40_000), data)
    disk = small_disk("size=400k")
    sink = Sink(disk / "out", layout=layout, part_bytes=40_000)
    with pytest.raises(OutputError, match="No space left on device; free some space") as refused:
        run(sink, data)
    assert refused.value.errno == errno.ENOSPC
    assert temporaries(disk) == []
    whole(disk / "out")
    done = len(list((disk / "out").glob("part-*")))
    assert 0 < done < 20
    small_disk("remount", "size=10m")
    assert len(sink.open(data).pending) in (20 - done, 21 - done)
    run(sink, data)
    assert tree(disk / "out") == tree(tmp_path / "whole")


def test_a_read_only_disk(small_disk, tmp_path):
    data = made(300).then(Scaled(5))
    disk = small_disk("size=10m")
    sink = Sink(disk / "out", part_bytes=3000)
    job = sink.open(data)
    write_parts(job, data, job.parts[:1])
    small_disk("remount", "ro")
    with pytest.raises(OutputError, match="Read-only file system; choose a path that") as refused:
        write_parts(job, data, job.parts[1:])
    assert refused.value.errno == errno.EROFS
    with pytest.raises(OutputError, match="Read-only"):
        Sink(disk / "other").open(data)
    small_disk("remount", "rw")
    run(sink, data)
    run(Sink(tmp_path / "whole", part_bytes=3000), data)
    assert tree(disk / "out") == tree(tmp_path / "whole")


def test_no_permission(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root; test_a_read_only_disk stands for it")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        Sink(tmp_path / "closed" / "out").open(NEW)
