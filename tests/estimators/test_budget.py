"""A million columns: the plan states its peak, a fit keeps within it, and less is refused with what would fit."""

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

ROWS, ENTRIES, FEATURES = 20_000, 50, 1_000_000

FIT = """
import json, re, sys, warnings
from pathlib import Path
from eigenmill.reduce import Dataset, TruncatedSVD, connect
from eigenmill.reduce.plan import explain

path, k, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
warnings.simplefilter("ignore")  # two scans are few on purpose
data = Dataset.from_parquet(path, sparse=("indices", "values", 1_000_000))
model = TruncatedSVD(k, solver="sketch", tol=None, max_scans=2)
planned = explain(model, data, connect("local", workers=2)).peak
try:
    refused = ""
    # What the process holds beside the scan may grow a little after the plan; the fit has to keep to the plan itself.
    model.fit(data, engine=connect("local", workers=2, memory=memory or int(planned * 1.02)))
except MemoryError as error:
    refused = str(error)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"planned": planned, "peak": peak, "refused": refused}))
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    columns = np.sort((FEATURES ** rng.random((ROWS, ENTRIES)) - 1).astype(np.int32), axis=1)
    offsets = np.arange(ROWS + 1, dtype=np.int32) * ENTRIES
    values = rng.random(ROWS * ENTRIES, dtype=np.float32) + np.float32(0.5)
    lists = [pa.ListArray.from_arrays(offsets, flat) for flat in (columns.ravel(), values)]
    path = tmp_path_factory.mktemp("wide") / "rows.parquet"
    pq.write_table(pa.table(lists, ["indices", "values"]), path, row_group_size=ROWS // 4)
    return path


def fit(rows: Path, k: int, memory: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", FIT, str(rows), str(k), str(memory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def keeps_its_budget(rows: Path, k: int) -> None:
    found = fit(rows, k)
    assert found["refused"] == ""
    assert found["peak"] <= found["planned"]
    assert found["peak"] > found["planned"] / 3  # and the plan is no wild guess
    less = fit(rows, k, found["planned"] // 3)
    assert re.search(rf"a basis of 3 blocks of \d+ vectors of {FEATURES} columns .* give ", less["refused"])
    assert less["peak"] < 1 << 30  # nothing of the kind was made


def test_a_million_columns_keep_the_budget_of_their_plan(rows: Path) -> None:
    keeps_its_budget(rows, 2)


@pytest.mark.slow
def test_fifty_vectors_of_a_million_columns_keep_the_budget_of_their_plan(rows: Path) -> None:
    keeps_its_budget(rows, 50)
