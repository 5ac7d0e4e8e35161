"""The input files, from seeds. They are kept: their sizes and digests are part of keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.tables import columns, vectors

D, ROWS, SMALL = 6, 60, "abcde"
"""Columns, rows of each of the small files, and their names."""
LONG_D, LONG_GROUP, LONG_ROWS = 16, 1 << 18, 7 << 18
"""The long files have three and a half leaves of 64 MiB, and compress well."""
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")


def write(directory: Path) -> None:
    """All of them."""
    shutil.rmtree(directory, ignore_errors=True)
    for number, name in enumerate(SMALL):
        _write(small(number), directory / f"small/{name}.parquet", ROWS // 2)
    for name, groups in {"a": range(5), "b": range(5, 7)}.items():
        _write(pa.concat_tables([long(group) for group in groups]), directory / f"long/{name}.parquet", LONG_GROUP)
    for number, day in enumerate(DAYS):
        _write(one_day(number), directory / f"days/day={day}/a.parquet", 100)
    _write(pictures(), directory / "pictures/a.parquet", 100)


def _write(table: pa.Table, path: Path, group: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group, compression="zstd")


def small(number: int) -> pa.Table:
    """Columns c*, the same with gaps g*, a list v, pairs i and x, Spark's vectors s, weights w, columns to carry."""
    rng = np.random.default_rng([13, number])
    X = rng.standard_normal((ROWS, D)) @ rng.standard_normal((D, D)) * np.arange(1, D + 1) + 100 * number
    gaps = np.where(rng.random(X.shape) < 0.1, np.nan, X)
    S = np.where(rng.random((ROWS, 2 * D)) < 0.3, rng.integers(1, 9, (ROWS, 2 * D)), 0)
    index = [np.flatnonzero(row) for row in S]
    return pa.table(
        {
            "id": np.arange(ROWS) + ROWS * number,
            "kind": pa.array(np.array(["ant", "bee", "cat"])[rng.integers(0, 3, ROWS)]),
            **columns(X, "c"),
            **{f"g{j}": pa.array(gaps[:, j], from_pandas=True) for j in range(D)},
            "v": vectors(X.astype(np.float32)),
            "i": pa.array(index, pa.list_(pa.int32())),
            "x": pa.array([row[at].astype(float) for row, at in zip(S, index, strict=True)], pa.list_(pa.float64())),
            "w": rng.integers(0, 4, ROWS),
            "s": spark_vectors(S, index),
        }
    )


def spark_vectors(S: np.ndarray, index: list[np.ndarray]) -> pa.Array:
    """Vectors as Spark ML stores them, every third one dense."""
    rows = [
        {"type": 1, "size": None, "indices": None, "values": row.astype(float)}
        if number % 3 == 0
        else {"type": 0, "size": len(row), "indices": at, "values": row[at].astype(float)}
        for number, (row, at) in enumerate(zip(S, index, strict=True))
    ]
    lists = [("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
    return pa.array(rows, pa.struct([("type", pa.int8()), ("size", pa.int32()), *lists]))


def long(group: int) -> pa.Table:
    """A row group of small numbers that repeat; none is like another."""
    few = np.random.default_rng([31, group]).integers(0, 16, (61, LONG_D), dtype=np.uint8)
    return pa.table({"v": vectors(np.resize(few, (LONG_GROUP, LONG_D)))})


def one_day(number: int) -> pa.Table:
    """Three directions above noise; on the third day two of them have changed places."""
    basis = np.linalg.qr(np.random.default_rng(41).standard_normal((D, D)))[0]
    strengths = np.array([5, 1, 6, 0.2, 0.2, 0.2] if number == 2 else [5, 3, 1.5, 0.2, 0.2, 0.2])
    X = np.random.default_rng([43, number]).standard_normal((200, D)) * strengths @ basis.T + 10
    return pa.table({"id": np.arange(200), "x": vectors(X)})


def pictures() -> pa.Table:
    """Little pictures of 4 x 4, a label of three, one that counts, a category, and two plain columns."""
    rng = np.random.default_rng(47)
    X = rng.integers(0, 256, (400, 16), dtype=np.uint8)
    hint = X[:, :8].astype(float).sum(1) - X[:, 8:].sum(1)
    label = np.digitize(hint, [-200, 200])
    return pa.table(
        {
            "id": np.arange(400),
            "pixels": vectors(X),
            "label": label,
            "city": pa.array(np.array(["Ulm", "Bonn", "Jena"])[(label + (rng.random(400) < 0.2)) % 3]),
            "hint": hint,
            "noise": rng.standard_normal(400),
        }
    )
