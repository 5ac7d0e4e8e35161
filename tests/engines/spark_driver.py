"""A driver for spark-submit with small leaves: fit, save, write; it prints each stage when it begins."""

from __future__ import annotations

import sys
from typing import Any

from reduce import PCA, Dataset, EigenmillError, connect, dataset
from reduce.engines import load, spark, spark_watch
from reduce.engines.spark_session import session, stop

LEAF = 50
"""Rows of a leaf: many tasks over few bytes."""
PART_BYTES = 2000


class Tell:
    def begin(self, stage: str, rows: int, size: int) -> None:
        print(stage, flush=True)

    def advance(self, rows: int) -> None: ...

    def end(self) -> None: ...


def fit_and_write(data: Dataset, out: str, engine: Any) -> None:
    pca = PCA(5, scale=True).fit(data, engine=engine)
    pca.save(out + "/model")
    pca.transform(data).to_parquet(out + "/features", engine=engine, part_bytes=PART_BYTES)


def main(path: str, out: str) -> None:
    data = Dataset.from_parquet(path, vector="x", carry=["id"])
    dataset.LEAF_BYTES = LEAF * data.n_features * 8
    load.TASKS["spark"], spark.AT_ONCE, spark_watch.POLL = 64, 1, 1.0
    try:
        fit_and_write(data, out, connect("spark", session(), work=out + "/work", progress=Tell()))
    except EigenmillError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(7)
    print("done", flush=True)
    stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
