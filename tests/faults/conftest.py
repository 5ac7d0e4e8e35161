"""A cluster of Spark, and what a job on it has to leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A master and workers of Spark as processes."""
    from tests.engines.spark_processes import cluster

    with cluster(tmp_path_factory.mktemp("cluster") / "c") as found:
        yield found


@pytest.fixture(scope="module")
def spark_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the job of ``spark_driver.py`` over the module's ``folder`` leaves on the local engine."""
    from tests.faults.spark_runs import reference

    found = reference(folder, tmp_path_factory.mktemp("expected"))
    assert len(found) > 100
    return found
