"""The Spark engine keeps the contract, on a session of this process."""

from __future__ import annotations

import _thread
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eigenmill.reduce import DataError, Dataset, DoesNotFitError, OutputError, Sink, connect
from eigenmill.reduce.engines.base import plan_leaves
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.load import fold_load, write_load
from eigenmill.reduce.engines.spark.engine import SparkScans
from eigenmill.reduce.engines.spark.watch import watched
from tests.engines.contract import D, EngineContract, costing, open_input, pass_of, reference, write_files
from tests.engines.session_contract import SessionContract
from tests.support.formats import use
from tests.support.trees import tree

pytestmark = pytest.mark.filterwarnings("default")  # those of pyspark


class TestSpark(EngineContract, SessionContract):
    jobs = 3

    @pytest.fixture
    def make_engine(self, spark: Any) -> Any:  # type: ignore[override]
        return lambda **options: connect("spark", spark, **options)

    @pytest.fixture(autouse=True)
    def tiny_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, leaf_bytes=1)
        # A task then folds runs of four leaves.
        costing(monkeypatch, "spark", tasks=4)


def test_a_file_system_that_workers_do_not_see(spark: Any, tmp_path: Path) -> None:
    """fsspec's memory is that of this process alone: as unreachable from a Python worker as another machine's disk."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    folder = write_files(tmp_path)
    for file in sorted(folder.iterdir()):
        memory.pipe_file(f"/unseen/{file.name}", file.read_bytes())
    engine, columns = connect("spark", spark), [f"f{j}" for j in range(D)]
    unseen = Dataset.from_parquet("memory://unseen", columns=columns)
    with pytest.raises(DataError, match=r"expected the file .* found none at .*part-0\.parquet; .* every worker see"):
        engine.run(pass_of("gram", unseen), unseen)
    seen = Dataset.from_parquet(folder, columns=columns)
    with pytest.raises(OutputError, match=r"expected .*found"):
        engine.write(seen, Sink("/elsewhere", filesystem=memory))
    for name in memory.ls("/", detail=False):
        memory.rm(name, recursive=True)


def test_what_does_not_fit_names_the_line_of_the_configuration(spark: Any, tmp_path: Path) -> None:
    data, name = open_input("scalar", tmp_path), "spark.executor.pyspark.memory"
    allow = "spark.sql.legacy.setCommandRejectsSparkCoreConfs"
    spark.conf.set(allow, "false")
    try:
        spark.conf.set(name, "200m")
        spark.conf.set("spark.executor.cores", "4")
        with pytest.raises(
            DoesNotFitError, match=r"within 200\.0 MiB .* found that 4 cores need .* set (\S+)m"
        ) as found:
            connect("spark", spark).run(pass_of("gram", data), data)
        advice = re.search(r"set (\S+)=(\d+m)", str(found.value))
        assert advice is not None
        assert advice[1] == name
        spark.conf.set(name, advice[2])
        assert connect("spark", spark).run(pass_of("gram", data), data) is not None
    finally:
        for each in (name, "spark.executor.cores", allow):
            spark.conf.unset(each)


def test_explain_counts_the_tasks_that_are_cut(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some per core of the cluster, several leaves or parts in each."""
    use(monkeypatch, leaf_bytes=1)
    costing(monkeypatch, "spark", per_core=1, few=2, tasks=3, round_parts=3)
    engine, data = connect("spark", spark), open_input("scalar", tmp_path)
    pass_ = pass_of("gram", data)
    cut, shipped = SparkScans._map, list[int]()

    def seen(*given: Any) -> Any:
        frame = cut(*given)
        shipped.append(frame.rdd.getNumPartitions())
        return frame

    monkeypatch.setattr(SparkScans, "_map", seen)
    here = Cluster("spark", spark.sparkContext.defaultParallelism)
    engine.run(pass_, data)
    assert len(plan_leaves(data)) > 1, "several leaves"
    assert shipped == [fold_load(pass_, data, here, 0).tasks]
    shipped.clear()
    sink = Sink(tmp_path / "out", part_bytes=1)
    parts = sink.open(data).pending
    engine.write(data, sink)
    assert len(parts) > 3, "more than a round"
    assert sum(shipped) == write_load(data, here, 0, parts).tasks < len(parts)


def test_a_write_in_rounds(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptions that the driver holds at a time do not grow with the number of parts."""
    costing(monkeypatch, "spark", tasks=2, round_parts=2)
    engine, data = connect("spark", spark), open_input("scalar", tmp_path)
    shipped, collect = [], SparkScans._map

    def seen(self: SparkScans, tasks: Any, work: Any) -> Any:
        shipped.append(len(tasks))
        return collect(self, tasks, work)

    monkeypatch.setattr(SparkScans, "_map", seen)
    for each, out in ((engine, "a"), (reference(), "b")):
        each.write(data, Sink(tmp_path / out, part_bytes=300))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert shipped == [2, 1], "three parts, by two"


def test_what_nobody_waits_for_any_more_is_cancelled(spark: Any) -> None:
    context, group = spark.sparkContext, "left alone"

    def wait() -> Any:
        context.setJobGroup(group, "waits for a minute")
        return context.parallelize(range(2), 2).map(lambda _: time.sleep(60)).collect()

    def interrupt() -> None:
        while not context.statusTracker().getJobIdsForGroup(group):
            time.sleep(0.1)
        _thread.interrupt_main()

    theirs = signal.signal(signal.SIGINT, signal.default_int_handler)  # pyspark's own one cancels all jobs
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            watched(spark, group, wait, 60.0)
    finally:
        signal.signal(signal.SIGINT, theirs)
    (job,) = context.statusTracker().getJobIdsForGroup(group)
    while (found := context.statusTracker().getJobInfo(job).status) == "RUNNING":  # as listeners have heard so far
        time.sleep(0.1)
    assert found == "FAILED"
