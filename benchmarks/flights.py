"""Flights: which of 3,000,000 flights are more than 15 minutes late, from date, distance, origin and destination.

    python -m benchmarks flights --seeds 3           # the compact model, at n and n / 10 rows, and the peers
    python -m benchmarks flights --side eigenmill    # the compact model alone, one seed
    python -m benchmarks flights --month 5           # May, by which settings are chosen, from the months before it

Real data: US flights from January to June 2001, as the npm package vega-datasets 3.2.1 (BSD-3-Clause) ships them in
Parquet; ``npm pack`` fetches it once. June is the test; nothing is chosen by it. The compact model streams the files
into a net whose first layer looks up rows for month, weekday, hour, origin and destination; what ships is one file.
The peers are scikit-learn's, in memory, on the same columns: logistic regression and MLPClassifier on the one-hot
columns, and encoder, TruncatedSVD and MLPClassifier, whose parameters in single precision are what bytes are compared
with. Each side runs in a process of its own, which reports its peak memory. Bars compare means over the seeds that
have been run, by this call and by earlier ones with the same cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.data import CACHE
from benchmarks.measure import MB, peak

PACKAGE, MEMBER = "vega-datasets@3.2.1", "package/data/flights-3m.parquet"
MONTHS = (5, 6)
LATE = 15
HIDDEN, PRICE = [64, 32], 5e-7
"""Chosen, as all settings of the compact model, by ``--month 5``."""
NUMBERS = ["distance"]
CATEGORIES = ["month(date)", "weekday(date)", "hour(date)", "origin", "destination"]
SIDES = ("eigenmill", "tenth", "logistic", "mlp", "svd")


def prepare(cache: Path, month: int) -> Path:
    """``train``, ``tenth`` (of its rows, every tenth) and ``test``, the month, made if they are not there yet."""
    place = cache / ("flights" if month == MONTHS[-1] else f"flights-{month}")
    if (place / "_COMPLETE").exists():
        return place
    table = fetched() if month == MONTHS[-1] else pq.read_table(prepare(cache, MONTHS[-1]) / "train")
    place.mkdir(parents=True, exist_ok=True)
    tested = pc.greater_equal(table["date"], pa.scalar(np.datetime64(f"2001-{month:02}-01", "us")))
    train, test = table.filter(pc.invert(tested)), table.filter(tested)
    for name, part in {"train": train, "tenth": train.take(np.arange(0, len(train), 10)), "test": test}.items():
        (place / name).mkdir(exist_ok=True)
        pq.write_table(part, place / name / "part-0.parquet", row_group_size=100_000)
    (place / "_COMPLETE").touch()
    return place


def fetched() -> pa.Table:
    """All flights, with whether they were late."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, timeout=600)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            archive.extract(MEMBER, folder, filter="data")
        table = pq.read_table(Path(folder) / MEMBER)
    late = pc.greater(table["delay"], LATE)
    return table.select(["date", "distance", "origin", "destination"]).append_column("late", late)


def compact(place: Path, part: str, seed: int) -> dict[str, Any]:
    """The whole way: stream, train, quantize, pack; scored on the test rows by the file."""
    from eigenmill.compress import EntropyPenalty, LearnedStep, Model, evaluate, gather, pack, quantize, train
    from eigenmill.reduce import Dataset

    def read(name: str) -> Dataset:
        carry = ["date", "origin", "destination", "late"]
        return Dataset.from_parquet(str(place / name), columns=NUMBERS, carry=carry)

    model = Model.mlp(NUMBERS, HIDDEN, categories=CATEGORIES, seed=seed)
    samples = gather(model, read(part), "late", validation=None, seed=seed)
    options: dict[str, Any] = {"epochs": 6, "batch": 2048, "forget": 0.05, "seed": seed}
    options["progress"] = lambda epoch: print(epoch, file=sys.stderr, flush=True)
    model = train(model, samples, optimizer={"name": "adam", "lr": 4e-3}, **options)
    pressed = {"optimizer": {"name": "adam", "lr": 2e-3}, "constraints": [LearnedStep(4), EntropyPenalty(PRICE)]}
    model = train(model, samples, **pressed, **options)
    path = place / f"{part}-{seed}.emill"
    size = pack(quantize(model, samples, bits=8), path)
    memory = peak()
    found = evaluate(path, read("test"), label="late")
    return {"rows": samples.n_rows, "auc": found.auc, "log_loss": found.log_loss, "bytes": size, "peak": memory}


def peers(place: Path, side: str, epochs: int, seed: int) -> dict[str, Any]:
    """scikit-learn on the same columns."""
    from sklearn.compose import make_column_transformer
    from sklearn.decomposition import TruncatedSVD
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, roc_auc_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def read(name: str) -> tuple[Any, Any]:
        table = pq.read_table(place / name)
        date = table["date"]
        parts = {"month": pc.month(date), "weekday": pc.day_of_week(date), "hour": pc.hour(date)}
        frame = pa.table({**parts, **{n: table[n] for n in ("origin", "destination", "distance")}}).to_pandas()
        return frame, table["late"].to_numpy()

    X, y = read("train")
    names = ["month", "weekday", "hour", "origin", "destination"]
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", dtype=np.float32), names), (StandardScaler(), NUMBERS)
    )
    net = MLPClassifier(128, batch_size=2048, max_iter=epochs, random_state=seed, verbose=False)
    steps: list[Any] = {
        "logistic": [LogisticRegression(max_iter=100)],
        "mlp": [net],
        "svd": [TruncatedSVD(50, random_state=seed), net],
    }[side]
    model = make_pipeline(encoder, *steps)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all epochs are spent: that is how long it is asked to train
        model.fit(X, y)
    X_test, y_test = read("test")
    sure = model.predict_proba(X_test)[:, 1]
    size = 0
    for step in steps:
        arrays = [getattr(step, name, []) for name in ("components_", "coefs_", "intercepts_", "coef_", "intercept_")]
        size += 4 * sum(np.size(a) for group in arrays for a in (group if isinstance(group, list) else [group]))
    # Of the encoder: its values, and mean and scale of the numbers.
    kept = model[0].named_transformers_
    texts = [str(value) for values in kept["onehotencoder"].categories_ for value in values]
    size += sum(len(text.encode()) for text in texts) + 8 * len(NUMBERS)
    scores = {"auc": float(roc_auc_score(y_test, sure)), "log_loss": float(log_loss(y_test, sure))}
    return {"rows": len(X), **scores, "bytes": size, "peak": peak()}


def run(cache: Path, month: int, side: str, epochs: int, seed: int) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "flights", "--child", side, "--cache", str(cache)]
    command += ["--month", str(month), "--epochs", str(epochs), "--seed", str(seed)]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"side": side, **json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - began}


Rows = list[dict[str, Any]]


def mean(rows: Rows, what: str) -> float:
    """Over the seeds."""
    return float(np.mean([row[what] for row in rows]))


def verdicts(found: dict[str, Rows]) -> dict[str, tuple[float, float, bool]]:
    """Figure, bar and whether it is kept, of those bars whose sides have run."""
    bars: dict[str, tuple[float, float, bool]] = {}
    own = found.get("eigenmill")
    if own is None:
        return bars
    auc = mean(own, "auc")
    for side, less in (("logistic", 0.002), ("mlp", 0.005), ("svd", 0.005)):
        if side in found:
            bar = mean(found[side], "auc") - less
            bars[f"AUC, {side} - {less}"] = auc, bar, auc >= bar
    if "svd" in found:
        # The largest of the files, not their mean.
        size, bar = max(row["bytes"] for row in own), mean(found["svd"], "bytes") / 10
        bars["bytes, a tenth of encoder + SVD + MLP"] = size, bar, size <= bar
    if "tenth" in found:
        growth = mean(own, "peak") / mean(found["tenth"], "peak")
        # A tenth is less than one piece of 16 MiB, of which a few copies are held; all are three pieces.
        bars["peak at n / peak at n / 10"] = growth, 1.15, growth <= 1.15
    return bars


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks flights", description="late flights, a compact model and peers")
    parser.add_argument("--side", action="append", choices=SIDES, help="default: all")
    parser.add_argument("--month", type=int, default=MONTHS[-1], choices=MONTHS, help="the test; all before it train")
    parser.add_argument("--epochs", type=int, default=6, help="of the peers")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0; 0 shows what has been found")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    place = prepare(args.cache, args.month)
    if args.child:
        part = {"eigenmill": "train", "tenth": "tenth"}.get(args.child)
        found = compact(place, part, args.seed) if part else peers(place, args.child, args.epochs, args.seed)
        print(json.dumps(found))
        return
    print(
        "| side | seed | AUC | log loss | bytes | peak MB | seconds |\n|---|---:|---:|---:|---:|---:|---:|", flush=True
    )
    for side in args.side or SIDES:
        for seed in range(args.seeds):
            row = run(args.cache, args.month, side, args.epochs, seed)
            (place / f"{side}-{seed}.json").write_text(json.dumps(row))
            line(side, str(seed), [row])
    kept = {side: [json.loads(path.read_text()) for path in sorted(place.glob(f"{side}-*.json"))] for side in SIDES}
    kept = {side: rows for side, rows in kept.items() if rows}
    for side, rows in kept.items():
        line(side, f"mean of {len(rows)}", rows)
    for what, (value, bar, passed) in verdicts(kept).items():
        print(f"{what}: {value:,.5g}, bar {bar:,.5g}: {'pass' if passed else 'FAIL'}")


def line(side: str, seed: str, rows: Rows) -> None:
    """One line of the table: means of rows."""
    auc, loss, size, memory, took = (mean(rows, name) for name in ("auc", "log_loss", "bytes", "peak", "seconds"))
    print(f"| {side} | {seed} | {auc:.4f} | {loss:.4f} | {size:,.0f} | {memory / MB:.0f} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
