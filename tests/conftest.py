"""Settings and resources for all tests: Hypothesis draws the same examples everywhere and keeps no files."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "eigenmill",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("eigenmill")

MEMORY = Path("/dev/shm")
ENOUGH = 1 << 30
"""Bytes that must be free there: a container may have 64 MiB."""


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture
def space() -> Iterator[Path]:
    """A directory in memory where there is room: hundreds of synced files would wait for the disk otherwise."""
    with in_memory() as folder:
        yield folder


@pytest.fixture(scope="session")
def session_space() -> Iterator[Path]:
    """Such a directory for all tests of a process."""
    with in_memory() as folder:
        yield folder


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A Spark session in this process; Java starts once per run, and only when a test asks for it."""
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    sql = pytest.importorskip("pyspark.sql")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("PYSPARK_DRIVER_PYTHON", sys.executable)
        session = (
            sql.SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", "1")
            .config("spark.driver.memory", "1g")
            # Many small jobs in a young JVM: what the second compiler would make pays only in long ones.
            .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
            .config("spark.python.worker.reuse", "true")
            .getOrCreate()
        )
        yield session
        session.stop()
