"""Kill the job at random moments of fit and of write; the rerun ends with the same bytes, whatever was half done."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import PCA, Dataset
from eigenmill.reduce.engines.local.engine import LocalEngine
from tests.support.formats import other
from tests.support.progress import Recorder, Scan
from tests.support.trees import tree

MOMENTS = [pytest.param(6, id="some"), pytest.param(20, id="many", marks=pytest.mark.slow)]
COLUMNS = [f"c{j}" for j in range(48)]
FILES, LEAVES, LEAF_ROWS = 3, 8, 300
"""Many leaves, each with its checkpoint, and many parts; few rows, for the time goes into files and processes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    (folder / "data").mkdir()
    for f in range(FILES):
        X = rng.standard_normal((LEAVES * LEAF_ROWS, len(COLUMNS))) + 5
        table = pa.table({"id": np.arange(len(X)) + f * len(X)} | dict(zip(COLUMNS, X.T, strict=True)))
        pq.write_table(table, folder / f"data/{f}.parquet", row_group_size=LEAF_ROWS)
    return folder


def job(data: str, out: str, told: Recorder) -> None:
    """Fit with a checkpoint after every leaf, save, write many parts."""
    small = other(leaf_bytes=8 * len(COLUMNS) * LEAF_ROWS)
    dataset = Dataset.from_parquet(data, columns=COLUMNS, carry=["id"], format=small)
    engine = LocalEngine(workers=2, work=f"{out}/work", save_every=0.0, progress=told)
    pca = PCA(5, scale=True).fit(dataset, engine=engine)
    pca.save(f"{out}/model")
    pca.transform(dataset).to_parquet(f"{out}/features", engine=engine, part_bytes=4 * 5 * 2 * LEAF_ROWS)


def fail_at(call: int) -> Callable[[Scan], None]:
    """Raises when a scan goes on for that time, counted over all."""

    def act(scan: Scan) -> None:
        if scan.calls and scan.recorder.calls >= call:
            raise RuntimeError("planted")

    return act


def child(data: str, out: str, pipe: Connection, kill_in: str, after: float) -> None:
    """The job, which tells the parent when stages begin, by the CPU time of this process, which no other delays.

    It ends, as killed, so many seconds of CPU time into the stage ``kill_in``.
    """

    def begun(scan: Scan) -> None:
        if not scan.calls:
            pipe.send((scan.stage, time.process_time()))
            if scan.stage == kill_in:
                signal.setitimer(signal.ITIMER_PROF, after)  # nobody handles its signal, which ends all threads

    job(data, out, Recorder(begun))
    pipe.send(("done", time.process_time()))


@pytest.fixture(scope="module")
def context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eigenmill.reduce", __name__])  # no child imports what all need
    return context


def run(context: Any, data: Path, out: Path, kill_in: str = "", after: float = 0.0) -> dict[str, float]:
    """Run the job in a child that is killed ``after`` seconds into the stage ``kill_in``. Returns when stages began."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(str(data), str(out), theirs, kill_in, after))
    process.start()
    theirs.close()
    began: dict[str, float] = {}
    with contextlib.suppress(EOFError):
        while True:
            stage, moment = ours.recv()
            began[stage] = moment
    process.join()
    ours.close()
    assert process.exitcode == (0 if "done" in began else -signal.SIGPROF)
    return began


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("stage", ["gram", "write"])
def test_a_killed_job_run_again_ends_with_the_same_bytes(
    stage: str, moments: int, folder: Path, context: Any, space: Path
) -> None:
    whole, again = space / "whole", space / "again"
    run(context, folder / "data", whole)
    expected = tree(whole, without="work")
    began = run(context, folder / "data", again)  # the first run takes longer than those that are to be hit
    assert tree(again, without="work") == expected
    assert "features/_SUCCESS" in expected
    assert "model/model.json" in expected
    length = began["write"] - began["gram"] if stage == "gram" else began["done"] - began["write"]
    rng = random.Random(stage)
    hit = 0
    for moment in range(moments):
        out = space / f"run{moment}"
        began = run(context, folder / "data", out, stage, rng.uniform(0, length))
        hit += not (out / "features/_SUCCESS").exists()
        run(context, folder / "data", out)
        assert tree(out, without="work") == expected, f"killed at moment {moment} of {stage}"
        shutil.rmtree(out)
    assert hit >= moments // 2, "most kills must come before the end, or nothing is tested"


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("stage", ["fit", "write"])
def test_an_exception_leaves_nothing_half_written(stage: str, moments: int, folder: Path, space: Path) -> None:
    whole = space / "whole"
    told = Recorder()
    job(str(folder / "data"), str(whole), told)
    expected, half = tree(whole, without="work"), told.calls // 2
    rng = random.Random(stage)
    for moment in range(moments):
        out = space / f"run{moment}"
        at = rng.randint(1, half) if stage == "fit" else rng.randint(half + 1, 2 * half)
        with pytest.raises(RuntimeError, match="planted"):
            job(str(folder / "data"), str(out), Recorder(fail_at(at)))
        assert not (out / "features/_SUCCESS").exists()
        for part in (out / "features").glob("*.parquet"):
            assert pq.read_table(part).num_rows > 0
        job(str(folder / "data"), str(out), Recorder())
        assert tree(out, without="work") == expected
        shutil.rmtree(out)
