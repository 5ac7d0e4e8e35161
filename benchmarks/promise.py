"""The promise of ``memory=``: for each shape of data and each command, what was planned and what it took.

    python -m benchmarks.promise                # every shape, one process for each
    python -m benchmarks.promise --only carried --scale 0.1

Each case runs in a process of its own within the budget that was planned for it; its peak is ``VmHWM``. The ratio of
measured to planned is never above 1, and for plans above 256 MiB not below 0.4.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import MB, peak

GOLDEN = Path(__file__).parents[1] / "tests/compress/golden"
LEAST, LARGE = 0.4, 256 << 20


@dataclass(frozen=True)
class Shape:
    """Rows of one shape.

    Attributes:
        make: writes them, given a file and how many times as large as listed they are to be.
        read: keywords of ``Dataset.from_parquet``.
        commands: what is done with them; see ``COMMANDS``.
        options: of the sink.
    """

    make: Callable[[Path, float], None]
    read: dict[str, Any]
    commands: tuple[str, ...] = ("fit", "transform")
    options: dict[str, Any] | None = None


# Data


def features(rows: int, count: int = 4, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {f"x{j}": rng.standard_normal(rows) for j in range(count)}


def texts(rows: int, size: int, seed: int = 0) -> pa.Array:
    """Random letters, which hardly compress."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, rows * size, dtype=np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int64) * size
    found = pa.LargeStringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters))
    return pa.concat_arrays([found[:-1], pa.nulls(1, found.type)])


def write(path: Path, tables: Iterator[dict[str, Any]], **options: Any) -> None:
    """Each table becomes a row group."""
    writer = None
    for columns in tables:
        table = pa.table(columns)
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, **{"compression": "zstd", **options})
        writer.write_table(table, row_group_size=max(len(table), 1))
    assert writer is not None
    writer.close()


def strings(size: int, rows: int, groups: int, name: str = "text", **options: Any) -> Callable[[Path, float], None]:
    def make(path: Path, scale: float) -> None:
        n = max(int(rows * scale), 8)
        write(path, (features(n, seed=i) | {name: texts(n, size, i)} for i in range(groups)), **options)

    return make


def dictionary(path: Path, scale: float) -> None:
    """400 MB of values of 100 KB, each five times."""
    size, many = 100_000, max(int(4000 * scale), 8)
    values = texts(many + 1, size)[:-1]
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(many, dtype=np.int32), 5))
    column = pa.DictionaryArray.from_arrays(order, values.cast(pa.string()))
    write(path, iter([features(len(order)) | {"text": column}]), dictionary_pagesize_limit=1 << 30, store_schema=False)


def repeated(path: Path, scale: float) -> None:
    """A few values of 100 KB in a small dictionary, in 40,000 rows: 4 GB when decoded."""
    values = texts(9, 100_000)[:-1].cast(pa.string())
    rows = max(int(40_000 * scale), 2000)
    column = pa.DictionaryArray.from_arrays(np.random.default_rng(1).integers(0, 8, rows, dtype=np.int32), values)
    write(path, iter([features(rows) | {"text": column}]), store_schema=False)


def doubles(path: Path, scale: float) -> None:
    n = int(100_000 * max(scale, 0.2))
    write(
        path,
        (features(n, 10, i) | {f"c{j}": v for j, v in enumerate(features(n, 300, i + 9).values())} for i in (0, 1)),
    )


def sparse(
    lengths: Callable[[np.random.Generator, int], Any], rows: int, groups: int, width: int
) -> Callable[[Path, float], None]:
    def make(path: Path, scale: float) -> None:
        def tables() -> Iterator[dict[str, Any]]:
            for i in range(groups):
                rng, n = np.random.default_rng(i), max(int(rows * scale), 64) + (i == groups - 1)
                counts = np.minimum(np.asarray(lengths(rng, n), dtype=np.int64), width)
                offsets = np.concatenate([[0], np.cumsum(counts)])
                indices = np.concatenate([np.sort(rng.choice(width, c, replace=False)) for c in counts])
                values = rng.random(offsets[-1], dtype=np.float32)
                lists = [
                    pa.ListArray.from_arrays(offsets.astype(np.int32), flat)
                    for flat in (indices.astype(np.int32), values)
                ]
                yield dict(zip(("indices", "values"), lists, strict=True))

        write(path, tables())

    return make


def one_page(path: Path, scale: float) -> None:
    """A page of 1 GB in a file of a few KB."""
    n = int((128 << 20) * scale)
    write(
        path,
        iter([{"x0": np.zeros(n)}]),
        use_dictionary=False,
        data_page_size=1 << 30,
        max_rows_per_page=1 << 30,
        write_statistics=False,
    )


def wide(rows: int, width: int, groups: int = 1, **more: Any) -> Callable[[Path, float], None]:
    def make(path: Path, scale: float) -> None:
        def tables() -> Iterator[dict[str, Any]]:
            for i in range(groups):
                n = max(int(rows * scale), 32)
                flat = np.random.default_rng(i).standard_normal(n * width, dtype=np.float32)
                yield {"x": pa.FixedSizeListArray.from_arrays(pa.array(flat), width)}

        write(path, tables(), use_dictionary=False)

    return make


def keyed(path: Path, scale: float) -> None:
    n = int(1_000_000 * scale)
    write(
        path,
        (
            features(n, 20, i)
            | {"key": np.random.default_rng(i).integers(0, 200, n).astype(str), "text": texts(n, 100, i)}
            for i in (0, 1)
        ),
    )


def random_shape(seed: int) -> Shape:
    """A table drawn at random: texts of a few bytes to some 100 KB, dictionaries, gaps, lists, row groups."""
    rng = np.random.default_rng(seed)
    mean, spread = float(10 ** rng.uniform(0.5, 5)), rng.uniform(0, 1)
    rows = int(max(20_000_000 / max(mean, 500), 50))
    listed, gaps, few = rng.random() < 0.4, rng.random() * 0.3, rng.random() < 0.3
    options = {"use_dictionary": bool(rng.random() < 0.7), "compression": str(rng.choice(["zstd", "snappy", "none"]))}

    def column(rng: np.random.Generator, n: int) -> pa.Array:
        lengths = np.maximum(mean * np.exp(spread * rng.standard_normal(n) - spread**2 / 2), 1).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        letters = rng.integers(97, 123, offsets[-1], dtype=np.uint8)
        texts = pa.LargeStringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(letters))
        order = rng.integers(0, max(n // 50, 1), n) if few else np.arange(n)
        return texts.take(pa.array(order, mask=rng.random(n) < gaps))

    def make(path: Path, scale: float) -> None:
        def tables() -> Iterator[dict[str, Any]]:
            for i in range(int(rng.integers(1, 4))):
                found = features(rows, 4, i) | {"text": column(np.random.default_rng([seed, i]), rows)}
                if listed:
                    counts = np.random.default_rng(i).integers(0, 100, rows)
                    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
                    found["list"] = pa.ListArray.from_arrays(ends, np.zeros(ends[-1]))
                yield found | {"key": np.random.default_rng(i).integers(0, 5, rows)}

        write(path, tables(), **options)

    carry = ["text", "key", *(["list"] if listed else [])]
    read: dict[str, Any] = {"columns": [f"x{j}" for j in range(4)], "carry": carry}
    if rng.random() < 0.3:
        read["filters"] = [["text", ">", "f"]]
    sink = rng.choice(["list", "columns", "key"])
    return Shape(make, read, ("transform",), {"partition_by": "key"} if sink == "key" else {"layout": str(sink)})


SPARSE = {"sparse": ["indices", "values", 27_998]}
SHAPES = {
    "carried 1 MB": Shape(
        strings(1_000_000, 200, 2, use_dictionary=False),
        {"columns": ["x0", "x1", "x2", "x3"], "carry": ["text"]},
        ("transform", "predict"),
    ),
    "carried 1 MB, dictionary": Shape(
        strings(1_000_000, 200, 2), {"columns": ["x0", "x1", "x2", "x3"], "carry": ["text"]}, ("transform",)
    ),
    "carried 10 KB": Shape(
        strings(10_000, 30_000, 2),
        {"columns": ["x0", "x1", "x2", "x3"], "carry": ["text"]},
        ("transform", "vocabulary"),
    ),
    "dictionary 400 MB": Shape(dictionary, {"columns": ["x0", "x1", "x2", "x3"], "carry": ["text"]}, ("transform",)),
    "repeated 100 KB": Shape(repeated, {"columns": ["x0", "x1", "x2", "x3"], "carry": ["text"]}, ("transform",)),
    "filter 10 KB": Shape(
        strings(10_000, 30_000, 2),
        {"columns": ["x0", "x1", "x2", "x3"], "filters": [["text", ">", "b"]]},
        ("fit", "transform"),
    ),
    "300 carried doubles": Shape(
        doubles, {"columns": [f"x{j}" for j in range(10)], "carry": [f"c{j}" for j in range(300)]}, ("transform",)
    ),
    "unequal sparse": Shape(
        sparse(lambda rng, n: np.full(n, 4000 if n % 2 else 20), 8000, 10, 27_998),
        SPARSE,
        ("scale", "sketch", "transform"),
    ),
    "heavy sparse": Shape(
        sparse(lambda rng, n: 20 * (1 + rng.pareto(1.1, n)), 40_000, 2, 27_998),
        SPARSE,
        ("scale", "sketch", "transform"),
    ),
    "cells": Shape(
        sparse(lambda rng, n: rng.integers(2000, 3400, n), 1250, 16, 27_998), SPARSE, ("scale", "sketch", "transform")
    ),
    "one page": Shape(one_page, {"columns": ["x0"]}, ("scale", "transform")),
    "reconstruct 20,000": Shape(wide(8192, 10), {"vector": "x"}, ("reconstruct",)),
    "reconstruct 20,000 columns": Shape(wide(8192, 10), {"vector": "x"}, ("reconstruct",), {"layout": "columns"}),
    "columns at 10,000": Shape(wide(1000, 10_000, 6), {"vector": "x"}, ("transform",), {"layout": "columns"}),
    "list at 10,000": Shape(wide(1000, 10_000, 6), {"vector": "x"}, ("scale", "transform")),
    "partitioned": Shape(
        keyed,
        {"columns": [f"x{j}" for j in range(20)], "carry": ["key", "text"]},
        ("transform",),
        {"partition_by": "key"},
    ),
}


# Commands: what is planned, and what is run


def job(
    command: str, path: Path, out: Path, read: dict[str, Any], options: dict[str, Any]
) -> tuple[Any, Any, Callable[[Any], Any]]:
    """(data, work, what runs it on an engine) of a command."""
    from eigenmill.compress import load
    from eigenmill.compress.core.categories import vocabulary_pass
    from eigenmill.compress.packed.predict import predictions
    from eigenmill.reduce import Dataset, Sink
    from eigenmill.reduce.passes.gram import GramPass
    from eigenmill.reduce.passes.intake import Intake
    from eigenmill.reduce.passes.moments import MomentsPass
    from eigenmill.reduce.rows.cleaning import Cleaning
    from eigenmill.reduce.rows.transforms import ModelInput, Reconstruct, Standardize

    def folded(data: Any, pass_: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
        return data, pass_, lambda engine: engine.run(pass_, data)

    if "filters" in read:
        read = read | {"filters": [tuple(each) for each in read["filters"]]}
    data = Dataset.from_parquet(path, **read)
    names, d = data.feature_names, data.n_features
    policy = Cleaning().resolve(names)
    intake = Intake(names, data.dtype, policy, data.format)
    if command == "fit":
        return folded(data, GramPass(intake))
    if command == "scale":
        return folded(data, MomentsPass(intake))
    if command == "sketch":
        return folded(data, sketch_pass(intake, d))
    if command == "vocabulary":
        return folded(data, vocabulary_pass(data.source.carried, ["text"], 1000, 2))
    if command == "predict":
        data = predictions(load(GOLDEN / "net-0-huffman.emill"), path, **read)
    elif command == "reconstruct":
        basis = np.random.default_rng(0).standard_normal((d, 20_000))
        data = data.then(Reconstruct(basis, np.ones(20_000), [f"c{j}" for j in range(20_000)], np.dtype(np.float32)))
    elif command == "transform":
        if data.sparse:
            data = data.then(project(names, data, policy, 10))
        else:
            data = data.then(
                Standardize(ModelInput(names, data.dtype, policy, data.format), np.ones(d), np.full(d, 2.0))
            )
    sink = Sink(out, **options)
    return data, sink.writing(data), lambda engine: engine.write(data, sink)


def project(names: Any, data: Any, policy: Any, k: int) -> Any:
    from eigenmill.reduce.rows.transforms import ModelInput, Project

    d = len(names)
    weights = np.random.default_rng(0).standard_normal((d, k))
    return Project(
        ModelInput(names, data.dtype, policy, data.format), np.full(d, 0.1), weights, [f"z{j}" for j in range(k)]
    )


def sketch_pass(intake: Any, d: int) -> Any:
    from eigenmill.reduce.passes.sketch import SketchPass

    return SketchPass(intake, np.random.default_rng(0).standard_normal((d, 10)))


def child(request: dict[str, Any]) -> dict[str, Any]:
    from eigenmill.reduce import connect
    from eigenmill.reduce.engines.memory import estimate

    data, work, run = job(
        request["command"], Path(request["path"]), Path(request["out"]), request["read"], request["options"]
    )
    planned = estimate(work, data, request["workers"])
    budget = request.get("memory") or int(planned.peak * 1.02)
    before = peak()
    run(connect("local", workers=request["workers"], memory=budget))
    found = {
        key: getattr(planned, key) for key in ("process", "states", "blocks", "decoding", "tree", "finalize", "peak")
    }
    return {"planned": planned.peak, "before": before, "measured": peak(), "parts": found}


def measured(path: Path, out: Path, command: str, shape: Shape, workers: int = 1) -> dict[str, Any]:
    """What a child has planned and taken, in bytes; ``refused`` when it did not run."""
    request = {
        "path": str(path),
        "out": str(out),
        "command": command,
        "read": shape.read,
        "options": shape.options or {},
        "workers": workers,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.promise", "--child", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": done.stderr[-1500:], "code": done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks promise", description="planned and measured memory")
    parser.add_argument("--child")
    parser.add_argument("--only", default="", help="shapes with this in their names")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--parts", action="store_true", help="what the plan consists of")
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(json.loads(args.child))))
        return
    table(args.only, args.scale, args.workers, args.cache, parts=args.parts)


def table(
    only: str = "", scale: float = 1.0, workers: int = 1, cache: Path | None = None, *, parts: bool = False
) -> None:
    """Print a line for every command over every shape; the data are kept in ``cache``, if one is named."""
    with tempfile.TemporaryDirectory() as folder:
        print(
            "| rows | command | sink | planned MiB | measured MiB | ratio | |\n|---|---|---|---:|---:|---:|---|",
            flush=True,
        )
        for name, shape in SHAPES.items():
            if only not in name:
                continue
            path = (cache or Path(folder)) / f"{name.replace(' ', '-').replace(',', '')}-{scale}.parquet"
            if not path.exists():
                shape.make(path, scale)
            for command in shape.commands:
                found = measured(path, Path(folder) / "out", command, shape, workers)
                shutil.rmtree(Path(folder) / "out", ignore_errors=True)
                print(line(name, command, shape, found), flush=True)
                if parts and "parts" in found:
                    print(
                        {k: round(v / MB) for k, v in found["parts"].items()}, round(found["before"] / MB), flush=True
                    )
            if cache is None:
                path.unlink()


def line(name: str, command: str, shape: Shape, found: dict[str, Any]) -> str:
    sink = ", ".join(f"{k}={v}" for k, v in (shape.options or {}).items()) or (
        "list" if command in ("transform", "predict", "reconstruct") else ""
    )
    if "error" in found:
        return f"| {name} | {command} | {sink} | | | | exit {found['code']}: {found['error'][-300:]!r} |"
    planned, taken = found["planned"], found["measured"]
    ratio = taken / planned
    kept = "pass" if ratio <= 1 and (ratio >= LEAST or planned <= LARGE) else "FAIL"
    return f"| {name} | {command} | {sink} | {planned / MB:,.0f} | {taken / MB:,.0f} | {ratio:.2f} | {kept} |"


if __name__ == "__main__":
    main()
