"""What ``eigenmill reduce``, ``update``, ``transform`` and ``daily`` leave, finished and stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.golden.inputs import DAYS
from tests.golden.library import HERE, Library, stop_before

SMALL_JOB = f"""\
input:
  path: {HERE}/inputs/small
  columns: [g0, g1, g2, g3]
  carry: [id, kind]
  weights: w
  filters: [[[kind, "!=", ant]], [[id, "<", 100], [c0, ">", 0]]]
  missing: {{g0: mean, g1: drop, "*": 0.5}}
  clip: {{g2: [-100, 400]}}
  clip_sd: 3
reduce: {{method: pca, components: 2, scale: true}}
output: {{features: out/features, model: out/model, state: true, partition_by: kind, part_bytes: 1}}
engine: {{workers: 1}}
"""
LONG_JOB = """\
input: {path: inputs/long, vector: v}
reduce: {method: svd, components: 3}
output: {model: out/model}
engine: {workers: 1, save_every: 1.0e-9}
"""
STARTED_JOB = f"""\
input: {{path: ["{HERE}/inputs/small/a.parquet", "{HERE}/inputs/small/b.parquet"], vector: v, carry: [id], weights: w}}
reduce: {{method: pca, components: 2}}
output: {{model: out/model, state: true}}
"""
DAILY = f"""\
input: {{path: "{HERE}/inputs/days/day={{day}}", vector: x, carry: [id]}}
reduce: {{components: 3, solver: gram}}
drift: {{mean: 0.5, log_variance: 0.2, angle: 20}}
output: {{path: out, part_bytes: 1}}
engine: {{workers: 1}}
"""
STOPS = {
    "fitting": (LONG_JOB, "*.state", 2),
    "saving": (SMALL_JOB, "*/job.json", 1),
    "writing": (SMALL_JOB, "*/_parts/00002.json", 1),
    "finishing": (SMALL_JOB, "*/_SUCCESS", 1),
}
"""The job, and the file before which it was stopped: see :func:`stop_before`."""
MOMENTS = ("fit", "gate", "project")
"""Stages of the second day after which the day-by-day job was stopped."""


def jobs(lib: Library) -> None:
    """For each a directory with the job file and ``out``, which is moved there when it is written."""
    for name, text in {"small": SMALL_JOB, "long": LONG_JOB}.items():
        Path("job.yaml").write_text(text)
        lib.command("reduce", "job.yaml")
        _move(name, "job.yaml", "out")
    for name, (text, pattern, number) in STOPS.items():
        Path("job.yaml").write_text(text)
        with stop_before(pattern, number):
            lib.command("reduce", "job.yaml", code=1)
        _move(name, "job.yaml", "out")
    Path("job.yaml").write_text(STARTED_JOB)
    lib.command("reduce", "job.yaml")
    shutil.copytree("out", "started/out")
    lib.command("update", "out/model", f"{HERE}/inputs/small")
    lib.command("transform", "out/model", "inputs/small/e.parquet", "--out", "out/features")
    lib.command("reconstruct", "out/model", "out/features", "--out", "out/back")
    _move("updated", "job.yaml", "out")


def daily(lib: Library) -> None:
    """``whole``: three days, of which the last opened a new version; the others are what came before."""
    Path("daily.yaml").write_text(DAILY)

    def stage(name: str, day: str, code: int = 0) -> None:
        lib.command("daily", name, "--config", "daily.yaml", "--day", day, code=code)

    first, second, third = DAYS
    stage("run", first)
    for name in (*MOMENTS, "publish"):
        stage(name, second)
        shutil.copytree("out", name, symlinks=True)
    with stop_before("*/v0002/features/day=2026-11-02/_SUCCESS"):
        stage("run", third, code=1)
    shutil.copytree("out", "versioning", symlinks=True)
    stage("run", third)
    _move("whole", "out")


def _move(name: str, *paths: str) -> None:
    Path(name).mkdir()
    for path in paths:
        Path(path).rename(Path(name) / path)
