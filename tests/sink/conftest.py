"""Outputs are written in memory where there is room: every file is synced."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(space: Path) -> Path:
    return space
