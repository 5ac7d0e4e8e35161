"""Kill the job at random moments of fit and of write; the rerun ends with the same bytes, whatever was half done."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import random
import shutil
import signal
import time
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


class Tell:
    """Progress that tells the parent when a stage begins, by the CPU time of this process, which no other delays.

    Args:
        pipe: to the parent.
        kill_in: the stage in which this process ends, as killed.
        after: so many seconds of CPU time into that stage.
        fail_at: the call of ``advance`` that raises.
    """

    def __init__(
        self, pipe: Connection | None = None, kill_in: str = "", after: float = 0.0, fail_at: int | None = None
    ) -> None:
        self.pipe, self.kill_in, self.after, self.fail_at, self.calls = pipe, kill_in, after, fail_at, 0

    def begin(self, stage: str, rows: int, size: int) -> Tell:
        if self.pipe is not None:
            self.pipe.send((stage, time.process_time()))
        if stage == self.kill_in:
            signal.setitimer(signal.ITIMER_PROF, self.after)  # nobody handles its signal, which ends all threads
        return self

    def advance(self, rows: int) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("planted")

    def end(self) -> None:
        pass


def job(data: str, out: str, tell: Tell) -> None:
    """Fit with a checkpoint after every leaf, save, write many parts."""
    small = other(leaf_bytes=8 * len(COLUMNS) * LEAF_ROWS)
    dataset = Dataset.from_parquet(data, columns=COLUMNS, carry=["id"], format=small)
    engine = LocalEngine(workers=2, work=f"{out}/work", save_every=0.0, progress=tell)
    pca = PCA(5, scale=True).fit(dataset, engine=engine)
    pca.save(f"{out}/model")
    pca.transform(dataset).to_parquet(f"{out}/features", engine=engine, part_bytes=4 * 5 * 2 * LEAF_ROWS)


def child(data: str, out: str, pipe: Connection, kill_in: str, after: float) -> None:
    job(data, out, Tell(pipe, kill_in, after))
    pipe.send(("done", time.process_time()))


def digests(out: Path) -> dict[str, str]:
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and "work" not in p.relative_to(out).parts
    }


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
    expected = digests(whole)
    began = run(context, folder / "data", again)  # the first run takes longer than those that are to be hit
    assert digests(again) == expected
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
        assert digests(out) == expected, f"killed at moment {moment} of {stage}"
        shutil.rmtree(out)
    assert hit >= moments // 2, "most kills must come before the end, or nothing is tested"


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("stage", ["fit", "write"])
def test_an_exception_leaves_nothing_half_written(stage: str, moments: int, folder: Path, space: Path) -> None:
    whole = space / "whole"
    counter = Tell()
    job(str(folder / "data"), str(whole), counter)
    expected, half = digests(whole), counter.calls // 2
    rng = random.Random(stage)
    for moment in range(moments):
        out = space / f"run{moment}"
        at = rng.randint(1, half) if stage == "fit" else rng.randint(half + 1, 2 * half)
        with pytest.raises(RuntimeError, match="planted"):
            job(str(folder / "data"), str(out), Tell(fail_at=at))
        assert not (out / "features/_SUCCESS").exists()
        for part in (out / "features").glob("*.parquet"):
            assert pq.read_table(part).num_rows > 0
        job(str(folder / "data"), str(out), Tell())
        assert digests(out) == expected
        shutil.rmtree(out)
