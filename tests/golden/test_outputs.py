"""Outputs of ba05dba are verified, finished where they were left, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.golden import make
from tests.golden.conftest import copied, same

Golden = Callable[[str], Path]


def test_today_writes_the_same_outputs(golden: Golden, today: Golden) -> None:
    same(today("outputs"), golden("outputs"))


@pytest.mark.parametrize("ending", ["whole", "begun", "unmarked"])
@pytest.mark.parametrize("name", make.OUTPUTS)
def test_an_output_is_continued(name: str, ending: str, lib: make.Library, golden: Golden, place: Path) -> None:
    saved = golden("outputs") / name
    out = copied(saved / ending, place / "at") / "out"
    finished, left = parts(out), make.Counter()
    make.features(lib, name, str(out), left)
    assert left.scans == [("write", rows(saved / "whole/out") - rows(saved / ending / "out"))]
    assert {path: parts(out)[path] for path in finished} == finished
    assert bool(left.scans[0][1]) == (ending == "begun")
    same(place / "at", saved / "whole")


def parts(out: Path) -> dict[Path, tuple[int, int]]:
    """Each part, with what changes when it is written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("part-*.parquet")}


def rows(out: Path) -> int:
    """Rows of the parts that are there."""
    return sum(pq.read_metadata(path).num_rows for path in out.rglob("part-*.parquet"))


def test_a_new_version_is_continued(lib: make.Library, golden: Golden, place: Path) -> None:
    saved = golden("outputs") / "versions"
    out = copied(saved / "begun", place / "at") / "out"
    begun, left = parts(out.parent / ".out.v000003"), make.Counter()
    make.features(lib, "columns", str(out), left, overwrite=True)
    assert left.scans == [("write", make.ROWS * (len(make.SMALL) - 2))]
    assert begun
    assert begun.items() <= parts(out.parent / ".out.v000003").items()
    same(place / "at", saved / "whole")
