"""Run by ``test_spark_connect.py`` in its own process: Connect and classic Spark do not share one."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable

import numpy as np
from pyspark.sql import SparkSession

import eigenmill.reduce.sources.base
from eigenmill.reduce import PCA, MissingValueError, Sink, StandardScaler, connect
from eigenmill.reduce.errors import DoesNotFitError
from tests.engines.contract import bytes_of, open_input, pass_of, reference, write_files
from tests.engines.counting import Dawdle, WatchedSource
from tests.support.formats import switch
from tests.support.tables import vectors
from tests.support.trees import tree


def passes(spark: Any, folder: Path) -> bool:
    data = open_input("missing", folder)
    return all(
        bytes_of(connect("spark", spark).run(pass_of(kind, data), data))
        == bytes_of(reference().run(pass_of(kind, data), data))
        for kind in ("gram", "tsqr")
    )


def parts(spark: Any, folder: Path) -> bool:
    data = open_input("sparse", folder)
    model = PCA(2, scale=True).fit(data, engine=connect("spark", spark))
    connect("spark", spark).write(model.transform(data), Sink(folder / "a", part_bytes=300))
    reference().write(PCA(2, scale=True).fit(data).transform(data), Sink(folder / "b", part_bytes=300))
    return tree(folder / "a") == tree(folder / "b") and len(tree(folder / "a")) > 4


def words(spark: Any, folder: Path) -> bool:
    data = open_input("missing", folder).with_cleaning(missing="error")
    try:
        PCA(2).fit(data, engine=connect("spark", spark))
    except MissingValueError as error:
        return "expected a value" in str(error) or "missing value" in str(error)
    return False


def budget(spark: Any, folder: Path) -> bool:
    try:
        PCA(2).fit(open_input("scalar", folder), engine=connect("spark", spark, memory="1MiB"))
    except DoesNotFitError:
        return True
    return False


def frames(spark: Any, folder: Path) -> bool:
    path = str(write_files(folder))
    frame = spark.read.parquet(path).select("id", "v")
    scaled = StandardScaler().fit(frame.select("v"))
    pca = PCA(2, scale=True).fit(frame.select("v"))
    whole = PCA(2, scale=True).fit(open_input("list", folder))
    np.testing.assert_allclose(pca.components_, whole.components_, rtol=0, atol=1e-12)
    out = pca.transform(frame.select("v")).toArrow()
    return out.column_names == ["v", "features"] and out.num_rows == scaled.n_samples_seen_


def interrupted(spark: Any, folder: Path) -> bool:
    """Ctrl-C stops the server's work too: a scan that merely nobody waits for would see all blocks."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark import SparkContext

    # A local server's SparkContext would cancel all it has by a handler of its own.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    blocks, seen = 40, folder / "seen"
    seen.mkdir()
    pq.write_table(pa.table({"x": np.arange(2.0 * blocks)}), folder / "x.parquet", row_group_size=2)
    data = eigenmill.reduce.Dataset.from_parquet(folder / "x.parquet", columns=["x"])
    data = replace(data, source=WatchedSource(data.source, Dawdle(str(seen), 0.3)))

    def strike() -> None:
        while not any(seen.iterdir()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=strike, daemon=True).start()
    try:
        connect("spark", spark).collect(data)
    except KeyboardInterrupt:
        tracker = SparkContext.getOrCreate().statusTracker()
        while tracker.getActiveJobsIds():
            time.sleep(0.1)
        return len(list(seen.iterdir())) < blocks
    return False


def large_state(spark: Any, folder: Path) -> bool:
    """A state above the 128 MB that one message of Spark Connect may have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    d = 6000
    rows = np.random.default_rng(0).normal(size=(32, d)).astype(np.float32)
    table = pa.table({"v": vectors(rows)})
    pq.write_table(table, folder / "wide.parquet", row_group_size=16)
    data = eigenmill.reduce.Dataset.from_parquet(folder / "wide.parquet")
    pass_ = pass_of("gram", data)
    assert pass_.sizes(16, 32)[0] > 128 << 20
    return bytes_of(connect("spark", spark).run(pass_, data)) == bytes_of(reference().run(pass_, data))


def main(names: list[str]) -> None:
    switch(leaf_bytes=1)
    builder = SparkSession.builder.remote("local[2]").config("spark.sql.shuffle.partitions", "1")
    builder = builder.config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    # A state of 144 MB passes several times through the JVM.
    spark = builder.config("spark.driver.memory", "3g").getOrCreate()
    found = {"module": type(spark).__module__}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = globals()[name](spark, Path(folder))
    print("\nfound " + json.dumps(found))
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
