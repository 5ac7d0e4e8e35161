"""The Spark engine on a standalone cluster of real processes, through spark-submit, and what can break there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import exits
from reduce import EngineError
from tests.engines.contract import tree_of
from tests.engines.dask_processes import run_job
from tests.engines.test_dask_cluster import PLANTED, WITHOUT
from tests.jobs.conftest import write_vectors

pytest.importorskip("pyspark")
from tests.engines.spark_processes import ROOT, SETTINGS, Cluster, cluster, end, submit

if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java", allow_module_level=True)

SCRIPT = str(ROOT / "jobs/spark_submit.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200,000 rows of 24 bytes: four leaves."""
    return write_vectors(tmp_path_factory.mktemp("input") / "data", files=4, rows=300_000, group=75_000)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make dist`` builds."""
    target = tmp_path_factory.mktemp("dist") / "eigenmill.zip"
    command = [sys.executable, "scripts/zip_packages.py", str(target), "reduce", "jobs", "compress"]
    subprocess.run(command, cwd=ROOT, check=True)
    return target


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("steady"), env={"AWS_SECRET_ACCESS_KEY": PLANTED}) as found:
        yield found


def job_file(folder: Path, out: Path) -> Path:
    path = out.with_suffix(".yaml")
    path.write_text(
        f"input: {{path: {folder}, vector: x, carry: [id, label]}}\nreduce: {{components: 5, scale: true}}\n"
        f"output: {{features: {out}/features, model: {out}/model, report: {out}/report.json, part_bytes: 1MiB}}\n"
    )
    return path


def ended(process: subprocess.Popen[str], timeout: float = 150) -> tuple[int, str]:
    """Exit code and all that a process printed, in one line."""
    out, log = process.communicate(timeout=timeout)
    return process.returncode, " ".join((out + log).split())


def test_spark_submit_gives_the_bytes_of_the_local_engine(
    steady: Cluster, folder: Path, archive: Path, tmp_path: Path
) -> None:
    """And leaves nothing of a credential behind: not in its output, logs, event log, model, features or report."""
    local = run_job(["reduce", str(job_file(folder, tmp_path / "local"))])
    code, printed = ended(local)
    assert code == exits.OK, printed
    events = tmp_path / "events"
    events.mkdir()
    code, printed = ended(
        submit(
            steady.address,
            [SCRIPT, str(job_file(folder, tmp_path / "spark")), "--json"],
            files=archive,
            settings={
                "spark.eventLog.enabled": "true",
                "spark.eventLog.compress": "false",
                "spark.eventLog.dir": events.as_uri(),
            },
            env={"AWS_SECRET_ACCESS_KEY": PLANTED},
        )
    )
    assert code == exits.OK, printed
    for part in ("features", "model"):
        found, expected = (tree_of(tmp_path / name / part) for name in ("spark", "local"))
        assert found == expected
        assert len(found) >= 3
    report = json.loads((tmp_path / "spark/report.json").read_text())
    assert (report["status"], [scan["name"] for scan in report["scans"]]) == ("complete", ["gram", "write"])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "the work directory is gone"
    assert PLANTED not in printed
    left = [p for root in (tmp_path, steady.folder) for p in root.rglob("*") if p.is_file()]
    assert any("eigenmill: gram of 1200000 rows" in p.read_text(errors="replace") for p in events.rglob("events*"))
    for place in left:
        assert PLANTED.encode() not in place.read_bytes(), place


def test_the_archive_has_the_same_bytes_whenever_it_is_made(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/zip_packages.py", str(tmp_path / "again.zip"), "reduce", "jobs", "compress"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert archive.read_bytes() == (tmp_path / "again.zip").read_bytes()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import reduce, jobs.cli; print(reduce.__version__)"
    found = subprocess.run([sys.executable, "-c", code, archive], cwd="/", capture_output=True, text=True, check=True)
    from reduce import __version__

    assert found.stdout.strip() == __version__


@pytest.mark.parametrize("address", ["spark://127.0.0.1:1", "spark://127.0.0.1:1,127.0.0.1:2", "sc://127.0.0.1:1/;a=b"])
def test_no_master(address: str) -> None:
    from reduce.engines.spark_session import session

    options = {"remote" if address.startswith("sc") else "master": address}
    with pytest.raises(EngineError, match=r"expected a Spark cluster that answers at .*, found: .*; start it first"):
        session(**options)


@pytest.mark.slow
def test_a_submitted_job_without_a_master(folder: Path, archive: Path, tmp_path: Path) -> None:
    job = str(job_file(folder, tmp_path / "out"))
    code, printed = ended(submit("spark://127.0.0.1:1", [SCRIPT, job], files=archive))
    assert code == exits.NO_CLUSTER, printed
    assert "expected a Spark cluster that answers at spark://127.0.0.1:1" in printed


@pytest.mark.slow
def test_too_little_memory_for_the_python_workers(steady: Cluster, folder: Path, archive: Path, tmp_path: Path) -> None:
    job = str(job_file(folder, tmp_path / "out"))
    setting = {"spark.executor.pyspark.memory": "64m"}
    code, printed = ended(submit(steady.address, [SCRIPT, job], files=archive, settings=setting))
    assert code == exits.DOES_NOT_FIT, printed
    assert "set spark.executor.pyspark.memory=" in printed
    assert not [name for name in ("features", "model") if (tmp_path / "out" / name).exists()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "words"),
    [("old", "found {'eigenmill': '0.0.0.1.0'}"), ("none", "expected eigenmill in every Python worker, found none")],
)
def test_other_versions_and_no_package_at_all(place: str, words: str, folder: Path, tmp_path: Path) -> None:
    there = tmp_path / place
    there.mkdir()
    if place == "none":
        (there / "sitecustomize.py").write_text(WITHOUT)
    else:
        shutil.copytree(ROOT / "reduce", there / "reduce")
        about = there / "reduce/about.py"
        about.write_text(about.read_text().replace('__version__ = "', '__version__ = "0.0.'))
    job = str(job_file(folder, tmp_path / "out"))
    with cluster(tmp_path / "cluster", workers=1, env={"PYTHONPATH": str(there)}) as found:
        code, printed = ended(submit(found.address, [SCRIPT, job], env={"PYTHONPATH": str(ROOT)}))
    assert code == exits.NO_CLUSTER, printed
    assert words in printed


CHILD = """
import sys, time
import reduce.dataset
from pyspark.sql import SparkSession
from reduce import PCA, Dataset, connect

class Tell:
    def begin(self, stage, rows, size): print(stage, flush=True)
    def advance(self, rows): pass
    def end(self): pass

reduce.dataset.LEAF_BYTES = 1
data, master, *settings = sys.argv[1:]
builder = SparkSession.builder.master(master)
for setting in settings:
    builder = builder.config(*setting.split("=", 1))
engine = connect("spark", builder.getOrCreate(), patience=2.0, progress=Tell())
dataset = Dataset.from_parquet(data, vector="x")
PCA(5).fit(dataset, engine=engine)
while True:
    PCA(5).fit(dataset, engine=engine)
"""


@pytest.mark.slow
def test_a_cluster_that_dies(folder: Path, tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found, (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, folder, found.address, *(f"{k}={v}" for k, v in SETTINGS.items())],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable},
        )
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "gram\n", (tmp_path / "log").read_text()
        found.stop()
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < 90:
            process.stdout.readline()
        hung = process.poll() is None
        end(process)
        process.stdout.close()
        log.seek(0)
        said = log.read()
    assert not hung, said
    assert "reduce.errors.EngineError: expected" in said, said
