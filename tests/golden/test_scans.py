"""Fits that ba05dba has begun are finished: what its checkpoints hold is not read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden import inputs
from tests.golden.conftest import copied, same
from tests.golden.library import Counter, Library
from tests.golden.rooms import fits

Golden = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore:expected singular values")


@pytest.mark.parametrize("name", fits.SCANS)
def test_today_writes_the_same_checkpoint(name: str, lib: Library, golden: Golden, place: Path) -> None:
    fits.stop_scan(lib, name, "work")
    same(place / "work", golden("scans") / name / "work")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", fits.SCANS)
def test_a_scan_is_continued(name: str, workers: int, lib: Library, golden: Golden, place: Path) -> None:
    stopped, counter = fits.SCANS[name][-1], Counter()
    work = copied(golden("scans") / name / "work", place / "work")
    fits.scan(lib, name, work=work, progress=counter, workers=workers).save("model")
    rows = [count for _, count in counter.read]
    assert rows[:stopped] == [0] * (stopped - 1) + [inputs.LONG_ROWS - 2 * fits.LEAF]
    assert set(rows[stopped:]) <= {inputs.LONG_ROWS}
    same(place / "model", golden("scans") / name / "model")
