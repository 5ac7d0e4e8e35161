"""A write keeps within the memory that its plan states, whatever the layout: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tables import vectors

COLUMNS = 100
WRITE = """
import json, re, sys
from pathlib import Path
from eigenmill.reduce import Dataset, Sink, connect
from eigenmill.reduce.engines.memory import estimate

path, out, workers, options, read = sys.argv[1], sys.argv[2], int(sys.argv[3]), *map(json.loads, sys.argv[4:])
data, sink = Dataset.from_parquet(path, **read), Sink(out, **options)
sink.writing(data)  # imports and the like
planned = estimate(sink.writing(data), data, workers)
# What the process holds beside the write may grow a little after the plan; the write has to keep to the plan itself.
connect("local", workers=workers, memory=int(planned.peak * 1.02)).write(data, sink)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"planned": planned.peak, "process": planned.process, "peak": peak}))
"""


def made(folder: Path, rows: int, *, texts: bool = False) -> Path:
    """Parquet of float32 columns as a list, a key of four values, and texts."""
    rng, path = np.random.default_rng(0), folder / "rows.parquet"
    X = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    table = {"x": vectors(X), "key": np.arange(rows) % 4}
    if texts:
        table["text"] = pa.array([f"{i:0100d}" for i in range(rows)])
    pq.write_table(pa.table(table), path, row_group_size=20_000)
    return path


def write(path: Path, workers: int, options: dict[str, Any], **read: Any) -> dict[str, int]:
    """What was planned for a write and what it took, in bytes."""
    arguments = [str(path), str(path.parent / "out"), str(workers), json.dumps(options), json.dumps(read)]
    done = subprocess.run([sys.executable, "-c", WRITE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_partitioned_part_gathers_more_than_a_row_group(space: Path) -> None:
    found = write(made(space, 350_000), 1, {"partition_by": "key", "part_bytes": 300_000_000}, vector="x", carry="key")
    assert found["planned"] / 3 < found["peak"] <= found["planned"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"part_bytes": 300_000_000},
        {"part_bytes": 1_000_000},
        {"layout": "columns", "dtype": "float64"},
        {"partition_by": "key", "dtype": "float64"},
        {"partition_by": "key", "part_bytes": 140_000_000, "layout": "columns"},
    ],
    ids=str,
)
def test_every_layout_keeps_to_its_plan(options: dict[str, Any], workers: int, space: Path) -> None:
    found = write(made(space, 700_000, texts=True), workers, options, vector="x", carry=["key", "text"])
    assert found["planned"] / 3 < found["peak"] <= found["planned"]
