"""Writes Spark ML vectors, and hive partitions, with a real Spark."""

from __future__ import annotations

from typing import Any

WIDTH = 5
DENSE: list[Any] = [[1.0, 2.0, 3.0, 4.0, 5.0], None, [0.0, 0.0, -1.5, 0.0, 0.0], [0.0] * WIDTH]
SPARSE: list[Any] = [{0: 1.0, 4: 2.0}, {}, None, {2: 0.0}, {1: -3.0, 2: 4.0, 3: 5.0}]
KINDS: dict[str, list[Any]] = {"dense": DENSE, "sparse": SPARSE, "mixed": [*DENSE, *SPARSE]}


def write(spark: Any, directory: str) -> None:
    from pyspark.ml.linalg import Vectors, VectorUDT
    from pyspark.sql.types import LongType, StructField, StructType

    def vector(row: Any) -> Any:
        return Vectors.sparse(WIDTH, row) if isinstance(row, dict) else None if row is None else Vectors.dense(row)

    schema = StructType([StructField("id", LongType()), StructField("features", VectorUDT())])
    for kind, rows in KINDS.items():
        frame = spark.createDataFrame([(i, vector(row)) for i, row in enumerate(rows)], schema)
        frame.coalesce(1).write.mode("overwrite").parquet(f"{directory}/{kind}")
    spark.createDataFrame(
        [(i, float(i), i % 2 == 0) for i in range(10)], "a long, b double, even boolean"
    ).write.partitionBy("even").mode("overwrite").parquet(f"{directory}/scalars")
