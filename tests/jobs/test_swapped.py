"""Whole and valid files of other models, days and jobs in place of the right ones: each is noticed by its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from eigenmill.jobs.daily import stages as daily
from eigenmill.jobs.daily.config import DailyFile
from eigenmill.jobs.reduction.config import read_job
from eigenmill.jobs.reduction.run import run
from eigenmill.reduce import load
from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.storage.chain import FOLDER
from tests.jobs.conftest import job_text, write_vectors
from tests.jobs.days import DAYS
from tests.support.trees import tree


def swap(right: Path, other: Path) -> None:
    """Put a copy of ``other`` in place of ``right``, which may be a directory."""
    if right.is_dir():
        shutil.rmtree(right)
        shutil.copytree(other, right)
    else:
        shutil.copy(other, right)


# Day by day


def test_the_model_of_a_version(three_days: DailyFile, tmp_path: Path) -> None:
    for stage in (daily.fit, daily.gate, daily.project):
        stage(three_days, DAYS[0])
    for stage in (daily.fit, daily.gate):
        daily.publish(three_days, DAYS[0])
        stage(three_days, DAYS[1])
    version = tmp_path / "out/versions/v0001/model"
    right, other = load(version).digest_, load(tmp_path / "out/model").digest_
    swap(version, tmp_path / "out/model")
    before = tree(tmp_path / "out")
    with pytest.raises(OutputError, match=f"version 1 to have the digest {right[:12]}, found {other[:12]}; restore it"):
        daily.project(three_days, DAYS[1])
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("how", ["another day's", "gone", "begun"])
def test_the_features_of_a_day(three_days: DailyFile, tmp_path: Path, how: str) -> None:
    daily.run_day(three_days, DAYS[0])
    for stage in (daily.fit, daily.gate, daily.project):
        stage(three_days, DAYS[1])
    features = tmp_path / "out/versions/v0001/features"
    written = features / f"day={DAYS[1]}"
    if how == "another day's":
        swap(written, features / f"day={DAYS[0]}")
    elif how == "gone":
        shutil.rmtree(written)
    else:
        (written / "_manifest.json").unlink()
    before = tree(tmp_path / "out")
    with pytest.raises(OutputError, match=f"features of {DAYS[1]} by version 1 to have the digest .*run project for"):
        daily.publish(three_days, DAYS[1])
    assert tree(tmp_path / "out") == before, "neither pointer nor record"
    shutil.rmtree(written, ignore_errors=True)
    daily.run_day(three_days, DAYS[1])
    assert daily.run_day(three_days, DAYS[1])[-1].changed is False


# Jobs


@pytest.fixture
def two_jobs(tmp_path: Path) -> Any:
    """The same job over two inputs, both done, in ``a`` and ``b``: its texts."""
    texts = []
    for seed, name in enumerate("ab"):
        write_vectors(tmp_path / f"{name}/data", seed=seed)
        texts.append(job_text(tmp_path / f"{name}/data", tmp_path / f"{name}/out"))
        run(read_job(texts[-1], "job.yaml"))
    return texts


def models(folder: Path) -> dict[str, str]:
    return tree(folder / "out/model")


@pytest.mark.parametrize("noted", [True, False])
def test_the_model_of_another_input(two_jobs: Any, tmp_path: Path, noted: bool) -> None:
    """With its own note, and beside the note of the right one, which says that this job's model is another."""
    right, note = models(tmp_path / "a"), tmp_path / "a/out/model/job.json"
    words = note.read_bytes()
    swap(tmp_path / "a/out/model", tmp_path / "b/out/model")
    if not noted:
        note.write_bytes(words)
    before = tree(tmp_path / "a")
    with pytest.raises(OutputError, match=r"output\.model .* found one with another input of 3600 rows"):
        run(read_job(two_jobs[0], "job.yaml"))
    assert tree(tmp_path / "a") == before
    report = run(read_job(two_jobs[0], "job.yaml", ["output.overwrite=true"]))
    assert report.fitted
    assert models(tmp_path / "a") == right


@pytest.mark.parametrize("command", ["update", "transform"])
def test_the_note_of_another_model(two_jobs: Any, tmp_path: Path, command: str, eigenmill: Any) -> None:
    """Whole and valid, in a directory from before there were chains: its weights and filters are not the model's."""
    shutil.rmtree(tmp_path / "a/out/model" / FOLDER)
    swap(tmp_path / "a/out/model/job.json", tmp_path / "b/out/model/job.json")
    before = tree(tmp_path / "a")
    out = ["--out", tmp_path / "new"] if command == "transform" else []
    result = eigenmill(command, tmp_path / "a/out/model", tmp_path / "b/data", *out, code=6)
    assert "job.json to be of the model there" in " ".join(result.stderr.split())
    assert tree(tmp_path / "a") == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_note_beside_a_model(two_jobs: Any, tmp_path: Path, overwrite: bool) -> None:
    right = models(tmp_path / "a")
    swap(tmp_path / "a/out/model/job.json", tmp_path / "b/out/model/job.json")
    assert models(tmp_path / "a") != right
    report = run(read_job(two_jobs[0], "job.yaml", [f"output.overwrite={str(overwrite).lower()}"]))
    assert report.fitted
    assert models(tmp_path / "a") == right
    assert not run(read_job(two_jobs[0], "job.yaml")).fitted
