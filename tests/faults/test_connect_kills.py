"""Kill a Spark Connect server inside a job, and interrupt its client: an error in time, the same bytes later."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("pyspark")
pytest.importorskip("grpc_status")
pytest.importorskip("zstandard")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java", allow_module_level=True)

from eigenmill.jobs.shown import exits
from tests.engines.spark_driver import LEAF
from tests.engines.spark_processes import Cluster, end, serving
from tests.faults.spark_runs import Run, connected, parts
from tests.jobs.conftest import write_vectors
from tests.support.trees import tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("input") / "data", files=4, rows=6000, group=LEAF)


def begun(run: Run, stage: str, out: Path) -> None:
    """Wait until a stage is at work; of a write some parts are there."""
    run.until(stage)
    while stage == "write" and parts(out) < 3 and run.process.poll() is None:
        time.sleep(0.02)


@pytest.mark.parametrize("stage", ["gram", "write"])
def test_a_server_that_is_killed(
    stage: str, spark_cluster: Cluster, folder: Path, spark_files: dict[str, str], space: Path
) -> None:
    out = space / "out"
    out.mkdir()
    with serving(space / "one", spark_cluster.address) as (server, address):
        run = connected(address, folder, out)
        try:
            begun(run, stage, out)
            end(server)
            # ``ended`` waits a minute; pyspark alone tries for ten.
            code = run.ended()
        finally:
            end(run.process)
    assert code == exits.NO_CLUSTER, run.printed + run.log[-60:]
    assert f"expected a Spark cluster that answers at {address}, found: " in run.printed[-1]
    assert not (out / "features/_SUCCESS").exists()
    with serving(space / "two", spark_cluster.address) as (_, address):
        run = connected(address, folder, out)
        try:
            run.finish()
        finally:
            end(run.process)
    assert tree(out, without="work") == spark_files


def test_ctrl_c_stops_the_server_too(
    spark_cluster: Cluster, folder: Path, spark_files: dict[str, str], space: Path
) -> None:
    """A server whose client is merely gone would write all the parts."""
    out = space / "out"
    out.mkdir()
    with serving(space / "server", spark_cluster.address) as (_, address):
        run = connected(address, folder, out)
        try:
            begun(run, "write", out)
            run.process.send_signal(signal.SIGINT)
            assert run.ended() == exits.INTERRUPTED, run.printed + run.log[-60:]
            before = -1
            while before != parts(out):
                before = parts(out)
                time.sleep(5)
            assert before < sum(name.startswith("features/part-") for name in spark_files)
            assert not (out / "features/_SUCCESS").exists()
            run = connected(address, folder, out)
            run.finish()
        finally:
            end(run.process)
    assert tree(out, without="work") == spark_files
