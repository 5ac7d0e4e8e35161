"""The way of an instruction, from the command line to a pass, stays short."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from eigenmill.jobs.cli import app
from eigenmill.reduce.passes.gram import GramPass
from tests.support.tables import columns

CALLS = 12
"""Calls of our own functions from the command to a fold, at most, both counted."""
ROOT = Path(__file__).parents[2]


@cache
def is_own(code: CodeType) -> bool:
    path = Path(code.co_filename).resolve()
    return any(path.is_relative_to(ROOT / folder) for folder in ("reduce", "compress", "jobs"))


def test_from_a_command_to_a_pass_it_is_twelve_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(400, 4))
    pq.write_table(pa.table(columns(X)), tmp_path / "rows.parquet")
    job = {
        "input": {"path": str(tmp_path / "rows.parquet")},
        "reduce": {"components": 2},
        "engine": {"workers": 1},
        "output": {"model": str(tmp_path / "model")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    found: list[list[str]] = []
    fold = GramPass.fold

    def counted(self: Any, state: Any, block: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)
        names = [GramPass.fold.__qualname__]
        while frame is not None:
            if is_own(frame.f_code):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        found.append(names[::-1])
        return fold(self, state, block)

    monkeypatch.setattr(GramPass, "fold", counted)
    done = CliRunner().invoke(app, ["reduce", str(tmp_path / "job.yaml"), "--quiet"])
    assert done.exit_code == 0, done.output
    deepest = max(found, key=len)
    assert deepest[0] == "invoke"  # what turns errors into exit codes, around every command
    assert len(deepest[1:]) <= CALLS, deepest
