"""Fits that ba05dba has begun are finished: what its checkpoints hold is not read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden import make
from tests.golden.conftest import copied, same

Golden = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore:expected singular values")


@pytest.mark.parametrize("name", make.SCANS)
def test_today_writes_the_same_checkpoint(name: str, lib: make.Library, golden: Golden, place: Path) -> None:
    make.stop_scan(lib, name, "work")
    same(place / "work", golden("scans") / name / "work")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", make.SCANS)
def test_a_scan_is_continued(name: str, workers: int, lib: make.Library, golden: Golden, place: Path) -> None:
    stopped, counter = make.SCANS[name][-1], make.Counter()
    work = copied(golden("scans") / name / "work", place / "work")
    make.scan(lib, name, work=work, progress=counter, workers=workers).save("model")
    rows = [count for _, count in counter.scans]
    assert rows[:stopped] == [0] * (stopped - 1) + [make.LONG_ROWS - 2 * make.LEAF]
    assert set(rows[stopped:]) <= {make.LONG_ROWS}
    same(place / "model", golden("scans") / name / "model")
