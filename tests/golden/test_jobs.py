"""Jobs that ba05dba has begun or done are gone on with: the commands, job.json, and day-by-day directories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.golden import inputs
from tests.golden.conftest import copied, same
from tests.golden.library import HERE, Library
from tests.golden.rooms import fits, jobs
from tests.support.trees import stamps

Golden = Callable[[str], Path]


@pytest.mark.parametrize("room", ["jobs", "daily"])
def test_today_writes_the_same(room: str, golden: Golden, today: Golden) -> None:
    same(today(room), golden(room))


@pytest.mark.parametrize("name", ["small", "long", *jobs.STOPS])
def test_a_job_is_gone_on_with(name: str, lib: Library, golden: Golden, place: Path) -> None:
    whole = golden("jobs") / ("long" if name in ("long", "fitting") else "small")
    copied(golden("jobs") / name / "out", place / "out")
    before = stamps(place / "out")
    report = lib.command("reduce", str(whole / "job.yaml"))
    same(place / "out", whole / "out")
    all_rows, begun = rows((whole / "out").rglob("*.parquet")), rows((whole / "out").rglob("part-0000[01].parquet"))
    scans, again, told = {
        "small": ([], set(), (False, False, "unchanged")),
        "long": ([], set(), (False, False, "unchanged")),
        "fitting": ([("gram", inputs.LONG_ROWS - fits.LEAF)], set(), (True, True, "complete")),
        "saving": ([("write", all_rows)], set(), (True, True, "complete")),
        "writing": ([("write", all_rows - begun)], {"part-00002.parquet"}, (False, True, "complete")),
        "finishing": ([], {"_manifest.json"}, (False, True, "unchanged")),
    }[name]
    assert [(scan["name"], scan["rows"]) for scan in report["scans"]] == scans
    assert (report["fitted"], report["resumed"], report["status"]) == told
    after = stamps(place / "out")
    assert {path.name for path in before.keys() & after.keys() if before[path] != after[path]} == again


def rows(paths: Iterable[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in paths)


def test_a_model_of_a_job_is_updated_and_used(lib: Library, golden: Golden, place: Path) -> None:
    copied(golden("jobs") / "started/out", place / "out")
    found = lib.command("update", "out/model", f"{HERE}/inputs/small")
    assert (found["files"], found["rows"]) == (3, 3 * inputs.ROWS)
    lib.command("transform", "out/model", "inputs/small/e.parquet", "--out", "out/features")
    lib.command("reconstruct", "out/model", "out/features", "--out", "out/back")
    same(place / "out", golden("jobs") / "updated/out")


DONE = {"fit": 5, "gate": 6, "project": 7, "publish": 8, "versioning": 10, "whole/out": 12}
"""Of four stages a day."""


@pytest.mark.parametrize("name", DONE)
def test_days_are_gone_on_with(name: str, lib: Library, golden: Golden, place: Path) -> None:
    Path("daily.yaml").write_text(jobs.DAILY)
    copied(golden("daily") / name, place / "out")
    before = stamps(place / "out")
    stages = [
        stage["changed"]
        for day in inputs.DAYS
        for stage in lib.command("daily", "run", "--config", "daily.yaml", "--day", day)
    ]
    assert stages == [False] * DONE[name] + [True] * (12 - DONE[name])
    same(place / "out", golden("daily") / "whole/out")
    after = stamps(place / "out")
    assert {path: after[path] for path in before if path.suffix == ".parquet"}.items() <= before.items()
