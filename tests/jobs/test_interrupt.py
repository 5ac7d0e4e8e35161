"""Stopped by a signal and run again, a job ends with the bytes of one that was never stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eigenmill.jobs.reduction.config import load_job, read_job
from eigenmill.jobs.reduction.run import run
from eigenmill.jobs.shown import exits
from tests.jobs.conftest import FILES, ROWS, D, job_text, tree, write_vectors
from tests.support.formats import use

GROUP = 200
DRIVER = f"""
import sys, time
import eigenmill.reduce.sources.matrix
from tests.support.formats import switch
switch(leaf_bytes=8 * {D} * {GROUP})
pause, blocks = float(sys.argv.pop(1)), eigenmill.reduce.sources.matrix.Matrix.blocks
def slow(self, fragment, workspace, **options):
    for block in blocks(self, fragment, workspace, **options):
        time.sleep(pause)
        yield block
eigenmill.reduce.sources.matrix.Matrix.blocks = slow
from eigenmill.jobs.cli import main
main()
"""
"""Many small leaves, and a pause in every block: the moments at which a signal comes are the same on any machine."""


def start(conf: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", DRIVER, str(pause), "reduce", str(conf), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_when(process: subprocess.Popen[str], ready: Callable[[], bool], with_: signal.Signals) -> int:
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(with_)
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert json.loads(output)["error"]["exit_code"] == exits.INTERRUPTED
    return process.returncode


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=8 * D * GROUP)


def results(out: Path) -> dict[str, bytes]:
    return {**tree(out / "features"), **tree(out / "model")}


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize(("stage", "with_"), [("fit", signal.SIGINT), ("write", signal.SIGTERM)])
def test_it_goes_on(stage: str, with_: signal.Signals, tmp_path: Path) -> None:
    data = write_vectors(tmp_path / "data", group=GROUP)
    assert run(read_job(job_text(data, tmp_path / "whole"), "whole")).resumed is False
    conf, out = tmp_path / "job.yaml", tmp_path / "out"
    conf.write_text(job_text(data, out, save_every=0.001))

    def ready() -> bool:
        return (
            any(out.glob(".model.work-*/*.state")) if stage == "fit" else (out / "features/_parts/00002.json").exists()
        )

    assert stop_when(start(conf, 0.05), ready, with_) == exits.INTERRUPTED
    assert not (out / "features/_SUCCESS").exists()
    assert (out / "model/model.json").exists() == (stage == "write")
    assert any(out.glob(".model.work-*"))
    report = run(load_job(conf))
    assert (report.status, report.resumed, report.fitted) == ("complete", True, stage == "fit")
    assert 0 < report.scans[0].rows < FILES * ROWS  # not all of it was read again
    assert results(out) == results(tmp_path / "whole")
    assert sorted(p.name for p in out.iterdir()) == ["features", "model", "report.json"]
