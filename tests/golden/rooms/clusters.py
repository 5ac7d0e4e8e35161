"""Checkpoints of fits on Dask that were stopped between scans, and a pipeline that Spark ML has saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.library import Counter, Library, stopped
from tests.golden.rooms.fits import COLUMNS, GAPS

FITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "total": ("PCA", {"n_components": 3, "refine": True}, COLUMNS),
    "tree": ("TruncatedSVD", {"n_components": 2}, {**GAPS, "missing": "mean", "clip_sd": 2.0}),
}
"""Fits of two scans, the first of which leaves a total or, as the state is to be kept, a tree."""


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """A client of a Dask cluster in this process."""
    import distributed

    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as found:
        yield found


def fit(lib: Library, name: str, found: Any, **options: Any) -> Any:
    """The model, fitted on Dask."""
    kind, parameters, read = FITS[name]
    engine = lib.reduce.connect("dask", found, **options)
    model = getattr(lib.reduce, kind)(**parameters)
    return model.fit(lib.data(**read), engine=engine, keep_state=name == "tree")


def dask(lib: Library) -> None:
    """For each fit the work directory when its second scan was to begin, and the model."""
    with client() as found:
        for name in FITS:
            Path(name).mkdir()
            stopped(fit, lib, name, found, work=f"{name}/work", progress=Counter((2, 0)))
            fit(lib, name, found).save(f"{name}/model", state=name == "tree")


def spark(lib: Library) -> None:
    """A saved PipelineModel of two stages, and what it makes of the rows."""
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import MinMaxScaler
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = (
        builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    )
    ours = lib.module("reduce.spark_ml").EigenmillPCA(inputCol="v", outputCol="pcs", k=3, scale=True)
    rows = session.read.parquet(str(Path("inputs/small").resolve())).coalesce(1)
    model = Pipeline(stages=[ours, MinMaxScaler(inputCol="pcs", outputCol="unit")]).fit(rows)
    model.save(str(Path("pipeline").resolve()))
    np.save("unit.npy", said(model, rows))
    session.stop()


def said(model: Any, rows: Any) -> Any:
    """What the last stage makes of rows, by id."""
    found = model.transform(rows).orderBy("id").select("unit").collect()
    return np.array([row[0].toArray() for row in found])
