"""What a plan says of a cluster, beside what the real Dask scheduler then does. Files exist as metadata only."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scale import FEATURES, Counted, NullPass, simulate, unread
from eigenmill.reduce import PCA, ConfigError, Dataset, Sink, connect, load
from eigenmill.reduce.engines.base import Tree, plan_leaves
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.load import Load, fold_load
from eigenmill.reduce.engines.memory import estimate
from eigenmill.reduce.engines.ship import pack
from eigenmill.reduce.engines.tasks import fold_tasks
from eigenmill.reduce.estimators.record import rows_not_seen
from eigenmill.reduce.output.parts import plan_parts
from eigenmill.reduce.output.sink import WriteJob, read_manifest
from eigenmill.reduce.plan import explain
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.catalog import Files
from tests.engines.dask_processes import cluster

distributed = pytest.importorskip("distributed")


def both(data: Dataset, state: int, workers: int) -> tuple[Load, Counted]:
    return fold_load(NullPass(state), data, Cluster("dask", workers), 0), simulate(data, state, workers)


def compare(predicted: Load, measured: Counted) -> None:
    assert measured.tasks == predicted.tasks
    assert measured.nodes == predicted.tasks + predicted.merges
    assert predicted.described_bytes == pytest.approx(measured.described, rel=0.25)
    assert predicted.moved_bytes == pytest.approx(measured.moved, rel=0.25)


def test_tasks_and_bytes_of_a_real_scheduler(tmp_path: Path) -> None:
    compare(*both(unread(300, tmp_path), 64 << 10, 4))


@pytest.mark.slow
def test_tasks_and_bytes_of_100_000_files(tmp_path: Path) -> None:
    compare(*both(unread(100_000, tmp_path), 64 << 10, 50))


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes that ``work`` holds at its peak."""
    gc.collect()
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def planned(data: Dataset) -> int:
    """Plan a fit and a write of ``data`` on a cluster; the largest description among some of the fit's tasks."""
    assert data.digest
    assert len(plan_parts(data.fragments, 50, 4, None, data.format)) > 1
    assert estimate(NullPass(64), data, 1).peak
    assert fold_load(NullPass(64), data, Cluster("dask", 1000), 0).tasks
    tasks = fold_tasks(NullPass(64), data, Tree(), 4096)
    step = max(len(tasks) // 20, 1)
    return max(len(pack(tasks[i])) for i in range(0, len(tasks), step))


def test_planning_takes_little_for_a_file(tmp_path: Path) -> None:
    """At its peak 300 bytes a file, of which 110 stay: and these are all that a data set holds."""
    few, many = unread(100, tmp_path), unread(2_100, tmp_path)
    planned(few)  # imports and the like
    assert peak_of(lambda: unread(2_100, tmp_path)) - peak_of(lambda: unread(100, tmp_path)) < 2_000 * 300
    assert peak_of(lambda: planned(many)) - peak_of(lambda: planned(few)) < 2_000 * 300


def test_planning_takes_nothing_for_a_row_group(tmp_path: Path) -> None:
    """Leaves take some 20 bytes each while they are cut: one for 64 MiB of data."""
    few, many = unread(20, tmp_path, groups=160), unread(20, tmp_path, groups=1_600)
    assert len(many.fragments) == 10 * len(few.fragments) == 32_000
    leaves = len(plan_leaves(many)) - len(plan_leaves(few))
    planned(few)
    assert peak_of(lambda: unread(20, tmp_path, groups=1_600)) - peak_of(lambda: unread(20, tmp_path)) < 4_000
    assert peak_of(lambda: planned(many)) - peak_of(lambda: planned(few)) < leaves * 40
    # A task says which run of fragments it reads.
    assert abs(planned(many) - planned(few)) < 20


def output_peaks(files: int, space: Path) -> dict[str, int]:
    """Peaks of one process that begins, goes on with, finishes, reads and finds again an output of so many files."""
    # A hundred files a part, without rows: what grows is what is known of the input.
    sink, peaks = Sink(space / f"{files}", part_bytes=1 << 30), {}
    model = PCA(50).fit(np.random.default_rng(0).standard_normal((60, FEATURES)).astype(np.float32))
    model = PCA.from_snapshot(replace(model.snapshot(), names=unread(1, space).feature_names))
    data = model.transform(unread(files, space))
    jobs: list[WriteJob] = []
    peaks["begin"] = peak_of(lambda: jobs.append(sink.open(data)))
    for part in jobs[0].parts:
        with jobs[0].writing(part):
            pass
    peaks["go on"] = peak_of(lambda: sink.open(data))
    peaks["finish"] = peak_of(jobs[0].commit)
    peaks["read"] = peak_of(lambda: read_manifest(sink.path).digest)
    peaks["find again"] = peak_of(lambda: sink.open(data))
    found = read_manifest(sink.path)
    assert len(found.input["files"]) == files
    assert sum(len(part.source) for part in found.parts) == files
    return peaks


def state_peaks(files: int, space: Path) -> dict[str, int]:
    """Peaks of one process that saves, loads and goes on from the state of a fit of so many files."""
    data, peaks = unread(files, space), {}
    model = PCA(2).fit(np.random.default_rng(0).standard_normal((60, FEATURES)), keep_state=True)
    known = model.state()
    assert known is not None
    record_ = replace(known, files=Files(seen.absolute_files(data.source)))
    model = PCA.from_snapshot(model.snapshot(), lambda: record_)
    peaks["save"] = peak_of(lambda: model.save(space / f"{files}", state=True))
    loaded: list[PCA] = []
    peaks["load"] = peak_of(lambda: loaded.append(load(space / f"{files}")))
    peaks["restore"] = peak_of(loaded[0].state)
    record = loaded[0].state()
    assert record is not None
    assert len(record.files) == files
    peaks["compare"] = peak_of(lambda: rows_not_seen(data, record))
    assert not rows_not_seen(data, record)[0].source.files
    return peaks


def grows_by(peaks: Callable[[int, Path], dict[str, int]], few: int, many: int, space: Path) -> dict[str, float]:
    """Bytes by which each of the peaks grows with a file."""
    peaks(10, space / "first")  # imports and the like
    low, high = (peaks(files, space) for files in (few, many))
    return {name: (high[name] - low[name]) / (many - few) for name in high}


@pytest.fixture
def one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished files are verified by a thread for each CPU, with 256 KiB for each that happens to read at the peak."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.mark.usefixtures("one_reader")
def test_an_output_takes_little_for_an_input_file(tmp_path: Path) -> None:
    """A path and a digest are a hundred bytes; the rest is buffers of a fixed size, not yet full with so few files."""
    found = grows_by(output_peaks, 600, 1_600, tmp_path)
    assert all(growth < 400 for growth in found.values()), found


def test_a_state_takes_little_for_a_file_seen(tmp_path: Path) -> None:
    found = grows_by(state_peaks, 200, 500, tmp_path)
    assert all(growth < 300 for growth in found.values()), found


@pytest.mark.slow
@pytest.mark.usefixtures("one_reader")
def test_an_output_and_a_state_of_100_000_files(tmp_path: Path) -> None:
    found = grows_by(output_peaks, 10_000, 100_000, tmp_path / "output")
    found |= grows_by(state_peaks, 10_000, 100_000, tmp_path / "state")
    print({name: round(growth) for name, growth in found.items()})
    assert all(growth < 300 for growth in found.values()), found


def test_ten_terabytes_on_a_thousand_workers(tmp_path: Path) -> None:
    data = unread(10_000, tmp_path)  # a tenth of the files: the number of tasks hardly grows
    plan = explain(PCA(50, scale=True), data, Cluster("dask", 1000, memory=4 << 30))
    load = plan.scans[0].load
    assert load is not None
    assert 2000 < load.tasks <= 4096
    assert load.merges < load.tasks / 5
    assert load.described_bytes < 100 << 20
    assert load.driver_bytes < 1 << 30
    assert load.worker_bytes < 1 << 30
    assert plan.fits
    assert not explain(PCA(50), data, Cluster("dask", 1000, memory=1 << 28)).fits
    spark = explain(PCA(50), data, Cluster("spark", 1000)).scans[0].load
    assert spark is not None
    assert spark.tasks <= 1024


def test_a_cluster_is_one() -> None:
    assert Cluster("dask", workers=1, threads=1).costs is Cluster("dask", workers=2).costs
    no_threads = {"kind": "spark", "workers": 1, "threads": 0}
    for wrong in ({"kind": "local", "workers": 2}, {"kind": "dask", "workers": 0}, no_threads):
        with pytest.raises(ConfigError, match="expected a cluster of kind dask or spark"):
            Cluster(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip")
def test_no_namespace_is_left_behind() -> None:
    work = "import time\nfrom benchmarks.links import namespaces\nwith namespaces(2):\n    print('up', flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", work + "    time.sleep(300)"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"up\n":
            pytest.skip("this machine allows no network namespaces")
        assert {"em-0", "em-1"} <= namespaces_now()
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not {name for name in namespaces_now() if name.startswith("em-")}


def namespaces_now() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


@pytest.mark.slow
def test_the_driver_does_not_hold_what_the_cluster_does(tmp_path: Path) -> None:
    """States of 64 KiB: those of 40,000 files would be 2.6 GB, those of 2,500 tasks 160 MB."""
    state = 64 << 10
    with cluster(tmp_path / "cluster") as found, distributed.Client(found.address) as client:
        client.wait_for_workers(2)
        peaks: dict[int, int] = {}
        for files in (100, 10_000, 40_000):
            data: Any = unread(files, tmp_path)
            engine = connect("dask", client)
            _ = data.fragments
            gc.collect()
            tracemalloc.start()
            engine.run(NullPass(state), data)
            peaks[files] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    # Both have 2,500 tasks: what grows is the descriptions of files.
    assert peaks[40_000] - peaks[10_000] < 30_000 * 300
    assert peaks[40_000] < 64 << 20
