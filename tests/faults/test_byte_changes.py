"""Random bytes of what a job has left are changed: it ends as if they were not, or says which file is damaged.

Over all files of finished and half-finished jobs, models that go on, and day-by-day jobs.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eigenmill.jobs.cli import app
from eigenmill.jobs.shown import exits
from eigenmill.reduce import load
from tests.golden.library import stop_before
from tests.jobs.test_two_at_once import write_rows

CHANGES = 40
"""Of each kind of place in a fast run; 1,000 in a slow one."""
CLOCKS = ("report.json",)
"""Files that nothing reads again."""


@dataclass(frozen=True)
class Case:
    """What is made below a directory, the commands that go on with it, and what their result is known by."""

    make: Callable[[Path], None]
    commands: Callable[[Path], list[list[str]]]
    result: Callable[[Path], Any]


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def done(*arguments: str) -> None:
    result = call(*arguments)
    assert result.exit_code == exits.OK, result.output


def job(folder: Path) -> str:
    for number in range(3):
        write_rows(folder / f"data/{number}.parquet", number)
    (folder / "job.yaml").write_text(
        f"input: {{path: '{folder}/data/[01].parquet', columns: [c0, c1, c2, c3], carry: [id], "
        "filters: [[id, '<', 30]]}\n"
        "reduce: {components: 2}\nengine: {workers: 1}\n"
        f"output: {{model: {folder}/out/model, features: {folder}/out/features, state: true, part_bytes: 300}}\n"
    )
    return str(folder / "job.yaml")


def reduced(folder: Path) -> None:
    done("reduce", job(folder))


def half(folder: Path) -> None:
    """As :func:`reduced`, stopped while it wrote its features."""
    path = job(folder)
    with stop_before("*/_parts/00001.json"):
        assert call("reduce", path).exit_code == exits.FAILED


def updated(folder: Path) -> None:
    reduced(folder)
    done("update", str(folder / "out/model"), str(folder / "data/2.parquet"), "--workers", "1")


def days(folder: Path) -> None:
    for number, day in enumerate(("2026-11-01", "2026-11-02")):
        write_rows(folder / f"data/day={day}/a.parquet", number)
    (folder / "daily.yaml").write_text(
        f"input: {{path: '{folder}/data/day={{day}}', columns: [c0, c1, c2, c3], carry: [id]}}\n"
        f"reduce: {{components: 2, solver: gram}}\noutput: {{path: {folder}/out}}\nengine: {{workers: 1}}\n"
    )
    done("daily", "run", "--config", str(folder / "daily.yaml"), "--day", "2026-11-01")
    for stage in ("fit", "gate"):
        done("daily", stage, "--config", str(folder / "daily.yaml"), "--day", "2026-11-02")


def features(folder: Path, name: str = "out") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(f"{name}/**/*.parquet"))
    }


def of_model(folder: Path) -> Any:
    model = load(folder / "out/model")
    return model.digest_, model.snapshot().quality.rows


CASES = {
    "a finished job": Case(reduced, lambda f: [["reduce", str(f / "job.yaml")]], lambda f: (of_model(f), features(f))),
    "a job half done": Case(half, lambda f: [["reduce", str(f / "job.yaml")]], lambda f: (of_model(f), features(f))),
    "a model of a job that goes on": Case(
        reduced, lambda f: [["update", str(f / "out/model"), str(f / "data/2.parquet"), "--workers", "1"]], of_model
    ),
    "a model that has gone on": Case(
        updated,
        lambda f: [
            [
                "transform",
                str(f / "out/model"),
                str(f / "data/2.parquet"),
                "--out",
                str(f / "out/new"),
                "--workers",
                "1",
            ]
        ],
        lambda f: (of_model(f), features(f, "out/new")),
    ),
    "a day half done": Case(
        days,
        lambda f: [["daily", "run", "--config", str(f / "daily.yaml"), "--day", "2026-11-02"]],
        lambda f: ((f / "out/published.json").read_bytes(), features(f, "out/versions/*/features/day=2026-11-02")),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def prepared(request: pytest.FixtureRequest, session_space: Path) -> Iterator[tuple[Case, Path, Any]]:
    """The case, what was made for it, and the result of going on undisturbed."""
    case, place = CASES[request.param], session_space / "bytes"
    case.make(place)
    kept = session_space / "kept"
    shutil.copytree(place / "out", kept, symlinks=True)
    for command in case.commands(place):
        done(*command)
    expected = case.result(place)
    yield case, kept, (place, expected)
    shutil.rmtree(place)
    shutil.rmtree(kept)


def try_changes(prepared: tuple[Case, Path, Any], seeds: range) -> None:
    case, kept, (place, expected) = prepared
    names = sorted(p for p in kept.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size)
    names = [path.relative_to(kept) for path in names if path.name not in CLOCKS]
    for seed in seeds:
        rng = random.Random(seed)
        shutil.rmtree(place / "out")
        shutil.copytree(kept, place / "out", symlinks=True)
        again = {path.stat().st_ino: path for path in kept.rglob("*") if path.is_file()}
        for path in kept.rglob("*"):  # second names stay second names
            if path.is_file() and not path.is_symlink() and again[path.stat().st_ino] != path:
                copy = place / "out" / path.relative_to(kept)
                copy.unlink()
                os.link(place / "out" / again[path.stat().st_ino].relative_to(kept), copy)
        target = place / "out" / rng.choice(names)
        content = bytearray(target.read_bytes())
        at = rng.randrange(len(content))
        how = rng.choice(("flip", "cut", "gone"))
        if how == "flip":
            content[at] ^= 1 << rng.randrange(8)
            with target.open("r+b") as file:
                file.write(content)
        elif how == "cut":
            os.truncate(target, at)
        else:
            target.unlink()
        where = f"seed {seed}: {how} of {target.relative_to(place)} at {at}"
        found = [call(*command) for command in case.commands(place)]
        if all(each.exit_code == exits.OK for each in found):
            assert case.result(place) == expected, where
        else:
            (bad,) = [each for each in found if each.exit_code != exits.OK]
            assert bad.exit_code in exits.MEANINGS, where
            assert bad.exit_code != exits.FAILED, f"{where}: {bad.output} {bad.exception!r}"
            assert "expected" in bad.output, where


def test_a_changed_byte_is_told_or_changes_nothing(prepared: tuple[Case, Path, Any]) -> None:
    try_changes(prepared, range(CHANGES))


@pytest.mark.slow
def test_thousands_of_changed_bytes(prepared: tuple[Case, Path, Any]) -> None:
    try_changes(prepared, range(CHANGES, CHANGES + 1_000))
