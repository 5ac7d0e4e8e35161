"""Speed beside an earlier build: the same jobs by a kept wheel and by this tree, turn by turn.

    python -m benchmarks before                                  # beside the wheel of tests/golden
    python -m benchmarks before --wheel W --pairs 15 --case wide

A pair is one process of each side, in an order that changes from pair to pair; each warms up on a small job and then
times one. Printed are the median of the ratios (this tree over the wheel), the interval that holds the true median with
95 % by the order statistics of the pairs (binomial, no assumption about their distribution), and whether both sides
wrote the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WHEELS = ROOT / "tests/golden"
LIMIT = 1.03
"""The median of the ratios may not exceed it."""
CASES = ("scalar", "list", "wide", "sparse")


def made(case: str) -> Path:
    """The case's data on disk."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.data import CACHE, Spec, make

    if case in ("scalar", "list"):
        return make(Spec(layout=case))
    path = CACHE / f"before-{case}"
    if (path / "_COMPLETE").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for number in range(4):
        if case == "wide":
            n, d = 5_000, 10_000
            X = rng.standard_normal((n, 64), dtype=np.float32) @ rng.standard_normal((64, d), dtype=np.float32)
            X += rng.standard_normal((n, d), dtype=np.float32)
            table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), d)})
        else:
            n, stored = 25_000, 12
            columns = np.sort((rng.pareto(0.6, (n, stored)) * 40).astype(np.int64) % 50_000, axis=1).astype(np.int32)
            columns += np.arange(stored, dtype=np.int32)  # no column twice in a row
            offsets = np.arange(n + 1, dtype=np.int32) * stored
            values = rng.exponential(size=n * stored).astype(np.float32)
            lists = [pa.ListArray.from_arrays(offsets, pa.array(a.ravel())) for a in (columns, values)]
            table = pa.table({"indices": lists[0], "values": lists[1]})
        pq.write_table(table, path / f"{number}.parquet", row_group_size=n // 5)
    (path / "_COMPLETE").touch()
    return path


def job(side: Path, case: str, path: Path, out: Path, rows: int | None) -> tuple[float, Any]:
    """Seconds of the case's job over the first ``rows`` rows of its first file, or over all; its singular values."""
    import pyarrow.parquet as pq

    # A wheel from before there was one name has `reduce` at its top; this tree may be installed beside it.
    ours = import_module("reduce" if (side / "reduce").is_dir() else "eigenmill.reduce")
    if side not in Path(ours.__file__ or "").parents:
        raise RuntimeError(f"expected the packages of {side}, found {ours.__file__}")

    if rows is not None:
        first = min(path.glob("*.parquet"))
        path = out / "small"
        path.mkdir(parents=True)
        pq.write_table(pq.read_table(first).slice(0, rows), path / "0.parquet")
    began = time.perf_counter()
    layout: dict[str, Any] = {"vector": "x"}
    if case == "scalar":
        layout = {"columns": [n for n in pq.read_schema(min(path.glob("*.parquet"))).names if n != "id"]}
    if case == "sparse":
        layout = {"sparse": ("indices", "values", 50_012)}
    data = ours.Dataset.from_parquet(str(path), **layout)
    engine = ours.connect("local", workers=2, memory="6GiB")
    model = {
        "scalar": ours.PCA(50, scale=True),
        "list": ours.PCA(50, scale=True),
        "wide": ours.PCA(20, solver="sketch", max_scans=6),
        "sparse": ours.TruncatedSVD(50, solver="sketch", max_scans=6),
    }[case].fit(data, engine=engine)
    model.transform(data).to_parquet(str(out / "features"), engine=engine)
    return time.perf_counter() - began, model.singular_values_


def child(side: str, case: str, path: str) -> None:
    """One process of one side."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        job(Path(side), case, Path(path), Path(folder) / "warm", 600)
        seconds, values = job(Path(side), case, Path(path), Path(folder) / "timed", None)
        digest = hashlib.sha256(values.tobytes())
        for part in sorted((Path(folder) / "timed/features").glob("*.parquet")):
            digest.update(part.read_bytes())
    print(json.dumps([seconds, digest.hexdigest()]))


def run(side: Path, case: str, path: Path) -> tuple[float, str]:
    """Seconds and digest of one side in a process of its own."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child", str(side), case, str(path.resolve())]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(side)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    seconds, digest = json.loads(done.stdout.splitlines()[-1])
    return seconds, digest


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Order statistics between which the median of the ratios lies with at least 95 %."""
    n, ordered = len(ratios), sorted(ratios)
    k = 0
    while 2 * sum(math.comb(n, i) for i in range(k + 1)) <= 0.05 * 2**n:
        k += 1
    return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks before", description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="the other side; by default the one kept with the goldens")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--case", action="append", choices=CASES)
    options = parser.parse_args(arguments)
    wheel = options.wheel or next(WHEELS.rglob("*.whl"))
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        sides = (ROOT / "src", Path(folder))
        print(f"{'case':<8} {'here s':>8} {'wheel s':>8} {'ratio':>7}   95 % interval   bytes    at most {LIMIT}")
        for case in options.case or CASES:
            path = made(case)
            found: list[tuple[tuple[float, str], tuple[float, str]]] = []
            for pair in range(options.pairs):
                order = (0, 1) if pair % 2 == 0 else (1, 0)
                results = {i: run(sides[i], case, path) for i in order}
                found.append((results[0], results[1]))
            ratios = [here[0] / there[0] for here, there in found]
            low, high = interval(ratios)
            same = "equal" if len({digest for pair in found for _, digest in pair}) == 1 else "OTHER"
            here, there = (statistics.median(pair[i][0] for pair in found) for i in (0, 1))
            middle = statistics.median(ratios)
            verdict = "kept" if middle <= LIMIT else "MISSED"
            print(f"{case:<8} {here:8.2f} {there:8.2f} {middle:7.3f}   {low:.3f} to {high:.3f}  {same:<8} {verdict}")


if __name__ == "__main__" and sys.argv[1:2] == ["--child"]:
    child(*sys.argv[2:5])
