"""Settings and resources for all tests.

Hypothesis draws the same examples everywhere and keeps no files. With HYPOTHESIS_PROFILE=random, as in ``make slow``,
it draws others in every run: the first lines of the run name the seed with which it can be had again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import order

if "PYTEST_XDIST_WORKER" in os.environ:
    # There are as many processes as cores, and a thread that waits for one that has none waits at full speed.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "eigenmill")
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("eigenmill", deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
settings.register_profile("random", settings.get_profile("eigenmill"), derandomize=False, print_blob=True)
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    if PROFILE == "random" and config.getoption("--hypothesis-seed") is None:
        # In the environment too: the workers of a run that is shared out draw from the same seed.
        config.option.hypothesis_seed = os.environ.setdefault("HYPOTHESIS_SEED", str(secrets.randbits(32)))


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("--hypothesis-seed")
    return None if seed is None else f"examples drawn at random: HYPOTHESIS_PROFILE={PROFILE} --hypothesis-seed={seed}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.check(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return order.LongFirst(config, log) if config.getoption("dist") == "loadfile" else None


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


@pytest.fixture
def tmp_path(space: Path) -> Path:
    return space


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
