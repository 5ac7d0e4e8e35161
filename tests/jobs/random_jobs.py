"""Random job files over random Parquet files: every layout, policy, method, solver and output that a local job has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from eigenmill.jobs.reduction.config import JobFile, read_job
from tests.support.tables import columns, vectors


def random_job(seed: int, folder: Path, *, size: int = 1) -> JobFile:
    """The job of a seed, its data written below ``folder``; data and vectors grow with ``size``."""
    rng = np.random.default_rng([seed, size])
    spec, d, n = _input(rng, folder / "data", size)
    job = {"input": spec, "reduce": _reduction(rng, d, n, spec), "output": _output(rng, folder, spec)}
    job["engine"] = _some(rng, {"workers": int(rng.integers(1, 4))})
    if rng.random() < 0.2:
        job["engine"] |= {"memory": "8GiB", "disk": "1GiB", "work": str(folder / "work")}
    return read_job(yaml.safe_dump(job, sort_keys=False), f"job {seed}")


def _some(rng: np.random.Generator, options: dict[str, Any], share: float = 0.5) -> dict[str, Any]:
    """Each of the options, or its default."""
    return {name: value for name, value in options.items() if rng.random() < share}


def _input(rng: np.random.Generator, folder: Path, size: int) -> tuple[dict[str, Any], int, int]:
    """(the section, columns, rows); writes the files."""
    folder.mkdir(parents=True)
    layout = str(rng.choice(["columns", "vector", "sparse"]))
    wide = rng.random() < 0.3
    d, n = (int(rng.integers(40, 120)), 30) if wide else (int(rng.integers(2, 40)), int(rng.integers(60, 3000)))
    d, n = d * size, n * size
    gaps, weighted = rng.random() < 0.4 and layout != "sparse", rng.random() < 0.25
    files = int(rng.integers(1, 5))
    cuts = np.sort(rng.integers(0, n + 1, files - 1))
    X = rng.normal(size=(n, min(d, 6))) @ rng.normal(size=(min(d, 6), d)) * 3 + rng.normal(size=(n, d)) + 5
    X = X.astype(rng.choice(["float32", "float64"]))
    if layout == "sparse":
        X[rng.random((n, d)) < 0.9] = 0
    if gaps:
        X[rng.random((n, d)) < 0.01] = np.nan
    group = int(rng.integers(1, max(n // 2, 2)))
    for i, (a, b) in enumerate(zip([0, *cuts], [*cuts, n], strict=True)):
        table = pa.table({**_columns(layout, X[a:b]), "id": np.arange(a, b), "label": np.arange(a, b) % 3})
        table = table.append_column("weight", pa.array(rng.integers(0 if n > 500 else 1, 4, b - a)))
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=group)
    spec: dict[str, Any] = {"path": str(folder), "carry": ["id", "label"]}
    if layout == "columns":
        spec["columns"] = [f"c{j}" for j in range(d)]
    elif layout == "vector":
        spec |= {"vector": "x", **_some(rng, {"n_features": d})}
    else:
        spec["sparse"] = {"indices": "at", "values": "x", "n_features": d}
    if gaps:
        spec["missing"] = rng.choice(["drop", "mean", "zero"]).item()
    spec |= _some(rng, {"filters": [["id", ">=", n // 10]], "clip_sd": 3.0, "clip": [-30.0, 40.0]}, 0.2)
    return spec | ({"weights": "weight"} if weighted else {}), d, n


def _columns(layout: str, X: Any) -> dict[str, Any]:
    if layout == "columns":
        return columns(X, "c")
    if layout == "vector":
        return {"x": vectors(X)}
    rows = [np.flatnonzero(row) for row in X]
    at = pa.array([row.astype(np.int32) for row in rows], pa.list_(pa.int32()))
    return {
        "at": at,
        "x": pa.array([x[row] for x, row in zip(X, rows, strict=True)], pa.list_(pa.from_numpy_dtype(X.dtype))),
    }


def _reduction(rng: np.random.Generator, d: int, n: int, spec: dict[str, Any]) -> dict[str, Any]:
    method = str(rng.choice(["pca", "pca", "svd", "svd", "scale"]))
    if method == "scale":
        return {"method": method, "center": "sparse" not in spec}
    most = max(min(d, n // 3), 1)
    k: Any = int(rng.integers(1, most + 1))
    draw = rng.random()
    if draw < 0.3:
        k = float(rng.uniform(0.3, 0.95))
    elif draw < 0.4:
        k = None if method == "svd" else rng.choice(["mle", "denoise"]).item()
    solver = str(rng.choice(["auto", "gram", "dual", "sketch", "sketch"]))
    if solver == "sketch" and not isinstance(k, int | float):
        solver = "gram"
    options = {"scale": True, "refine": True, "precision": "float64", "seed": int(rng.integers(1000))}
    if solver == "sketch":
        options |= {"tol": None if rng.random() < 0.3 else 1e-2, "max_scans": int(rng.integers(1, 12))}
        options |= {"block_size": int(rng.integers(1, max(d // 3, 2))), "max_components": int(rng.integers(1, d + 1))}
    return {"method": method, "components": k, "solver": solver, **_some(rng, options)}


def _output(rng: np.random.Generator, folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    looks = {
        "layout": "columns",
        "dtype": rng.choice(["float32", "float64"]).item(),
        "part_bytes": int(rng.integers(64, 1 << 16)),
    }
    out: dict[str, Any] = {"model": str(folder / "model"), **_some(rng, {"state": True}, 0.2)}
    if rng.random() < 0.8:
        out |= {"features": str(folder / "features"), **_some(rng, looks), **_some(rng, {"partition_by": "label"}, 0.2)}
    return out
