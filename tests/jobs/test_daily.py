"""Day by day without a scheduler: idempotent, resumable, aligned, and equal to the full fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.linalg

from eigenmill.jobs.daily import drift
from eigenmill.jobs.daily import stages as daily
from eigenmill.jobs.daily.config import DailyFile, Drift
from eigenmill.jobs.saved.apply import reconstruct
from eigenmill.reduce import PCA, ChangedInputError, ConfigError, DataError, Dataset, connect, load
from eigenmill.reduce.errors import OutputError, SchemaError
from eigenmill.reduce.output.sink import read_manifest
from eigenmill.reduce.storage.files import draft
from tests.jobs.days import BASIS, DAYS, ROWS, STRENGTHS, D, K, config, features, pointer, record, write_day
from tests.support.progress import Recorder
from tests.support.trees import stamps, tree

# Three quiet days


def test_three_days_twice_and_the_second_time_changes_no_byte(three_days: DailyFile, tmp_path: Path) -> None:
    first = [done for day in DAYS for done in daily.run_day(three_days, day)]
    assert all(done.changed for done in first)
    before = tree(tmp_path / "out")
    times = stamps(tmp_path / "out")
    again = [done for day in DAYS for done in daily.run_day(three_days, day)]
    assert not any(done.changed for done in again)
    assert [done.record for done in again] == [done.record for done in first]
    assert tree(tmp_path / "out") == before
    assert stamps(tmp_path / "out") == times
    assert pointer(tmp_path)["version"] == 1
    assert list(pointer(tmp_path)["days"]) == DAYS
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "work directories are gone"


def test_the_model_equals_the_full_fit_to_the_byte(three_days: DailyFile, tmp_path: Path) -> None:
    for day in DAYS:
        daily.run_day(three_days, day)
    files = [str(tmp_path / f"data/day={day}/a.parquet") for day in DAYS]
    data = Dataset.from_parquet(files, vector="x", carry=["id"])
    PCA(K, solver="gram", random_state=0).fit(data, keep_state=True).save(tmp_path / "full", state=True)
    assert tree(tmp_path / "out/model") == tree(tmp_path / "full")
    first = Dataset.from_parquet(files[:1], vector="x", carry=["id"])
    PCA(K, solver="gram", random_state=0).fit(first).save(tmp_path / "first")
    assert tree(tmp_path / "out/versions/v0001/model") == tree(tmp_path / "first"), "published models are canonical"


def test_features_carry_the_digest_of_the_published_model(three_days: DailyFile, tmp_path: Path) -> None:
    for day in DAYS:
        daily.run_day(three_days, day)
    model = load(tmp_path / "out/published/model")
    for day in DAYS:
        data = Dataset.from_parquet(tmp_path / f"data/day={day}", vector="x")
        manifest = read_manifest(tmp_path / f"out/published/features/day={day}")
        assert list(manifest.transforms) == [t.digest for t in model.transform(data).transforms]
        Z, ids = features(tmp_path, day)
        np.testing.assert_array_equal(Z, model.transform(data).to_numpy())
        assert list(ids) == list(range(ROWS))
        assert record(tmp_path, day, "project")["transforms"] == list(manifest.transforms)


def test_only_the_new_files_are_scanned(three_days: DailyFile) -> None:
    told = Recorder()
    for day in DAYS:
        daily.fit(three_days, day, told)
        daily.gate(three_days, day)
        daily.project(three_days, day, told)
        daily.publish(three_days, day)
    assert told.planned == told.read == [("gram", ROWS), ("write", ROWS)] * 3


# Drift


def test_the_gate_measures_what_numpy_measures(three_days: DailyFile, tmp_path: Path) -> None:
    daily.run_day(three_days, DAYS[0])
    write_day(tmp_path, DAYS[1], 1, mean=11.0, strengths=STRENGTHS * 1.3)
    daily.fit(three_days, DAYS[1])
    done = daily.gate(three_days, DAYS[1])
    first, second = (
        np.stack(pq.read_table(tmp_path / f"data/day={day}/a.parquet")["x"].to_numpy(zero_copy_only=False))
        for day in DAYS[:2]
    )
    both = np.concatenate([first, second])
    found = done.record["measures"]
    means = np.abs(both.mean(0) - first.mean(0)) / first.std(0)
    logs = np.abs(np.log(both.var(0) / first.var(0)))
    bases = [np.linalg.svd(X - X.mean(0), full_matrices=False)[2][:K].T for X in (first, both)]
    assert found["mean"]["value"] == pytest.approx(means.max(), rel=1e-10)
    assert found["mean"]["column"] == f"x_{means.argmax()}"
    assert found["log_variance"]["value"] == pytest.approx(logs.max(), rel=1e-9)
    assert found["log_variance"]["column"] == f"x_{logs.argmax()}"
    angle = np.degrees(scipy.linalg.subspace_angles(*bases).max())
    assert found["angle"]["value"] == pytest.approx(angle, rel=1e-6)


def swapped(root: Path) -> DailyFile:
    """Two quiet days; on the third the second and third directions have changed places in strength."""
    write_day(root, DAYS[0], 0)
    write_day(root, DAYS[1], 1)
    write_day(root, DAYS[2], 2, strengths=np.array([5.0, 1.0, 6.0, 0.2, 0.2, 0.2]))
    return config(root, drift={"mean": 0.5, "log_variance": 0.2, "angle": 20.0})


def test_drift_makes_a_new_version_of_everything_aligned_to_the_old_one(tmp_path: Path) -> None:
    source = swapped(tmp_path)
    for day in DAYS[:2]:
        daily.run_day(source, day)
    assert pointer(tmp_path)["version"] == 1
    before = tree(tmp_path / "out/versions/v0001")
    _, gate, project, _ = daily.run_day(source, DAYS[2])
    assert gate.record["version"] == 2
    assert gate.record["measures"]["log_variance"]["passed"]
    assert list(project.record["features"]) == DAYS, "everything is projected again"
    assert pointer(tmp_path)["version"] == 2
    assert list(pointer(tmp_path)["days"]) == DAYS
    assert os.readlink(tmp_path / "out/published") == "versions/v0002"
    assert tree(tmp_path / "out/versions/v0001") == before, "readers of the old version are left in peace"
    version = json.loads((tmp_path / "out/published/version.json").read_text())
    alignment = version["alignment"]
    assert version["aligned_to"] == 1
    assert sorted(alignment["permutation"]) == list(range(K))
    assert alignment["permutation"] != list(range(K)), "the directions have changed places"
    model = load(tmp_path / "out/published/model")
    old = load(tmp_path / "out/versions/v0001/model")
    for day in DAYS:
        Z, _ = features(tmp_path, day)
        data = Dataset.from_parquet(tmp_path / f"data/day={day}", vector="x")
        plain = model.transform(data).to_numpy()
        np.testing.assert_array_equal(Z, plain[:, alignment["permutation"]] * alignment["signs"])
        manifest = read_manifest(tmp_path / f"out/published/features/day={day}")
        align = drift.Alignment.from_json(alignment).transform(np.dtype(np.float64))
        assert list(manifest.transforms) == [model.transform(data).transforms[0].digest, align.digest]
        meant = old.transform(data).to_numpy()
        for j in range(K):
            assert np.corrcoef(Z[:, j], meant[:, j])[0, 1] > 0.9
    files = [str(tmp_path / f"data/day={day}/a.parquet") for day in DAYS]
    PCA(K, solver="gram", random_state=0).fit(Dataset.from_parquet(files, vector="x", carry=["id"])).save(
        tmp_path / "full"
    )
    assert tree(tmp_path / "out/published/model") == tree(tmp_path / "full"), "fitted models stay canonical"


def test_aligned_features_are_reconstructed(tmp_path: Path) -> None:
    source, engine = swapped(tmp_path), connect("local", workers=1)
    for day in DAYS:
        daily.run_day(source, day)
    published, back = tmp_path / "out/published", tmp_path / "back"
    reconstruct(f"{published}/model", f"{published}/features/day={DAYS[0]}", str(back), engine)
    model, data = load(published / "model"), Dataset.from_parquet(tmp_path / f"data/day={DAYS[0]}", vector="x")
    expected = model.inverse_transform(model.transform(data)).to_numpy()
    np.testing.assert_array_equal(Dataset.from_parquet(back, vector="x").to_numpy(), expected)
    # Of another version, or of a model without its record, the columns are not known.
    for model_path in (tmp_path / "out/versions/v0001/model", shutil.copytree(published / "model", tmp_path / "alone")):
        with pytest.raises(DataError, match="expected features made by this model"):
            reconstruct(str(model_path), f"{published}/features/day={DAYS[0]}", str(tmp_path / "no"), engine)


def test_old_days_run_again_under_a_new_version_change_no_byte(tmp_path: Path) -> None:
    source = swapped(tmp_path)
    for day in DAYS:
        daily.run_day(source, day)
    before = tree(tmp_path / "out")
    for day in DAYS:
        daily.run_day(source, day)
    assert tree(tmp_path / "out") == before


def test_the_alignment_is_carried_from_version_to_version(tmp_path: Path) -> None:
    source = swapped(tmp_path)
    for day in DAYS:
        daily.run_day(source, day)
    later = "2026-11-04"
    write_day(tmp_path, later, 3, strengths=np.array([5.0, 12.0, 2.0, 0.2, 0.2, 0.2]))
    daily.run_day(source, later)
    assert pointer(tmp_path)["version"] == 3
    oldest = load(tmp_path / "out/versions/v0002/model")
    with pytest.raises(OutputError, match="expected"):
        read_manifest(tmp_path / "out/versions/v0001/features/day=2026-11-01")
    assert not (tmp_path / "out/versions/v0001").exists(), "two versions are kept"
    alignment = json.loads((tmp_path / "out/versions/v0002/version.json").read_text())["alignment"]
    for day in [*DAYS, later]:
        Z, _ = features(tmp_path, day)
        data = Dataset.from_parquet(tmp_path / f"data/day={day}", vector="x")
        before = oldest.transform(data).to_numpy()[:, alignment["permutation"]] * alignment["signs"]
        assert min(np.corrcoef(Z[:, j], before[:, j])[0, 1] for j in range(K)) > 0.9


def test_signs_and_order_are_found_whatever_they_were() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, D)) * STRENGTHS @ BASIS.T
    old, new = (PCA(K).fit(each).snapshot() for each in (X, X + 0.01 * rng.normal(size=X.shape)))
    before = drift.Alignment((2, 0, 1), (-1, 1, -1), (1.0, 1.0, 1.0))
    found = drift.align(old, before, new)
    assert (found.permutation, found.signs) == (before.permutation, before.signs)
    assert min(found.cosines) > 0.99


def test_a_constant_column_that_is_constant_no_longer_opens_the_gate() -> None:
    X = np.random.default_rng(0).normal(size=(50, 4))
    X[:, 2] = 1.0
    old = PCA(2).fit(X).snapshot()
    X[0, 2] = 2.0
    found = drift.measure(old, PCA(2).fit(X).snapshot(), Drift())
    assert found["log_variance"].value is None
    assert found["log_variance"].passed
    assert found["log_variance"].column == "x2"
    assert drift.measure(old, old, Drift())["mean"].value == 0.0
    off = drift.measure(old, PCA(2).fit(X).snapshot(), Drift(mean=None, log_variance=None, angle=None))
    assert not any(measure.passed for measure in off.values())


# Kills and retries


class KilledError(BaseException):
    """Stands for a SIGKILL just before a file appears."""


def test_killed_before_every_file_and_run_again_it_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    source = swapped(calm)
    for day in DAYS:
        daily.run_day(source, day)
    expected = tree(calm / "out")
    # One place for both, since records of the model hold full paths.
    shutil.move(calm / "out", tmp_path / "expected")
    kills, written = 0, 0

    def fragile(*args: Any, **kwargs: Any) -> Any:
        nonlocal written
        written += 1
        if written == allowed:
            raise KilledError
        return draft(*args, **kwargs)

    monkeypatch.setattr("eigenmill.reduce.storage.files.draft", fragile)
    for day in DAYS:
        for stage in (daily.fit, daily.gate, daily.project, daily.publish):
            allowed = 1
            while True:
                written = 0
                try:
                    stage(source, day)
                except KilledError:
                    kills, allowed = kills + 1, allowed + 1
                    continue
                break
    assert kills > 30
    assert tree(calm / "out") == expected


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_the_next_day_waits_for_one_that_was_stopped_between_stages(
    three_days: DailyFile, tmp_path: Path, stop: int
) -> None:
    daily.run_day(three_days, DAYS[0])
    stages: list[Callable[..., Any]] = [daily.fit, daily.gate, daily.project, daily.publish]
    for stage in stages[:stop]:
        stage(three_days, DAYS[1])
    with pytest.raises(ConfigError, match=DAYS[1]):
        daily.fit(three_days, DAYS[2])
    daily.run_day(three_days, DAYS[0])
    daily.run_day(three_days, DAYS[1])
    daily.run_day(three_days, DAYS[2])
    assert list(pointer(tmp_path)["days"]) == DAYS


def test_stages_out_of_order_say_what_is_missing(three_days: DailyFile) -> None:
    for stage, missing in [(daily.gate, "fit"), (daily.project, "gate"), (daily.publish, "project")]:
        with pytest.raises(ConfigError, match=f"run {missing} first"):
            stage(three_days, DAYS[0])


# Late and changed files


def test_a_late_file_is_appended_and_its_day_written_again(
    three_days: DailyFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for day in DAYS:
        daily.run_day(three_days, day)
    others = {day: tree(tmp_path / f"out/versions/v0001/features/day={day}") for day in DAYS[1:]}
    write_day(tmp_path, DAYS[0], 9, name="b")
    done = daily.run_day(three_days, DAYS[0])
    assert "a" in caplog.text
    assert "sort before files already seen" in caplog.text
    assert [d.changed for d in done] == [True] * 4
    assert len(features(tmp_path, DAYS[0])[0]) == 2 * ROWS
    assert pq.read_table(tmp_path / "out/published/features").num_rows == 4 * ROWS
    order = [(DAYS[0], "a"), (DAYS[1], "a"), (DAYS[2], "a"), (DAYS[0], "b")]
    files = [str(tmp_path / f"data/day={day}/{name}.parquet") for day, name in order]
    full = PCA(K, solver="gram", random_state=0).fit(Dataset.from_parquet(files, vector="x"))
    np.testing.assert_array_equal(load(tmp_path / "out/model").components_, full.components_)
    assert {day: tree(tmp_path / f"out/versions/v0001/features/day={day}") for day in DAYS[1:]} == others
    before = tree(tmp_path / "out")
    for day in DAYS:
        daily.run_day(three_days, day)
    assert tree(tmp_path / "out") == before


def test_a_late_file_before_publication_replaces_what_was_prepared(three_days: DailyFile, tmp_path: Path) -> None:
    daily.fit(three_days, DAYS[0])
    daily.gate(three_days, DAYS[0])
    daily.project(three_days, DAYS[0])
    write_day(tmp_path, DAYS[0], 9, name="b")
    daily.fit(three_days, DAYS[0])
    with pytest.raises(ConfigError, match="after fit again"):
        daily.publish(three_days, DAYS[0])
    daily.run_day(three_days, DAYS[0])
    assert load(tmp_path / "out/published/model").n_samples_ == 2 * ROWS
    assert len(features(tmp_path, DAYS[0])[0]) == 2 * ROWS


def test_changed_and_vanished_files_are_refused(three_days: DailyFile, tmp_path: Path) -> None:
    daily.run_day(three_days, DAYS[0])
    before = tree(tmp_path / "out")
    path = write_day(tmp_path, DAYS[0], 7)
    with pytest.raises(ChangedInputError, match=r"a\.parquet"):
        daily.run_day(three_days, DAYS[0])
    path.rename(path.with_name("c.parquet"))
    with pytest.raises(ChangedInputError, match=r"a\.parquet gone"):
        daily.run_day(three_days, DAYS[0])
    with pytest.raises(ChangedInputError, match=r"a\.parquet"):
        daily.project(three_days, DAYS[0])
    assert tree(tmp_path / "out") == before


def test_a_day_without_files_fails_until_they_come(three_days: DailyFile, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="2026-12-01"):
        daily.run_day(three_days, "2026-12-01")
    write_day(tmp_path, "2026-12-01", 5)
    daily.run_day(three_days, "2026-12-01")


def test_days_may_be_files_beside_each_other(tmp_path: Path) -> None:
    for seed, day in enumerate(DAYS):
        path = write_day(tmp_path, day, seed)
        path.rename(tmp_path / f"data/{day}-{seed}.parquet")
        path.parent.rmdir()
    source = config(tmp_path, input={"path": f"{tmp_path}/data/{{day}}*.parquet"})
    for day in [*DAYS, *DAYS]:
        daily.run_day(source, day)
    assert load(tmp_path / "out/model").n_samples_ == 3 * ROWS
