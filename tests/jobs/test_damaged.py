"""What is damaged is not absent: models, notes, manifests and records are refused by name, and left as they are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from eigenmill.jobs.daily import stages
from eigenmill.jobs.daily.config import DailyFile
from eigenmill.jobs.reduction.config import load_job
from eigenmill.jobs.reduction.run import run
from eigenmill.jobs.saved.apply import transform, update
from eigenmill.reduce import connect
from eigenmill.reduce.errors import ArtifactError, OutputError
from tests.jobs.days import DAYS
from tests.support.trees import tree


def spoil(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("overwrite", ["false", "true"])
@pytest.mark.parametrize("name", ["model.json", "arrays-*.safetensors"])
def test_a_model_that_a_job_finds(job: Path, tmp_path: Path, name: str, overwrite: str) -> None:
    run(load_job(job))
    (path,) = (tmp_path / "out/model").glob(name)
    spoil(path)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=path.name):
        run(load_job(job, [f"output.overwrite={overwrite}"]))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "eigenmill-fitted", "wrong": 1}', '{"key": "", "model": ""}']
)
def test_the_note_of_a_job_whose_model_is_used(job: Path, tmp_path: Path, content: str, caplog: Any) -> None:
    """It says which weights, filters and columns the model was fitted with: read as absent, rows would be others."""
    run(load_job(job, ["output.state=true"]))
    note, engine = tmp_path / "out/model/job.json", connect("local", workers=1)
    right = note.read_text()
    note.write_text(content)
    before = tree(tmp_path)
    for use in (
        lambda: transform(str(note.parent), str(tmp_path / "data"), str(tmp_path / "new"), engine),
        lambda: update(str(note.parent), str(tmp_path / "data"), engine),
    ):
        with pytest.raises(ArtifactError, match=r"job\.json"):
            use()
    assert tree(tmp_path) == before
    # The job itself makes it again, and says so.
    with caplog.at_level(logging.WARNING, "eigenmill"):
        assert run(load_job(job, ["output.state=true"])).fitted
    assert "job.json" in caplog.text
    assert "fitted again" in caplog.text
    assert note.read_text() == right


def test_features_that_a_day_has_written(three_days: DailyFile, tmp_path: Path) -> None:
    stages.run_day(three_days, DAYS[0])
    for stage in (stages.fit, stages.gate, stages.project):
        stage(three_days, DAYS[1])
    manifest = tmp_path / f"out/versions/v0001/features/day={DAYS[1]}/_manifest.json"
    spoil(manifest)
    before = tree(tmp_path)
    for stage in (stages.publish, stages.project):
        with pytest.raises(OutputError, match=rf"day={DAYS[1]}/_manifest\.json"):
            stage(three_days, DAYS[1])
    assert tree(tmp_path) == before


def test_the_record_of_what_is_published(three_days: DailyFile, tmp_path: Path) -> None:
    stages.run_day(three_days, DAYS[0])
    stages.fit(three_days, DAYS[1])
    (tmp_path / "out/published.json").write_text("{")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"published\.json"):
        stages.gate(three_days, DAYS[1])
    assert tree(tmp_path) == before
