"""Days of data, the job over them, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from eigenmill.jobs.daily.config import DailyFile, load_daily
from tests.support.tables import vectors

D, K, ROWS = 6, 3, 400
DAYS = ["2026-11-01", "2026-11-02", "2026-11-03"]
BASIS = np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0]
STRENGTHS = np.array([5.0, 3.0, 1.5, 0.2, 0.2, 0.2])


def write_day(
    root: Path, day: str, seed: int, *, strengths: Any = STRENGTHS, mean: float = 10.0, name: str = "a"
) -> Path:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, D)) * strengths @ BASIS.T + mean
    folder = root / f"data/day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": np.arange(ROWS), "x": vectors(X)}), folder / f"{name}.parquet", row_group_size=150)
    return folder / f"{name}.parquet"


def config(root: Path, **sections: Any) -> DailyFile:
    value: dict[str, Any] = {
        "input": {"path": f"{root}/data/day={{day}}", "vector": "x", "carry": ["id"]},
        "reduce": {"components": K, "solver": "gram"},
        "output": {"path": f"{root}/out"},
        "engine": {"workers": 1},
    }
    for name, keys in sections.items():
        value[name] = {**value.get(name, {}), **keys}
    path = root / "daily.yaml"
    path.write_text(yaml.safe_dump(value))
    return load_daily(path)


def features(root: Path, day: str, version: int | None = None) -> Any:
    at = root / "out/published" if version is None else root / f"out/versions/v{version:04d}"
    table = pq.read_table(at / f"features/day={day}", partitioning=None)
    return np.stack(table["features"].to_numpy(zero_copy_only=False)), table["id"].to_numpy()


def write_three_days(root: Path) -> DailyFile:
    for seed, day in enumerate(DAYS):
        write_day(root, day, seed)
    return config(root)


def record(root: Path, day: str, stage: str) -> Any:
    return json.loads((root / f"out/days/{day}/{stage}.json").read_text())


def pointer(root: Path) -> Any:
    return json.loads((root / "out/published.json").read_text())
