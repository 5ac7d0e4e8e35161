"""Latency of a compact model by backend: scikit-learn's pipeline, numpy, onnxruntime, C. One thread.

    python -m benchmarks latency [--digits DIR] [--epochs 3]

784-128-10 on MNIST, quantized to 8 bits; the same with half of its neurons; the same with 90 % of its weights pruned.
Times of a call are medians and 95th percentiles in microseconds. ``C`` is compiled with -O2 for any processor of this
kind and timed in C around the call; ``C by ctypes`` is timed in Python, the call included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.data import CACHE
from eigenmill.compress import (
    Model,
    compiled,
    gather,
    load,
    pack,
    prune,
    prune_neurons,
    quantize,
    run_onnx,
    to_onnx,
    train,
)
from eigenmill.jobs.demo.digits import prepare
from eigenmill.reduce import Dataset

SINGLE, BATCH = 1, 1024
OPTIMIZER = {"name": "momentum", "lr": 0.05, "momentum": 0.9}


def timed(call: Callable[[Any], Any], parts: Sequence[Any], seconds: float = 1.0) -> tuple[float, float]:
    """Median and 95th percentile in microseconds of calls on these parts in turn."""
    for part in parts[:5]:
        call(part)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 20 or time.perf_counter() < end:
        part = parts[len(took) % len(parts)]
        began = time.perf_counter()
        call(part)
        took.append(time.perf_counter() - began)
    p50, p95 = np.quantile(took, [0.5, 0.95]) * 1e6
    return float(p50), float(p95)


def peer(X: Any, y: Any) -> Any:
    """scikit-learn's pipeline; few iterations, for they do not change how long a prediction takes."""
    made = make_pipeline(StandardScaler(), PCA(50), MLPClassifier(128, max_iter=5, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(X, y)


def pixels(files: Sequence[Path]) -> tuple[Any, Any]:
    """Pixels (n, d) and labels (n,)."""
    tables = [pq.read_table(file, columns=["pixels", "label"]) for file in files]
    X = [table["pixels"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1) for table in tables]
    return np.concatenate(X), np.concatenate([table["label"].to_numpy() for table in tables])


def models(digits: Sequence[Path], epochs: int) -> Iterator[tuple[str, Model]]:
    data = Dataset.from_parquet([str(file) for file in digits], vector="pixels", carry=["id", "label"])
    samples = gather(Model.mlp(None, [128], 10), data)
    whole = train(Model.mlp(None, [128], 10), samples, optimizer=OPTIMIZER, epochs=epochs)
    yield "784-128-10", quantize(whole, samples, bits=8)
    half = train(prune_neurons(whole, samples, keep=0.5), samples, optimizer=OPTIMIZER, epochs=epochs)
    yield "784-64-10", quantize(half, samples, bits=8)
    thin = train(prune(whole, 0.9), samples, optimizer=OPTIMIZER, epochs=epochs)
    yield "784-128-10, 90 % pruned", quantize(thin, samples, bits=8)


def measure(name: str, model: Model, X: Any, labels: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """Times of one model by backend and batch."""
    size = pack(model, folder / "m.emill")
    to_onnx(model, folder / "m.onnx")
    net, exported = load(folder / "m.emill"), run_onnx(folder / "m.onnx")
    native = compiled(folder / "m.emill", number="float")
    rows = X.astype(np.float32)
    assert (native.scores(rows) == net.scores(rows)).all()
    assert (exported.predict(rows) == net.predict(rows)).all()
    accuracy = float(np.mean(net.predict(rows) == labels))
    calls = {"numpy": net.predict, "onnxruntime": exported.predict, "C by ctypes": native.scores}
    for batch in (SINGLE, BATCH):
        parts = [rows[at : at + batch] for at in range(0, len(rows) - batch + 1, batch)][:512]
        found = {backend: timed(call, parts) for backend, call in calls.items()}
        if batch == SINGLE:
            took = np.concatenate([native.seconds(rows) for _ in range(5)]) * 1e6
            found["C"] = (float(np.median(took)), float(np.quantile(took, 0.95)))
        for backend, (p50, p95) in found.items():
            record = {"model": name, "bytes": size, "accuracy": accuracy, "backend": backend, "batch": batch}
            yield record | {"p50": p50, "p95": p95}


def line(record: dict[str, Any]) -> str:
    """A row of the table."""
    about = f"{record['model']} | {record['bytes']:,} | {record['accuracy']:.4f} | {record['backend']}"
    return f"| {about} | {record['batch']} | {record['p50']:,.1f} | {record['p95']:,.1f} | {record['times']:,.1f} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks latency", description="microseconds of a prediction by backend")
    parser.add_argument("--digits", type=Path, default=CACHE / "digits", help="where MNIST is, or is fetched to")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    if not args.epochs > 0:
        parser.error(f"expected at least one epoch, found {args.epochs}")
    *train_files, test_file = sorted(Path(prepare(args.digits, small=False, notice=print).path).glob("part-*.parquet"))
    X, y = pixels(train_files[:1])
    rows, labels = pixels([test_file])
    records: list[dict[str, Any]] = []
    head = "| model | bytes | accuracy | backend | rows | p50 us | p95 us | times as fast |"
    print(f"{head}\n|---|---:|---:|---|---:|---:|---:|---:|")
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        pipeline, slowest = peer(X, y), {}
        doubles = rows.astype(np.float64)
        for batch in (SINGLE, BATCH):
            parts = [doubles[at : at + batch] for at in range(0, len(rows) - batch + 1, batch)][:512]
            p50, p95 = timed(pipeline.predict, parts)
            slowest[batch] = p50
            records.append({"model": "scikit-learn pipeline", "backend": "scikit-learn", "batch": batch})
            records[-1] |= {"p50": p50, "p95": p95, "times": 1.0}
            print(
                f"| scaler, PCA(50), MLP(128) | | | scikit-learn | {batch} | {p50:,.1f} | {p95:,.1f} | 1 |", flush=True
            )
        made = list(models(train_files, args.epochs))
        for name, model in made:
            for record in measure(name, model, rows, labels, Path(folder)):
                record["times"] = slowest[record["batch"]] / record["p50"]
                records.append(record)
                print(line(record), flush=True)
    target = args.cache / "latency.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(records, indent=1))
    print(f"\nwritten: {target}")


if __name__ == "__main__":
    main()
