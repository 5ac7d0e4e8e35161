"""What is kept is what the wheel writes on this machine, if its versions are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import make
from tests.golden.conftest import same

# Spark writes times and random names.
SLOW = [pytest.param(room, marks=pytest.mark.slow) for room in make.ROOMS if room not in ("models", "spark")]


@pytest.mark.parametrize("room", ["models", *SLOW])
def test_the_wheel_writes_what_is_kept(room: str, space: Path) -> None:
    make.by_the_wheel(room, space / "made")
    if json.loads((make.KEPT / "versions.json").read_text())[room] != make.versions(room):
        pytest.skip("this machine's versions are others")
    same(space / "made", make.unpack(room, space / "kept"))
