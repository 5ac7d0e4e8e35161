"""Outputs of ba05dba are verified, finished where they were left, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.golden import inputs
from tests.golden.conftest import copied, of_format_1, same
from tests.golden.library import Counter, Library
from tests.golden.rooms import fits
from tests.support.trees import stamps

Golden = Callable[[str], Path]


@pytest.mark.parametrize("name", [*fits.OUTPUTS, *fits.OTHERS])
def test_today_writes_the_same_outputs(name: str, golden: Golden, today: Golden) -> None:
    same(today("outputs") / name, golden("outputs") / name)


@pytest.mark.parametrize("ending", ["whole", "begun", "unmarked"])
@pytest.mark.parametrize("name", [*fits.OUTPUTS, *fits.OTHERS])
def test_an_output_is_continued(name: str, ending: str, lib: Library, golden: Golden, place: Path) -> None:
    saved = golden("outputs") / name
    out = copied(saved / ending, place / "at") / "out"
    finished, left = stamps(out, "part-*.parquet"), Counter()
    fits.features(lib, name, str(out), left)
    assert left.read == [("write", rows(saved / "whole/out") - rows(saved / ending / "out"))]
    assert finished.items() <= stamps(out, "part-*.parquet").items()
    assert bool(left.read[0][1]) == (ending == "begun")
    same(place / "at", saved / "whole")


def rows(out: Path) -> int:
    """Rows of the parts that are there."""
    return sum(pq.read_metadata(path).num_rows for path in out.rglob("part-*.parquet"))


def test_today_writes_the_same_versions(today: Golden, golden: Golden) -> None:
    for name in ("begun/out", "begun/.out.v000001", "whole/out", "whole/.out.v000002"):
        same_published(today("outputs") / "versions" / name, golden("outputs") / "versions" / name)


def same_published(found: Path, expected: Path) -> None:
    """Both directories have the same files, aside or not."""
    ours = {name.removesuffix(".aside"): content for name, content in of_format_1(found).items()}
    assert ours == of_format_1(expected)


def test_a_new_version_is_continued(lib: Library, golden: Golden, place: Path) -> None:
    saved = golden("outputs") / "versions"
    out = copied(saved / "begun", place / "at") / "out"
    version = out.parent / ".out.v000003"
    begun, left = stamps(version, "part-*.parquet"), Counter()
    fits.features(lib, "columns", str(out), left, overwrite=True)
    assert left.read == [("write", inputs.ROWS * (len(inputs.SMALL) - 2))]
    assert begun
    there = {path.name: at for path, at in stamps(out, "part-*.parquet").items()}
    assert {path.name: at for path, at in begun.items()}.items() <= there.items()
    assert not out.is_symlink()
    same_published(out, saved / "whole" / "out")
    (kept,) = (path for path in out.parent.iterdir() if path != out)
    same_published(kept, saved / "whole" / ".out.v000002")
