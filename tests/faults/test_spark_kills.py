"""Kill executors, Python workers and drivers of a Spark cluster at random moments: the bytes stay the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("pyspark")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java", allow_module_level=True)

from reduce import Dataset, connect
from tests.engines.contract import tree_of
from tests.engines.spark_driver import LEAF, fit_and_write
from tests.engines.spark_processes import ROOT, Cluster, children, cluster, end, made_zip, submit
from tests.jobs.conftest import D, write_vectors

pytestmark = pytest.mark.slow

DRIVER = ROOT / "tests/engines/spark_driver.py"
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
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "c") as found:
        yield found


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reduce.dataset.LEAF_BYTES", LEAF * D * 8)
        data = Dataset.from_parquet(folder, vector="x", carry=["id"])
        fit_and_write(data, str(out), connect("local", workers=1))
    found = tree_of(out)
    assert len(found) > 100
    return found


class Run:
    """The job through spark-submit, which tells of its stages; its log is read all the while."""

    def __init__(self, found: Cluster, folder: Path, out: Path, zipped: Path) -> None:
        self.process = submit(found.address, DRIVER, [str(folder), str(out)], out.parent, zipped=zipped)
        self.log: list[str] = []
        self.printed: list[str] = []
        assert self.process.stderr is not None
        self.reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,))
        self.reader.start()

    def until(self, stage: str) -> float:
        """Wait for a stage to begin; when it did."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line)
            if line.strip() == stage:
                return time.monotonic()
        raise AssertionError("".join([*self.printed, *self.log[-60:]]))

    def finish(self) -> None:
        self.until("done")
        assert self.process.wait(60) == 0, "".join(self.log[-60:])
        self.close()

    def kill(self, rng: random.Random) -> None:
        """Kill the driver: its Python process or its Java machine, and then what is left of both."""
        pythons = children(self.process.pid, recursive=False)
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice([psutil.Process(self.process.pid), *pythons]).kill()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError("half of a driver lives on") from None
        _, alive = psutil.wait_procs(pythons, 60)
        assert not alive
        self.close()

    def close(self) -> None:
        self.reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def kill_one(found: Cluster, target: str, rng: random.Random) -> bool:
    """Kill a random process of that kind, if there is one at this moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        victims = found.executors() if target == "executor" else found.pythons()
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            rng.choice(victims).kill()
            return True
    return False


def outputs(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree_of(out).items() if not name.startswith("work/")}


@pytest.fixture(scope="module")
def length(running: Cluster, folder: Path, zipped: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of the fit in a run without kills."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run = Run(running, folder, out, zipped)
    began, write = run.until("gram"), run.until("write")
    run.finish()
    return write - began


def wait_within(stage: str, share: float, length: float, out: Path, parts: int, run: Run) -> None:
    """Until a share of the stage is over: of the seconds of a fit, or of the parts of a write."""
    if stage == "gram":
        time.sleep(share * length)
        return
    while len(list(out.glob("features/part-*"))) < share * parts and run.process.poll() is None:
        time.sleep(0.02)


@pytest.mark.parametrize(("target", "stage", "moment"), KILLS)
def test_same_bytes_after_a_kill(
    target: str,
    stage: str,
    moment: int,
    running: Cluster,
    folder: Path,
    zipped: Path,
    expected: dict[str, str],
    length: float,
    space: Path,
) -> None:
    rng, out = random.Random(f"{target} {stage} {moment}"), space / "out"
    parts = sum(name.startswith("features/part-") for name in expected)
    out.mkdir()
    run = Run(running, folder, out, zipped)
    try:
        run.until(stage)
        wait_within(stage, rng.uniform(0, 0.8), length, out, parts, run)
        early = not (out / "features/_SUCCESS").exists()
        if target == "driver":
            run.kill(rng)
            HITS.append(early)
            run = Run(running, folder, out, zipped)
        else:
            HITS.append(kill_one(running, target, rng) and early)
        run.finish()
    finally:
        end(run.process)
    assert outputs(out) == expected


def test_most_kills_came_before_the_end() -> None:
    assert 2 * sum(HITS) >= len(HITS), "or nothing is tested"
