"""Speed on Spark: eigenmill's engine against MLlib, in sessions of the same settings, in one call.

    python -m benchmarks spark                                # both layouts; MLlib alone takes some minutes
    python -m benchmarks spark --rows 20000 --layout list     # a first look

The job is that of ``benchmarks.reduction``: standardize + PCA(50) + write features, the id carried. MLlib runs
StandardScaler + PCA + transform + write. Every case has a process of its own, which starts a session (local[2], 8 GB
driver), runs the job once on 2,000 rows, and then on the clock. ``engine`` reads the files in Python workers;
``frame`` is given the DataFrame that MLlib is given; ``local`` is the engine of one machine, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks.data import CACHE, Spec, make
from benchmarks.measure import RESULT, CaseError, temporary, warm_up
from benchmarks.mill import run as run_local
from benchmarks.mill import scalar_columns

MASTER, DRIVER_MEMORY = "local[2]", "8g"
COMPONENTS = 50
BARS = {"scalar": 15.0, "list": 12.0}
"""MLlib's seconds over those of the Spark engine, at least."""
FRAME_BAR = 5.0
"""MLlib's seconds over those of a DataFrame given to eigenmill, at least; for the list layout."""
MORE = 2.0
"""Seconds that the Spark engine may take above the local one."""
VARIANCE_TOLERANCE = 1e-4


def started() -> Any:
    """The session of every case."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(MASTER).config("spark.driver.memory", DRIVER_MEMORY)
    return builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1").getOrCreate()


def layout_of(path: Path) -> dict[str, Any]:
    return {"columns": scalar_columns(path)} if path.name.startswith("scalar") else {"vector": "x"}


def local(spark: Any, path: Path, out: Path) -> dict[str, Any]:
    return run_local(path, out)


def engine(spark: Any, path: Path, out: Path) -> dict[str, Any]:
    from eigenmill.reduce import PCA, Dataset, connect

    began = time.perf_counter()
    data, where = Dataset.from_parquet(str(path), carry=["id"], **layout_of(path)), connect("spark", spark)
    pca = PCA(COMPONENTS, scale=True).fit(data, engine=where)
    fitted = time.perf_counter()
    pca.transform(data).to_parquet(str(out), engine=where)
    return result(began, fitted, pca.explained_variance_)


def frame(spark: Any, path: Path, out: Path) -> dict[str, Any]:
    from eigenmill.reduce import PCA, Dataset

    began = time.perf_counter()
    data = Dataset.from_spark(spark.read.parquet(str(path)), carry=["id"], **layout_of(path))
    pca = PCA(COMPONENTS, scale=True).fit(data)
    fitted = time.perf_counter()
    # Only the carried id and the features come back to the JVM.
    pca.transform(data).to_spark().write.parquet(str(out))
    return result(began, fitted, pca.explained_variance_)


def mllib(spark: Any, path: Path, out: Path) -> dict[str, Any]:
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import PCA, StandardScaler, VectorAssembler
    from pyspark.ml.functions import array_to_vector, vector_to_array

    began = time.perf_counter()
    rows = spark.read.parquet(str(path))
    if path.name.startswith("scalar"):
        rows = VectorAssembler(inputCols=scalar_columns(path), outputCol="v").transform(rows)
    else:
        rows = rows.withColumn("v", array_to_vector(rows["x"].cast("array<double>")))
    scaler = StandardScaler(inputCol="v", outputCol="s", withMean=True)
    model = Pipeline(stages=[scaler, PCA(k=COMPONENTS, inputCol="s", outputCol="features")]).fit(rows.select("id", "v"))
    fitted = time.perf_counter()
    features = model.transform(rows.select("id", "v"))
    features.select("id", vector_to_array("features", "float32").alias("features")).write.parquet(str(out))
    # Shares of the sum of variances: the columns are scaled to unit variance.
    ratios = model.stages[1].explainedVariance.toArray()
    return result(began, fitted, ratios * len(model.stages[1].pc.toArray()))


def result(began: float, fitted: float, variance: Any) -> dict[str, Any]:
    ended = time.perf_counter()
    return {"fit": fitted - began, "seconds": ended - began, "variance": [float(v) for v in variance]}


CASES: dict[str, Callable[[Any, Path, Path], dict[str, Any]]] = {
    "local": local,
    "engine": engine,
    "frame": frame,
    "mllib": mllib,
}


def child(name: str, spec: Spec, cache: Path, repeat: int) -> list[dict[str, Any]]:
    """The runs of a case on one warm session."""
    spark, found = started(), []
    with temporary() as out:
        CASES[name](spark, cache / warm_up(spec).name, out / "warm")
        for turn in range(repeat):
            found.append(CASES[name](spark, cache / spec.name, out / str(turn)))
            parts = (out / str(turn)).rglob("*.parquet")
            found[-1]["rows"] = sum(pq.read_metadata(part).num_rows for part in parts)
    spark.stop()
    return found


def measured(name: str, spec: Spec, cache: Path, repeat: int) -> list[dict[str, Any]]:
    """The runs of a case in a process of its own."""
    request = json.dumps({"case": name, "spec": vars(spec), "cache": str(cache), "repeat": repeat})
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.spark", "--child", request], stdout=log, stderr=subprocess.STDOUT
        )
        log.seek(0)
        printed = log.read()
    lines = [line for line in printed.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise CaseError(f"{name} on {spec.name}: exit code {done.returncode}\n{printed[-4000:]}")
    found: list[dict[str, Any]] = json.loads(lines[-1].removeprefix(RESULT))
    return found


def verdicts(spec: Spec, runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was measured, the bar in words, and whether it was passed."""
    seconds = {name: median(run["seconds"] for run in found) for name, found in runs.items()}
    records: list[dict[str, Any]] = []

    def judge(what: str, value: float, bar: str, passed: bool) -> None:
        records.append({"what": what, "value": value, "bar": bar, "passed": passed})

    if {"engine", "mllib"} <= seconds.keys():
        ratio, bar = seconds["mllib"] / seconds["engine"], BARS[spec.layout]
        judge("MLlib / Spark engine", ratio, f">= {bar:g}", ratio >= bar)
    if {"frame", "mllib"} <= seconds.keys() and spec.layout == "list":
        ratio = seconds["mllib"] / seconds["frame"]
        judge("MLlib / eigenmill on a DataFrame", ratio, f">= {FRAME_BAR:g}", ratio >= FRAME_BAR)
    if {"engine", "local"} <= seconds.keys():
        more = seconds["engine"] - seconds["local"]
        judge("Spark engine - local engine, s", more, f"<= {MORE:g}", more <= MORE)
    first = next(iter(runs.values()))[0]["variance"]
    for name, found in runs.items():
        error = max(abs(a / b - 1) for a, b in zip(found[0]["variance"], first, strict=True))
        judge(f"variances, {name}", error, f"<= {VARIANCE_TOLERANCE:g}", error <= VARIANCE_TOLERANCE)
        judge(f"rows written, {name}", found[0]["rows"], f"= {spec.rows}", found[0]["rows"] == spec.rows)
    return records


def show(spec: Spec, runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Print both tables of a layout; the verdicts as records."""
    print(f"\n| {spec.layout}, {spec.rows} x {spec.features} | median s | best s | fit s |\n|---|---:|---:|---:|")
    for name, found in runs.items():
        mid = {key: median(run[key] for run in found) for key in ("seconds", "fit")}
        best = min(run["seconds"] for run in found)
        print(f"| {name} ({len(found)} runs) | {mid['seconds']:.2f} | {best:.2f} | {mid['fit']:.2f} |")
    print(f"\n| {spec.layout} | measured | bar | |\n|---|---:|---|---|")
    records = verdicts(spec, runs)
    for record in records:
        word = "pass" if record["passed"] else "FAIL"
        print(f"| {record['what']} | {record['value']:.4g} | {record['bar']} | {word} |")
    print(flush=True)
    return records


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks spark", description="eigenmill on Spark, and MLlib")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs of eigenmill on one warm session; MLlib has one")
    parser.add_argument("--layout", action="append", choices=tuple(BARS), help="default: scalar and list")
    parser.add_argument("--only", action="append", choices=tuple(CASES), help="cases; default: all")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        asked = json.loads(args.child)
        found = child(asked["case"], Spec(**asked["spec"]), Path(asked["cache"]), asked["repeat"])
        print("\n" + RESULT + json.dumps(found))
        return
    print(f"{os.cpu_count()} cores, load average before the start {os.getloadavg()[0]:.2f}", flush=True)
    written: dict[str, Any] = {"rows": args.rows, "cores": os.cpu_count(), "layouts": {}}
    for layout in args.layout or list(BARS):
        spec, runs = Spec(rows=args.rows, layout=layout), {}
        for wanted in (spec, warm_up(spec)):
            make(wanted, args.cache)
        for name in (case for case in CASES if not args.only or case in args.only):
            try:
                runs[name] = measured(name, spec, args.cache, 1 if name == "mllib" else args.repeat)
            except CaseError as error:
                print(f"{layout:7s} {name:7s} FAILED: {error}", flush=True)
                continue
            print(f"{layout:7s} {name:7s} {median(r['seconds'] for r in runs[name]):7.2f} s", flush=True)
        if runs:
            written["layouts"][layout] = {"runs": runs, "verdicts": show(spec, runs)}
    target = args.cache / "spark.json"
    target.write_text(json.dumps(written, indent=1))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
