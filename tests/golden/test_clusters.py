"""Fits that ba05dba has begun on Dask are finished there, and a pipeline that Spark ML has saved with it is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import inputs
from tests.golden.conftest import copied, same
from tests.golden.library import Counter, Library, stopped
from tests.golden.rooms import clusters
from tests.support.trees import tree

Golden = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("default")  # those of Dask and pyspark


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    pytest.importorskip("distributed")
    with clusters.client() as found:
        yield found


@pytest.mark.parametrize("name", clusters.FITS)
def test_a_fit_on_dask_is_continued(name: str, client: Any, lib: Library, golden: Golden, place: Path) -> None:
    saved, left = golden("dask") / name, Counter()
    work = copied(saved / "work", place / "work")
    clusters.fit(lib, name, client, work=work, progress=left).save("model", state=name == "tree")
    assert [rows for _, rows in left.read] == [inputs.ROWS * len(inputs.SMALL)]  # of the second scan
    same(place / "model", saved / "model")
    shutil.rmtree(work)
    stopped(clusters.fit, lib, name, client, work=work, progress=Counter((2, 0)))
    same(work, saved / "work")


def test_a_pipeline_is_loaded(spark: Any, lib: Library, golden: Golden, place: Path) -> None:
    from pyspark.ml import PipelineModel

    ours = lib.module("reduce.spark_ml")
    saved = golden("spark")
    [metadata] = saved.glob("pipeline/stages/0_*/metadata/part-*")
    assert '"class":"reduce.spark_ml.EigenmillPCAModel"' in metadata.read_text()
    model = PipelineModel.load(f"file://{saved}/pipeline")
    assert type(model.stages[0]) is ours.EigenmillPCAModel
    rows = spark.read.parquet(f"file://{place}/inputs/small").coalesce(1)
    np.testing.assert_array_equal(clusters.said(model, rows), np.load(saved / "unit.npy"))
    model.save(f"file://{place}/again")
    [before], [after] = (at.glob("stages/0_*/eigenmill") for at in (saved / "pipeline", place / "again"))
    assert tree(after) == tree(before)
