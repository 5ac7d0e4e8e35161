"""Kill workers and the client of a Dask cluster at random moments of fit and of write: the bytes stay the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from eigenmill.reduce import PCA, Dataset, connect
from tests.engines.dask_processes import ROOT, Cluster, cluster
from tests.faults.staged import Staged
from tests.jobs.conftest import D, write_vectors
from tests.support.formats import other
from tests.support.trees import tree

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

MOMENTS = 4
"""Kills of each kind in each stage: 32 in all."""
LEAF = 50
LEAF_BYTES = LEAF * D * 8
PART_BYTES = 2000

CHILD = """
import sys, time
from eigenmill.reduce import PCA, Dataset, connect
from tests.support.formats import other
from tests.support.progress import Recorder

told = Recorder(lambda scan: scan.calls or print(scan.stage, flush=True))
data, out, address, leaf_bytes, part_bytes, solver = sys.argv[1:]
dataset = Dataset.from_parquet(data, vector="x", carry=["id"], format=other(leaf_bytes=int(leaf_bytes)))
engine = connect("dask", address, work=out + "/work", progress=told, patience=60.0)
block_size = 4 if solver == "sketch" else None
pca = PCA(5, scale=True, solver=solver, block_size=block_size).fit(dataset, engine=engine)
pca.save(out + "/model")
pca.transform(dataset).to_parquet(out + "/features", engine=engine, part_bytes=int(part_bytes))
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("input") / "data", files=4, rows=4000, group=LEAF)


def reference(folder: Path, out: Path, solver: str) -> dict[str, str]:
    """What the job leaves on the local engine."""
    block_size = 4 if solver == "sketch" else None
    data = Dataset.from_parquet(folder, vector="x", carry=["id"], format=other(leaf_bytes=LEAF_BYTES))
    engine = connect("local", workers=1)
    pca = PCA(5, scale=True, solver=solver, block_size=block_size).fit(data, engine=engine)
    pca.save(out / "model")
    pca.transform(data).to_parquet(out / "features", engine=engine, part_bytes=PART_BYTES)
    found = tree(out)
    assert len(found) > 100
    return found


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return reference(folder, tmp_path_factory.mktemp("expected"), "gram")


@pytest.fixture(scope="module")
def sketched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return reference(folder, tmp_path_factory.mktemp("sketched"), "sketch")


@pytest.fixture(scope="module", params=[False, True], ids=["no nanny", "nanny"])
def running(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), nanny=request.param) as found:
        yield found


class Run(Staged):
    """The job in a process of its own, which tells of its stages: one scan with ``gram``, five with ``sketch``."""

    def __init__(self, data: Path, out: Path, address: str, solver: str = "gram") -> None:
        out.mkdir(exist_ok=True)
        self.log = (out.parent / f"{out.name}.log").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, (data, out, address, LEAF_BYTES, PART_BYTES, solver))],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        )
        super().__init__(process)

    def told(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def finish(self) -> None:
        self.until("done")
        assert self.process.wait(60) == 0
        self.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


def kill_worker(found: Cluster, rng: random.Random) -> None:
    """Kill one worker; a nanny starts it again, and where there is none, the test starts another."""
    living = [w for w in found.workers if w.poll() is None]
    victim = rng.choice(living)
    if found.nannies:
        children = [p for p in psutil.Process(victim.pid).children(recursive=True) if "spawn_main" in str(p.cmdline())]
        with contextlib.suppress(psutil.NoSuchProcess):
            children[0].kill()
        return
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    found.add()


def stage_seconds(folder: Path, out: Path, address: str) -> dict[str, float]:
    """How long a run without kills takes; also the first of this cluster."""
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        run = Run(folder, out, address)
        began, write, done = run.until("gram"), run.until("write"), run.until("done")
        run.process.wait(60)
        run.close()
    shutil.rmtree(out)
    return {"gram": write - began, "write": done - write}


@pytest.mark.parametrize("target", ["worker", "client"])
def test_same_bytes_after_kills(
    target: str, running: Cluster, folder: Path, expected: dict[str, str], space: Path
) -> None:
    lengths = stage_seconds(folder, space / "whole", running.address)
    rng, hit = random.Random(f"{target} {running.nannies}"), 0
    for stage in ("gram", "write"):
        for moment in range(MOMENTS):
            out = space / f"{stage}{moment}"
            run = Run(folder, out, running.address)
            run.until(stage)
            time.sleep(rng.uniform(0, 0.8 * lengths[stage]))
            hit += not (out / "features/_SUCCESS").exists()
            if target == "worker":
                kill_worker(running, rng)
            else:
                run.kill()
                run = Run(folder, out, running.address)
            run.finish()
            assert tree(out, without="work") == expected, f"{target} killed at moment {moment} of {stage}"
            shutil.rmtree(out)
    assert hit >= MOMENTS, "most kills must come before the end, or nothing is tested"


@pytest.mark.parametrize(("target", "scan"), [("client", 1), ("client", 3), ("worker", 2), ("worker", 4)])
def test_a_sketch_goes_on_after_its_last_whole_scan(
    target: str, scan: int, running: Cluster, folder: Path, sketched: dict[str, str], space: Path
) -> None:
    """Of the five scans, ``scan`` of the four over sketches is hit."""
    rng, out = random.Random(f"{target} {scan} {running.nannies}"), space / "out"
    run = Run(folder, out, running.address, "sketch")
    run.until("sketch", scan)
    if target == "worker":
        kill_worker(running, rng)
    else:
        run.kill()
        run = Run(folder, out, running.address, "sketch")
    run.finish()
    assert tree(out, without="work") == sketched
    whole = ["moments", *["sketch"] * 4, "write", "done"]
    assert run.printed == (whole if target == "worker" else whole[scan:])
