"""A driver with small leaves, by spark-submit or on a Connect server: fit, save, write.

It prints each stage when it begins, and leaves with the exit codes of a job.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from eigenmill.jobs.shown import exits
from eigenmill.reduce import PCA, Dataset, EigenmillError, connect
from eigenmill.reduce.engines import ENGINES
from eigenmill.reduce.engines.spark import watch as spark_watch
from eigenmill.reduce.engines.spark.session import session, stop
from eigenmill.reduce.format import CURRENT

LEAF = 50
"""Rows of a leaf: many tasks over few bytes."""
PART_BYTES = 2000


class Tell:
    def begin(self, stage: str, rows: int, size: int) -> Tell:
        print(stage, flush=True)
        return self

    def advance(self, rows: int) -> None: ...

    def end(self) -> None: ...


def fit_and_write(data: Dataset, out: str, engine: Any, solver: str) -> None:
    """One scan with ``gram``; five with ``sketch``, the first one of which is called moments."""
    options = {"solver": solver, "block_size": 4 if solver == "sketch" else None}
    pca = PCA(5, scale=True, **options).fit(data, engine=engine)
    pca.save(out + "/model")
    pca.transform(data).to_parquet(out + "/features", engine=engine, part_bytes=PART_BYTES)


def main(path: str, out: str, solver: str = "gram", remote: str = "", patience: str = "120") -> None:
    small = replace(CURRENT, leaf_bytes=LEAF * Dataset.from_parquet(path, vector="x").n_features * 8)
    data = Dataset.from_parquet(path, vector="x", carry=["id"], format=small)
    spark_watch.POLL, kind = 1.0, ENGINES["spark"]
    assert kind.costs is not None
    ENGINES["spark"] = replace(kind, costs=replace(kind.costs, tasks=64, round_parts=64, at_once=1))
    given: dict[str, Any] = {"work": out + "/work", "progress": Tell(), "patience": float(patience)}
    try:
        fit_and_write(data, out, connect("spark", session(remote=remote or None), **given), solver)
    except (EigenmillError, KeyboardInterrupt) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(exits.code_of(error))
    print("done", flush=True)
    stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
