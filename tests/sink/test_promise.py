"""``memory=`` is kept: what is planned from metadata bounds what a command takes, whatever the shape of its rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.promise import LARGE, LEAST, SHAPES, Shape, measured, random_shape
from eigenmill.reduce import Dataset, DoesNotFitError, Sink, connect

FAST = {("carried 1 MB", "transform"), ("cells", "scale"), ("reconstruct 20,000", "reconstruct")}
CASES = [(name, command) for name, shape in SHAPES.items() for command in shape.commands]


def kept(path: Path, name: str, command: str, shape: Shape, scale: float) -> dict[str, Any]:
    shape.make(path / "rows.parquet", scale)
    found = measured(path / "rows.parquet", path / "out", command, shape)
    assert "error" not in found, found
    assert found["measured"] <= found["planned"], (name, command, found)
    return found


@pytest.mark.parametrize(
    ("name", "command"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow, id=": ".join(case)) for case in CASES],
)
def test_case_f12_memory_is_kept(name: str, command: str, tmp_path: Path) -> None:
    kept(tmp_path, name, command, SHAPES[name], 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["carried 1 MB", "repeated 100 KB", "cells", "one page", "reconstruct 20,000"])
def test_case_f12_a_plan_is_no_wild_guess(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    found = kept(tmp_path, name, shape.commands[0], shape, 1.0)
    assert found["planned"] <= LARGE or found["measured"] >= LEAST * found["planned"]


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 112))])
def test_memory_is_kept_for_tables_drawn_at_random(seed: int, tmp_path: Path) -> None:
    kept(tmp_path, f"seed {seed}", "transform", random_shape(seed), 1.0)


def test_what_does_not_fit_is_refused_with_the_column_before_it_is_read(tmp_path: Path) -> None:
    SHAPES["carried 1 MB"].make(tmp_path / "rows.parquet", 0.2)
    data = Dataset.from_parquet(tmp_path / "rows.parquet", columns=["x0"], carry=["text"])
    with pytest.raises(DoesNotFitError, match=r"most of the decoding for column 'text'"):
        connect("local", workers=1, memory="64MiB").write(data, Sink(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rows_that_are_longer_than_any_footer_tells_end_with_an_error_that_names_the_column(tmp_path: Path) -> None:
    """A page of lists says how many numbers it holds, not in which rows."""
    counts = np.r_[np.zeros(400_000, np.int64), np.full(8000, 2000)]
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(ends, np.zeros(ends[-1], np.float32))
    pq.write_table(pa.table({"x": np.zeros(len(counts)), "long": lists}), tmp_path / "rows.parquet")
    data = Dataset.from_parquet(tmp_path / "rows.parquet", columns=["x"], carry=["long"])
    with pytest.raises(DoesNotFitError, match=r"in column 'long', at .*rows\.parquet, row group 0, row"):
        connect("local", workers=1, memory="4GiB").write(data, Sink(tmp_path / "out"))
    connect("local", workers=1).write(data, Sink(tmp_path / "out"))  # without a promise there is nothing to keep
    assert pq.read_metadata(next((tmp_path / "out").glob("*.parquet"))).num_rows == len(counts)


def test_case_f12_a_budget_that_explain_gives_is_not_refused_after_the_fit(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((4000, 300), dtype=np.float32)
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 300)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=1000)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"input: {{path: {tmp_path}/rows.parquet, vector: x}}\n"
        "reduce: {method: pca, components: 0.99}\n"
        f"output: {{features: {tmp_path}/out, model: {tmp_path}/model, state: true}}\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eigenmill", *arguments, "--set", "engine.workers=1"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    plan = json.loads(run("explain", str(job), "--json", "--set", "engine.memory=64MiB").stdout)
    given = re.search(r"give memory='(\S+)'", plan["advice"])
    assert given is not None
    done = run("reduce", str(job), "--set", f"engine.memory={given[1]}")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out").num_rows == len(X)
