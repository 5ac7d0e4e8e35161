"""The way of a row block, from ``engine.write`` through Parquet, layout and transform to a part, stays short."""

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

from eigenmill import reduce
from eigenmill.reduce import PCA, Dataset, Sink, connect
from tests.support.tables import columns, vectors

CALLS = 12
"""Most calls of our own functions, one within the other."""
ROWS, D = 2000, 4
ROOT = Path(reduce.__file__).resolve().parent


@cache
def is_own(code: CodeType) -> bool:
    return Path(code.co_filename).resolve().is_relative_to(ROOT)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    X = np.random.default_rng(0).standard_normal((ROWS, D)).astype(np.float32)
    other = {"id": np.arange(ROWS), "g": [f"g{i % 3}" for i in range(ROWS)]}
    gaps = X.copy()
    gaps[::7, 1] = np.nan
    wide = np.random.default_rng(1).standard_normal((9000, 64)).astype(np.float32)
    at = [sorted({i % D, i * i % D}) for i in range(ROWS)]
    tables = {
        "columns": columns(X) | other,
        "gaps": columns(gaps) | other,
        "vector": {"v": vectors(X)} | other,
        "wide": {"v": vectors(wide)},
        "lists": {"v": [row.tolist() for row in X]},
        "sparse": {"i": at, "v": [X[row, some].tolist() for row, some in enumerate(at)]},
    }
    for name, table in tables.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    return folder


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "columns": ("columns", {"carry": ["id", "g"]}, {"layout": "columns"}),
    "filtered": ("columns", {"carry": ["id", "g"], "filters": [("id", ">", 100)]}, {}),
    "partitioned": ("columns", {"carry": ["id", "g"]}, {"partition_by": "g"}),
    "gaps": ("gaps", {"carry": ["id", "g"], "missing": "mean"}, {}),
    "vector": ("vector", {"vector": "v", "carry": "id"}, {}),
    "joined": ("wide", {"vector": "v"}, {}),
    "lists": ("lists", {"vector": "v"}, {}),
    "sparse": ("sparse", {"sparse": ("i", "v", D)}, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", [False, True])
def test_a_block_is_at_most_twelve_calls_deep(files: Path, tmp_path: Path, case: str, model: bool) -> None:
    name, options, sink = CASES[case]
    if name in ("columns", "gaps"):
        options = {"columns": [f"x{j}" for j in range(D)], **options}
    data = Dataset.from_parquet(files / f"{name}.parquet", **options)
    engine = connect("local", workers=1)
    out = PCA(2).fit(data, engine=engine).transform(data) if model else data
    deepest: list[str] = []
    seen: set[str] = set()

    def look(frame: FrameType | None, event: str, argument: Any) -> None:
        nonlocal deepest
        if frame is None or event != "call" or not is_own(frame.f_code):
            return
        stack = []
        while frame is not None:
            if is_own(frame.f_code):
                stack.append(frame.f_code.co_qualname)
            frame = frame.f_back
        # The record of a part is a few numbers, and so is the header of a page; what turns them into JSON, and what
        # parses it, once a column chunk, calls itself.
        if "WriteTask.__call__" in stack and not {"write_record", "row_extent"} & {*stack}:
            seen.update(stack)
            deepest = max(deepest, stack, key=len)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        engine.write(out, Sink(tmp_path / "out", **sink))
    finally:
        sys.setprofile(before)
    assert {"Engine.write", "Matrix.blocks", "ParquetSource._stream", "PartWriter.add", "PartFile.write"} <= seen
    assert len(deepest) <= CALLS, "\n".join(reversed(deepest))
