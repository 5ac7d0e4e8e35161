"""What a plan says of a cluster, beside what the real Dask scheduler then does. Files exist as metadata only."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import Counted, NullPass, simulate, unread
from reduce import PCA, ConfigError, Dataset, connect
from reduce.engines.load import Cluster, Load, fold_load
from reduce.plan import explain
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
    for wrong in ({"kind": "local", "workers": 2}, {"kind": "dask", "workers": 0}):
        with pytest.raises(ConfigError, match="expected a cluster of kind dask or spark"):
            Cluster(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_driver_does_not_hold_what_the_cluster_does(tmp_path: Path) -> None:
    """States of 256 KiB: those of 20,000 files would be 5 GB, those of 4,096 tasks 1 GB."""
    state = 256 << 10
    with cluster(tmp_path / "cluster") as found, distributed.Client(found.address) as client:
        client.wait_for_workers(2)
        peaks: dict[int, int] = {}
        for files in (100, 1_000, 20_000):
            data: Any = unread(files, tmp_path)
            engine = connect("dask", client)
            _ = data.fragments
            gc.collect()
            tracemalloc.start()
            engine.run(NullPass(state), data)
            peaks[files] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    # What grows is the descriptions of files and tasks.
    described = fold_load(NullPass(state), unread(20_000, tmp_path), Cluster("dask", 2), 0).described_bytes
    assert peaks[20_000] - peaks[1_000] < 6 * described
    assert peaks[20_000] < 200 << 20
