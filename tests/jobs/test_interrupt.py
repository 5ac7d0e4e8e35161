"""Stopped by a signal and run again, a job ends with the bytes of one that was never stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from eigenmill.jobs.reduction.config import load_job, read_job
from eigenmill.jobs.reduction.run import run
from eigenmill.jobs.shown import exits
from tests.jobs.conftest import FILES, ROWS, D, job_text, write_vectors
from tests.support.formats import use
from tests.support.stopped import Stopped
from tests.support.trees import tree

GROUP = 200
DRIVER = f"""
import warnings
warnings.simplefilter("error", UserWarning)
import eigenmill.reduce.sources.matrix
from tests.support.formats import switch
switch(leaf_bytes=8 * {D} * {GROUP})
blocks = eigenmill.reduce.sources.matrix.Matrix.blocks
def held(self, fragment, workspace, **options):
    for block in blocks(self, fragment, workspace, **options):
        hold()
        yield block
eigenmill.reduce.sources.matrix.Matrix.blocks = held
from eigenmill.jobs.cli import main
main()
"""
"""Many small leaves, each of which waits for the signal when its moment has come."""


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, leaf_bytes=8 * D * GROUP)


def results(out: Path) -> dict[str, str]:
    return {**tree(out / "features"), **tree(out / "model")}


@pytest.mark.usefixtures("small_leaves")
@pytest.mark.parametrize(("stage", "with_"), [("fit", signal.SIGINT), ("write", signal.SIGTERM)])
def test_it_goes_on(stage: str, with_: signal.Signals, tmp_path: Path) -> None:
    data = write_vectors(tmp_path / "data", group=GROUP)
    assert run(read_job(job_text(data, tmp_path / "whole"), "whole")).resumed is False
    conf, out = tmp_path / "job.yaml", tmp_path / "out"
    conf.write_text(job_text(data, out, save_every=0.001))

    moment = out / (".model.work-*/*.state" if stage == "fit" else "features/_parts/00002.json")
    code, output, errors = Stopped(DRIVER, moment, "reduce", str(conf), "--json").stop(with_)
    assert "Traceback" not in errors
    assert code == json.loads(output)["error"]["exit_code"] == exits.INTERRUPTED
    assert not (out / "features/_SUCCESS").exists()
    assert (out / "model/model.json").exists() == (stage == "write")
    assert any(out.glob(".model.work-*"))
    report = run(load_job(conf))
    assert (report.status, report.resumed, report.fitted) == ("complete", True, stage == "fit")
    assert 0 < report.scans[0].rows < FILES * ROWS  # not all of it was read again
    assert results(out) == results(tmp_path / "whole")
    assert sorted(p.name for p in out.iterdir()) == ["features", "model", "report.json"]
