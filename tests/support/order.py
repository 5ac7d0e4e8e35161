"""How ``make test`` shares out files: each to one process, all that use Spark to the same one, long ones first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).parents[2]

SPARK = (
    "tests/compress/test_predict.py",
    "tests/engines/test_spark.py",
    "tests/engines/test_spark_frames.py",
    "tests/engines/test_spark_ml.py",
    "tests/golden/test_clusters.py",
    "tests/sink/test_readers.py",
    "tests/sources/test_spark.py",
)
"""The files whose tests take the fixture ``spark``: one process starts one Java for them."""

LONG = (
    "tests/engines/test_dask.py",
    "tests/faults/test_job_kills.py",
    "tests/engines/test_spark_cluster.py",
    "tests/engines/test_local.py",
    "tests/engines/test_dask_cluster.py",
    "tests/jobs/test_compact.py",
    "tests/engines/test_load.py",
    "tests/engines/test_spark_connect.py",
    "tests/jobs/test_teachers.py",
    "tests/estimators/test_sketch.py",
    "tests/estimators/test_awkward.py",
    "tests/engines/test_dask_frames.py",
    "tests/engines/test_sessions.py",
    "tests/house/test_contributing.py",
    "tests/compress/test_estimators.py",
    "tests/compress/test_docs.py",
    "tests/house/test_mutants.py",
    "tests/estimators/test_budget.py",
)
"""Files that take ten seconds or more, the longest first."""


def check(items: Sequence[pytest.Item]) -> None:
    """Raises UsageError: a test takes the fixture ``spark`` in a file that is not listed, or a listed file is gone."""
    gone = [file for file in (*SPARK, *LONG) if not (ROOT / file).exists()]
    if gone:
        raise pytest.UsageError(f"take {gone} out of tests/support/order.py")
    files = {item.nodeid.split("::")[0] for item in items if "spark" in getattr(item, "fixturenames", ())}
    if not files <= set(SPARK):
        raise pytest.UsageError(f"enter {sorted(files - set(SPARK))} into SPARK of tests/support/order.py")


class LongFirst(LoadFileScheduling):  # type: ignore[misc]
    """Shares out files: first those of Spark, as one, then the long ones, then others by their number of tests."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "spark" if file in SPARK else file

    def _assign_work_unit(self, node: object) -> None:
        for scope in ("spark", *LONG):
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
                break
        super()._assign_work_unit(node)
