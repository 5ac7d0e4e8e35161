"""Kill executors, Python workers and drivers of a Spark cluster at random moments: the bytes stay the same."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("pyspark")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java", allow_module_level=True)

from tests.engines.spark_driver import LEAF
from tests.engines.spark_processes import Cluster, end, made_zip
from tests.faults.spark_runs import Run, kill_one, parts, reference, submitted
from tests.jobs.conftest import write_vectors
from tests.support.trees import tree

pytestmark = pytest.mark.slow

TARGETS = {"executor": 4, "python": 3, "driver": 3}
"""Kills of each target in each stage: 20 in all."""
KILLS = [(t, stage, moment) for stage in ("gram", "write") for t, count in TARGETS.items() for moment in range(count)]
HITS: list[bool] = []
"""Of each kill, whether it came before the end of the run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("input") / "data", files=4, rows=4000, group=LEAF)


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_zip(tmp_path_factory.mktemp("dist") / "eigenmill.zip")


@pytest.fixture(scope="module")
def sketched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return reference(folder, tmp_path_factory.mktemp("sketched"), "sketch")


@pytest.fixture(scope="module")
def length(spark_cluster: Cluster, folder: Path, zipped: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of the fit in a run without kills."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run = submitted(spark_cluster, folder, out, zipped)
    began, write = run.until("gram"), run.until("write")
    run.finish()
    return write - began


def wait_within(stage: str, share: float, length: float, out: Path, total: int, run: Run) -> None:
    """Until a share of the stage is over: of the seconds of a fit, or of the parts of a write."""
    if stage == "gram":
        time.sleep(share * length)
        return
    while parts(out) < share * total and run.process.poll() is None:
        time.sleep(0.02)


@pytest.mark.parametrize(("target", "stage", "moment"), KILLS)
def test_same_bytes_after_a_kill(
    target: str,
    stage: str,
    moment: int,
    spark_cluster: Cluster,
    folder: Path,
    zipped: Path,
    spark_files: dict[str, str],
    length: float,
    space: Path,
) -> None:
    rng, out = random.Random(f"{target} {stage} {moment}"), space / "out"
    total = sum(name.startswith("features/part-") for name in spark_files)
    out.mkdir()
    run = submitted(spark_cluster, folder, out, zipped)
    try:
        run.until(stage)
        wait_within(stage, rng.uniform(0, 0.8), length, out, total, run)
        early = not (out / "features/_SUCCESS").exists()
        if target == "driver":
            run.kill(rng)
            HITS.append(early)
            run = submitted(spark_cluster, folder, out, zipped)
        else:
            HITS.append(kill_one(spark_cluster, target, rng) and early)
        run.finish()
    finally:
        end(run.process)
    assert tree(out, without="work") == spark_files


def test_most_kills_came_before_the_end() -> None:
    assert 2 * sum(HITS) >= len(HITS), "or nothing is tested"


@pytest.mark.parametrize(("target", "scan"), [("driver", 1), ("driver", 3), ("executor", 2), ("executor", 4)])
def test_a_sketch_goes_on_after_its_last_whole_scan(
    target: str, scan: int, spark_cluster: Cluster, folder: Path, zipped: Path, sketched: dict[str, str], space: Path
) -> None:
    """Of the five scans, ``scan`` of the four over sketches is hit."""
    rng, out = random.Random(f"{target} {scan}"), space / "out"
    out.mkdir()
    run = submitted(spark_cluster, folder, out, zipped, "sketch")
    try:
        run.until("sketch", scan)
        if target == "driver":
            run.kill(rng)
            run = submitted(spark_cluster, folder, out, zipped, "sketch")
        else:
            assert kill_one(spark_cluster, target, rng)
        run.finish()
    finally:
        end(run.process)
    assert tree(out, without="work") == sketched
    whole = ["moments", *["sketch"] * 4, "write", "done"]
    assert run.printed == (whole if target == "executor" else whole[scan:])
