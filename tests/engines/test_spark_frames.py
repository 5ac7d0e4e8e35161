"""Spark DataFrames in, Spark DataFrames out; they agree with the same rows in files to 1e-12."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eigenmill.reduce import PCA, ConfigError, DataError, Dataset, Sink, StandardScaler, TruncatedSVD, connect
from eigenmill.reduce.errors import EngineError, MissingValueError, SchemaError
from eigenmill.reduce.estimators.inputs import engine_for
from tests.engines.contract import D, N, costing, pass_of, write_files

pytestmark = pytest.mark.filterwarnings("default")  # those of pyspark

SCALARS = [f"f{j}" for j in range(D)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def frame(spark: Any, files: Path) -> Any:
    # More partitions than the machine has cores, one of them without rows.
    rows = spark.read.parquet(str(files)).where("id < 60 or id >= 70")
    return rows.selectExpr("*", "id % 3 as part").repartition(4, "part").drop("part").cache()


def from_files(files: Path, **layout: Any) -> Dataset:
    return Dataset.from_parquet(files, filters=[[("id", "<", 60)], [("id", ">=", 70)]], carry="id", **layout)


def vectors(frame: Any, *, sparse: bool) -> Any:
    from pyspark.ml.functions import array_to_vector
    from pyspark.ml.linalg import Vectors, VectorUDT
    from pyspark.sql.types import LongType, StructField, StructType

    if not sparse:
        return frame.select("id", array_to_vector("v").alias("vec"))
    schema = StructType([StructField("id", LongType()), StructField("vec", VectorUDT())])
    rows = [
        (n, Vectors.sparse(D, i, x) if len(i) % 2 else Vectors.dense(_dense(i, x)))
        for n, i, x in frame.select("id", "i", "x").collect()
    ]
    return frame.sparkSession.createDataFrame(rows, schema).coalesce(3)


def _dense(i: list[int], x: list[float]) -> list[float]:
    row = [0.0] * D
    for j, value in zip(i, x, strict=True):
        row[j] = value
    return row


def numbers(table: Any, column: str = "features") -> Any:
    return np.array(table.column(column).to_pylist())


def agree(mine: Any, theirs: Any) -> None:
    for name, value in vars(theirs).items():
        if (
            name.endswith("_")
            and not name.endswith("_bounds_")
            and isinstance(value, np.ndarray)
            and value.dtype.kind == "f"
        ):
            scale = max(np.abs(value).max(), 1.0)
            np.testing.assert_allclose(getattr(mine, name), value, rtol=1e-12, atol=1e-12 * scale, err_msg=name)


@pytest.mark.parametrize(
    ("layout", "model"),
    [
        ("list", PCA(3, scale=True)),
        ("list", StandardScaler()),
        ("scalars", TruncatedSVD(2)),
        ("dense", PCA(3, scale=True)),
        ("sparse", TruncatedSVD(2)),
        ("sparse", StandardScaler(with_mean=False)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_frames_agree_with_files(frame: Any, files: Path, model: Any, layout: str) -> None:
    if layout == "scalars":
        data, told = frame.select("id", *SCALARS), {"columns": SCALARS}
    elif layout == "list":
        data, told = frame.select("id", "v"), {"vector": "v"}
    else:
        data, told = vectors(frame, sparse=layout == "sparse"), {"vector": "vec"}
    stored = {"list": {"vector": "v"}, "dense": {"vector": "v"}, "sparse": {"sparse": ("i", "x", D)}}
    expected = from_files(files, **stored.get(layout, {"columns": SCALARS}))
    mine = type(model)(**model.get_params()).fit(Dataset.from_spark(data, **told))
    theirs = type(model)(**model.get_params()).fit(expected)
    agree(mine, theirs)
    out = mine.transform(data)
    assert out.columns == [*data.columns, "features"]
    table = out.orderBy("id").select("id", "features").toArrow()
    assert table.column("id").to_pylist() == [i for i in range(N) if not 60 <= i < 70]
    expected_rows = theirs.transform(expected).to_numpy()
    np.testing.assert_allclose(numbers(table), expected_rows, rtol=0, atol=1e-12 * np.abs(expected_rows).max())


def test_the_obvious_column_needs_no_name(frame: Any, files: Path) -> None:
    agree(PCA(2).fit(frame.select("v")), PCA(2).fit(from_files(files, vector="v")))
    with pytest.raises(SchemaError, match="say which columns are the features"):
        PCA(2).fit(frame)


def test_weights_missing_values_and_dropped_rows(frame: Any, files: Path) -> None:
    gaps = [f"g{j}" for j in range(D)]
    how: dict[str, Any] = {"columns": gaps, "weights": "w", "missing": "drop", "carry": "id"}
    expected = Dataset.from_parquet(files, filters=[[("id", "<", 60)], [("id", ">=", 70)]], **how)
    data = Dataset.from_spark(frame, **how)
    mine, theirs = PCA(2).fit(data), PCA(2).fit(expected)
    agree(mine, theirs)
    out = mine.transform(data).to_spark()
    assert out.columns == ["id", "features"]
    assert out.count() == len(theirs.transform(expected).to_numpy())
    with pytest.raises(MissingValueError, match=r"column 'g\d', found a missing value .*<DataFrame> partition \d"):
        PCA(2).fit(Dataset.from_spark(frame, columns=gaps))


def test_going_on_with_more_rows(frame: Any, files: Path) -> None:
    first, rest = frame.where("id < 50").select("v"), frame.where("id >= 50").select("v")
    grown = PCA(2).partial_fit(first).partial_fit(rest)
    agree(grown, PCA(2).fit(from_files(files, vector="v")))


def test_rows_can_be_collected(frame: Any, files: Path) -> None:
    data = Dataset.from_spark(frame.coalesce(1).orderBy("id"), vector="v")
    np.testing.assert_array_equal(data.to_numpy(engine_for(data, None)), from_files(files, vector="v").to_numpy())


def test_a_chain_of_models_is_a_frame_with_what_is_carried(frame: Any, files: Path) -> None:
    data, stored = Dataset.from_spark(frame, vector="v", carry="id"), from_files(files, vector="v")
    scaler, told = StandardScaler().fit(data), StandardScaler().fit(stored)
    pca, expected = PCA(2).fit(scaler.transform(data)), PCA(2).fit(told.transform(stored))
    out = pca.transform(scaler.transform(data)).to_spark("pcs")
    assert out.columns == ["id", "pcs"]
    rows = expected.transform(told.transform(stored)).to_numpy()
    found = numbers(out.orderBy("id").toArrow(), "pcs")
    np.testing.assert_allclose(found, rows, rtol=0, atol=1e-12 * np.abs(rows).max())
    # No name is all names.
    assert pca.transform(scaler.transform(Dataset.from_spark(frame, vector="v"))).to_spark().columns == [
        *frame.columns,
        "features",
    ]
    with pytest.raises(ConfigError, match="expected no column 'id'"):
        pca.transform(scaler.transform(data)).to_spark("id")
    with pytest.raises(ConfigError, match=r"expected data of Dataset\.from_spark"):
        expected.transform(told.transform(stored)).to_spark()


def test_float32_stays_float32(frame: Any) -> None:
    single = frame.selectExpr("id", "transform(v, x -> cast(x as float)) as v")
    out = PCA(2).fit(Dataset.from_spark(single, vector="v")).transform(single)
    assert out.schema["features"].dataType.elementType.typeName() == "float"


def test_states_meet_in_rounds(frame: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costing(monkeypatch, "spark", at_once=1, fan_in=2)
    agree(PCA(2).fit(frame.select("v")), PCA(2).fit(from_files(files, vector="v")))


def test_what_is_refused(spark: Any, frame: Any, tmp_path: Path) -> None:
    data = Dataset.from_spark(frame, vector="v")
    with pytest.raises(ConfigError, match="leave engine out"):
        PCA(2).fit(data, engine=connect("local"))
    with pytest.raises(ConfigError, match=r"write\.parquet"):
        connect("spark", spark).write(data, Sink(tmp_path / "out"))
    model = PCA(2).fit(data)
    with pytest.raises(ConfigError, match="expected no column 'features'"):
        model.transform(frame.select("v", "id").withColumnRenamed("id", "features"))
    with pytest.raises(SchemaError, match="'v'"):
        model.transform(frame.select("id"))
    with pytest.raises(ConfigError, match="Spark DataFrame"):
        PCA(2).fit(spark)
    with pytest.raises(SchemaError, match="say n_features="):
        PCA(2).fit(frame.select("v").where("v is null"))
    with pytest.raises(DataError, match="at least one row"):
        PCA(2).fit(frame.select(*SCALARS).where("f0 < 0"))
    with pytest.raises(SchemaError, match="different names"):
        PCA(2).fit(frame.select("f0", "f0"))


def test_a_query_that_fails_is_an_engine_error(frame: Any) -> None:
    broken = frame.selectExpr("case when id > 100 then raise_error('broken') else f0 end as a", "f1")
    data = Dataset.from_spark(broken)
    with pytest.raises(EngineError, match="broken"):
        engine_for(data, None).run(pass_of("gram", data), data)


@pytest.mark.parametrize("layout", ["pairs", "vectors"])
def test_wide_sparse_rows(spark: Any, layout: str) -> None:
    """Numbers stored are counted, so that a plan fits, and the rows agree with those in memory."""
    from pyspark.ml.linalg import SparseVector, VectorUDT
    from pyspark.sql.types import ArrayType, DoubleType, IntegerType, StructField, StructType
    from scipy import sparse

    d = 200_000
    X = sparse.random_array((300, d), density=1e-4, format="csr", rng=np.random.default_rng(5))
    rows = [(X.indices[a:b].tolist(), X.data[a:b].tolist()) for a, b in itertools.pairwise(X.indptr)]
    told: dict[str, Any]
    if layout == "pairs":
        schema = StructType([StructField("i", ArrayType(IntegerType())), StructField("x", ArrayType(DoubleType()))])
        frame, told = spark.createDataFrame(rows, schema), {"sparse": ("i", "x", d)}
    else:
        wide = [(SparseVector(d, *row),) for row in rows]
        frame, told = spark.createDataFrame(wide, StructType([StructField("v", VectorUDT())])), {"vector": "v"}
    frame = frame.coalesce(2).cache()
    data = Dataset.from_spark(frame, **told)
    assert data.sparse
    assert data.stored == X.nnz
    model = TruncatedSVD(3, solver="sketch", tol=None, max_scans=2)
    mine = TruncatedSVD(**model.get_params()).fit(data, engine=connect("spark", spark, memory="3GiB"))
    theirs = model.fit(X)
    np.testing.assert_allclose(mine.singular_values_, theirs.singular_values_, rtol=1e-12)
    np.testing.assert_allclose(mine.components_, theirs.components_, rtol=0, atol=1e-12)
    table = mine.transform(data).to_spark().select("features").toArrow()
    np.testing.assert_allclose(
        np.sort(numbers(table), axis=0), np.sort(theirs.transform(X), axis=0), rtol=0, atol=1e-12
    )


def test_sparse_rows_come_many_at_a_time() -> None:
    """32 of 200,000 columns would make a dense block; sparse rows are not made dense."""
    from eigenmill.reduce.engines.spark.frames import FrameReader
    from eigenmill.reduce.format import FORMAT_1
    from eigenmill.reduce.sources.layouts import SparsePair

    layout = SparsePair("i", "x", 200_000, np.dtype(np.float64))
    batch = pa.record_batch({"i": [[k, 7_000 + k] for k in range(500)], "x": [[1.0, 2.0]] * 500})
    reader = FrameReader(layout, None, (), FORMAT_1)
    assert reader.sparse
    assert [b.rows for b in reader.blocks([batch], "x", FORMAT_1.max_height)] == [500]
    assert max(b.rows for b in reader.blocks([batch], "x")) == 32
