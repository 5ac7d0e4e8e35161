"""The Spark ML pair, in a Pipeline with a stage of Spark's own, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eigenmill
from eigenmill.reduce import PCA, ConfigError
from tests.engines.contract import D, write_files

pytestmark = pytest.mark.filterwarnings("default")  # those of pyspark


@pytest.fixture(scope="module")
def frame(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    files = write_files(tmp_path_factory.mktemp("ml"))
    frame = spark.read.parquet(str(files)).selectExpr("id", "v", "cast(id % 2 as double) as label")
    return frame.coalesce(2).cache()


def rows(frame: Any, column: str) -> Any:
    return np.array([row[0].toArray() for row in frame.orderBy("id").select(column).collect()])


def test_a_pipeline_saved_and_loaded(frame: Any, tmp_path: Path) -> None:
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.feature import MinMaxScaler

    from eigenmill.reduce.spark_ml import EigenmillPCA

    ours = EigenmillPCA(inputCol="v", k=3, scale=True).setOutputCol("pcs")
    pipeline = Pipeline(stages=[ours, MinMaxScaler(inputCol="pcs", outputCol="unit")])
    pipeline.save(f"{tmp_path}/pipeline")
    model = Pipeline.load(f"{tmp_path}/pipeline").fit(frame)
    found = model.transform(frame)
    assert found.columns == ["id", "v", "label", "pcs", "unit"]
    expected = PCA(3, scale=True).fit_transform(np.array(frame.orderBy("id").toArrow().column("v").to_pylist()))
    np.testing.assert_allclose(rows(found, "pcs"), expected, rtol=0, atol=1e-11)
    assert rows(found, "unit").min() == 0
    model.save(f"{tmp_path}/model")
    again = PipelineModel.load(f"{tmp_path}/model")
    np.testing.assert_array_equal(rows(again.transform(frame), "pcs"), rows(found, "pcs"))
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".pkl", ".pickle")]
    plain = eigenmill.load(next((tmp_path / "model").rglob("eigenmill")))
    assert plain.components_.tobytes() == model.stages[0].pca.components_.tobytes()


def test_the_model_alone(frame: Any, tmp_path: Path) -> None:
    from eigenmill.reduce.spark_ml import EigenmillPCA, EigenmillPCAModel

    model = EigenmillPCA().setInputCol("v").setOutputCol("pcs").setK(2).setScale(True).fit(frame)
    assert (model.getInputCol(), model.pca.n_features_in_) == ("v", D)
    model.write().overwrite().save(f"{tmp_path}/one")
    model.write().overwrite().save(f"{tmp_path}/one")
    again = EigenmillPCAModel.load(f"{tmp_path}/one")
    assert (again.uid, again.getOutputCol()) == (model.uid, "pcs")
    np.testing.assert_array_equal(rows(again.transform(frame), "pcs"), rows(model.transform(frame), "pcs"))
    # Vectors that our own stage made are read again.
    twice = EigenmillPCA(inputCol="pcs", outputCol="twice", k=1).fit(model.transform(frame))
    assert rows(twice.transform(model.transform(frame)), "twice").shape[1] == 1


def test_what_is_not_set_is_named(frame: Any) -> None:
    from eigenmill.reduce.spark_ml import EigenmillPCA

    with pytest.raises(ConfigError, match="expected k to be set"):
        EigenmillPCA(inputCol="v", outputCol="pcs").fit(frame)
    with pytest.raises(ConfigError, match="expected inputCol to be set"):
        EigenmillPCA(outputCol="pcs", k=1).fit(frame)
    with pytest.raises(ConfigError, match="expected outputCol to be set"):
        EigenmillPCA(inputCol="v", k=1).fit(frame)
