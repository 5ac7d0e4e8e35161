"""Jobs through spark-submit on a standalone cluster of real processes, and everything that can break there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("pyspark")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java", allow_module_level=True)

from eigenmill.jobs.reduction.config import load_job
from eigenmill.jobs.reduction.run import run
from eigenmill.jobs.shown import exits
from eigenmill.reduce import EngineError
from eigenmill.reduce.storage import about
from tests.engines.commands import agree
from tests.engines.spark_processes import ROOT, Cluster, cluster, end, made_zip, submit
from tests.jobs.conftest import write_vectors
from tests.support.tables import vectors
from tests.support.trees import tree

JOB = ROOT / "jobs/spark_submit.py"
DRIVER = ROOT / "tests/engines/spark_driver.py"
PLANTED = "PLANTEDsecret"
SECRETS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": PLANTED}
WIDTH, ROWS = 512, 56_000
"""Three full leaves and a rest."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "c", env=SECRETS) as found:
        yield found


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_zip(tmp_path_factory.mktemp("dist") / "eigenmill.zip")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with enough columns to have several leaves in 28 MB."""
    folder, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for number in range(2):
        X = rng.integers(0, 255, (ROWS // 2, WIDTH), dtype=np.uint8)
        X[:, ::3] //= 4
        table = pa.table({"id": np.arange(len(X)) + number * len(X), "x": vectors(X)})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=4000)
    return folder


def job_file(data: Path | str, out: Path) -> Path:
    path = out.with_suffix(".yaml")
    path.write_text(
        f"input: {{path: '{data}', vector: x, carry: [id]}}\nreduce: {{components: 5, scale: true}}\n"
        f"output: {{features: {out}/features, model: {out}/model, report: {out}/report.json, part_bytes: 100KiB}}\n"
    )
    return path


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    """(exit code, standard output, the log) of a process that must end in time."""
    try:
        out, log = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise
    return process.returncode, out, log


def test_the_zip_has_the_same_bytes_and_knows_its_version(zipped: Path, tmp_path: Path) -> None:
    assert made_zip(tmp_path / "again.zip").read_bytes() == zipped.read_bytes()
    names = zipfile.ZipFile(zipped).namelist()
    assert {
        f"eigenmill/{name}" for name in ("reduce/__init__.py", "jobs/cli.py", "compress/__init__.py", "py.typed")
    } <= set(names)
    assert {name.split("/")[0] for name in names} == {"eigenmill"}
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]
    code = "import sys; sys.path[:0] = [sys.argv[1]]; import eigenmill.reduce as r; print(r.__file__, r.__version__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, str(zipped)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(zipped / "eigenmill/reduce/__init__.py"), about.__version__]


def test_a_submitted_job_gives_the_bytes_of_the_local_engine(
    running: Cluster, zipped: Path, wide: Path, tmp_path: Path
) -> None:
    """And leaves nothing behind that holds a credential: no descriptor, log, plan, event, model or manifest."""
    (tmp_path / "events").mkdir()
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{tmp_path}/events",
        "spark.eventLog.compress": "false",
    }
    arguments = [str(job_file(wide, tmp_path / "spark")), "--set", "reduce.components=7"]
    code, out, log = ended(submit(running.address, JOB, arguments, tmp_path, zipped=zipped, conf=conf, env=SECRETS))
    assert code == 0, out + log
    assert "forming the products" in out
    run(load_job(str(job_file(wide, tmp_path / "local")), ["reduce.components=7"]))
    for part in ("features", "model"):
        found, expected = (tree(tmp_path / name / part) for name in ("spark", "local"))
        assert found == expected
        assert len(found) > (5 if part == "features" else 2)
    report = json.loads((tmp_path / "spark/report.json").read_text())
    assert (report["status"], report["rows"], report["components"]) == ("complete", ROWS, 7)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "the work directory is gone"
    events = b"".join(p.read_bytes() for p in (tmp_path / "events").rglob("*") if p.is_file())
    assert b"eigenmill: gram of 56000 rows" in events, "what the Spark UI shows"
    assert PLANTED not in out + log
    places = [p for root in (tmp_path, running.folder) for p in root.rglob("*") if p.is_file()]
    assert len(places) > 20
    for place in places:
        assert PLANTED.encode() not in place.read_bytes(), place


@pytest.mark.slow
def test_the_other_commands_give_the_bytes_of_the_local_engine(running: Cluster, zipped: Path, tmp_path: Path) -> None:
    def call(arguments: list[str]) -> None:
        code, out, log = ended(submit(running.address, JOB, [*arguments, "--quiet"], tmp_path, zipped=zipped))
        assert code == 0, out + log

    agree(tmp_path, call)


def test_workers_without_the_package(running: Cluster, wide: Path, tmp_path: Path) -> None:
    job = submit(
        running.address,
        JOB,
        [str(job_file(wide, tmp_path / "out"))],
        tmp_path,
        env={"PYTHONPATH": f"{ROOT}/src:{ROOT}"},
    )
    code, out, log = ended(job)
    assert code == exits.NO_CLUSTER, out + log
    assert "expected eigenmill in every Python worker, found none" in words(out)
    assert "Traceback" not in out


@pytest.mark.slow
def test_workers_with_another_version(running: Cluster, wide: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "old")
    file = tmp_path / "old/eigenmill/reduce/about.py"
    file.write_text(file.read_text().replace('__version__ = "', '__version__ = "0.0.'))
    arguments = [str(job_file(wide, tmp_path / "out"))]
    conf = {"spark.executorEnv.PYTHONPATH": str(tmp_path / "old")}
    code, out, log = ended(
        submit(running.address, JOB, arguments, tmp_path, conf=conf, env={"PYTHONPATH": f"{ROOT}/src:{ROOT}"})
    )
    assert code == exits.NO_CLUSTER, out + log
    assert "on a Python worker, found {'eigenmill': '0.0.0.1.0'}; install the same versions" in words(out + log)


@pytest.mark.slow
def test_too_little_memory_for_the_python_workers(running: Cluster, wide: Path, zipped: Path, tmp_path: Path) -> None:
    arguments, conf = [str(job_file(wide, tmp_path / "out"))], {"spark.executor.pyspark.memory": "64m"}
    code, out, log = ended(submit(running.address, JOB, arguments, tmp_path, zipped=zipped, conf=conf))
    assert code == exits.DOES_NOT_FIT, out + log
    assert "set spark.executor.pyspark.memory=" in words(out + log)
    assert not [name for name in ("features", "model") if (tmp_path / "out" / name).exists()]


@pytest.mark.slow
def test_a_credential_in_a_job_file_goes_nowhere(running: Cluster, zipped: Path, tmp_path: Path) -> None:
    arguments = [str(job_file(f"s3://someone:{PLANTED}@bucket/data", tmp_path / "out"))]
    code, out, log = ended(submit(running.address, JOB, arguments, tmp_path, zipped=zipped))
    assert code in (exits.BAD_USAGE, exits.BAD_DATA), out + log
    assert PLANTED not in out + log


def test_an_unreachable_master(wide: Path, zipped: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    from eigenmill.reduce.engines.spark.session import session

    for address in (f"spark://127.0.0.1:{port}", f"sc://127.0.0.1:{port}/;token=abc"):
        kind = {"remote": address} if address.startswith("sc") else {"master": address}
        with pytest.raises(EngineError, match=r"expected a Spark cluster that answers at .*, found: .*; start it"):
            session(**kind)


@pytest.mark.slow
def test_a_submitted_job_on_an_unreachable_master(wide: Path, zipped: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    arguments = [str(job_file(wide, tmp_path / "out"))]
    code, out, log = ended(submit(f"spark://127.0.0.1:{port}", JOB, arguments, tmp_path, zipped=zipped), 60)
    assert code == exits.NO_CLUSTER, out + log
    assert f"expected a Spark cluster that answers at spark://127.0.0.1:{port}" in words(out + log)


@pytest.mark.slow
def test_executors_that_no_worker_has_room_for(running: Cluster, zipped: Path, tmp_path: Path) -> None:
    data = write_vectors(tmp_path / "data", files=1, rows=500, group=50)
    arguments, conf = [str(data), str(tmp_path / "out"), "gram", "", "3"], {"spark.executor.memory": "900g"}
    code, out, log = ended(submit(running.address, DRIVER, arguments, tmp_path, zipped=zipped, conf=conf))
    assert code == exits.NO_CLUSTER, out + log
    assert f"expected executors from {running.address}, found none for 3 s; start workers" in words(out)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["gram", "write"])
def test_a_cluster_that_dies(stage: str, zipped: Path, tmp_path: Path) -> None:
    """Master, workers and executors are killed; with workers alone gone, Spark would wait for new ones."""
    data = write_vectors(tmp_path / "data", files=4, rows=6000, group=50)
    with cluster(tmp_path / "cluster") as mortal:
        job = submit(mortal.address, DRIVER, [str(data), str(tmp_path / "out")], tmp_path, zipped=zipped)
        assert job.stdout is not None
        while job.stdout.readline().strip() != stage:
            assert job.poll() is None
        for process in [mortal.master, *mortal.workers]:
            end(process)
        killed = time.monotonic()
        code, out, log = ended(job, 60)
        assert code == 7, out + log
        assert "expected a Spark cluster that answers at spark://127.0.0.1" in out, out
        assert time.monotonic() - killed < 60


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
def test_an_interrupted_job_goes_on(running: Cluster, zipped: Path, wide: Path, tmp_path: Path) -> None:
    """SIGTERM to the driver, and the same command again."""
    file = job_file(wide, tmp_path / "out")
    job = submit(running.address, JOB, [str(file), "--set", "output.part_bytes=4KiB"], tmp_path, zipped=zipped)
    features = tmp_path / "out/features"
    while not list(features.glob("part-*")) and job.poll() is None:
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGTERM)
    ended(job)
    assert not (features / "_SUCCESS").exists()
    again = submit(running.address, JOB, [str(file), "--set", "output.part_bytes=4KiB"], tmp_path, zipped=zipped)
    code, out, log = ended(again)
    assert code == 0, out + log
    run(load_job(str(job_file(wide, tmp_path / "local")), ["output.part_bytes=4KiB"]))
    for part in ("features", "model"):
        assert tree(tmp_path / "out" / part) == tree(tmp_path / "local" / part)
