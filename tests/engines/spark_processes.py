"""A standalone Spark cluster of real processes on loopback: one master, two workers, jobs through spark-submit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyspark

ROOT = Path(__file__).parents[2]
HOME = Path(pyspark.__file__).parent
PATIENCE = 300.0
YOUNG = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For short-lived Java: what the second compiler would make pays only in long jobs."""

ONLY_ZIPPED = """import sys
from importlib.machinery import PathFinder

class OnlyZipped:
    def find_spec(self, name, path=None, target=None):
        if name == "eigenmill":
            found = PathFinder.find_spec(name, [p for p in sys.path if p.endswith(".zip")])
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return found

sys.meta_path.insert(0, OnlyZipped())
"""
"""On the workers: this package is found in a zip or not at all, whatever is installed on this machine."""


class Cluster:
    """The processes. Logs are in ``folder``: master.log, worker-N.log, and those of executors below work-N."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        (folder / "site").mkdir(parents=True)
        (folder / "site/sitecustomize.py").write_text(ONLY_ZIPPED)
        self.env = {"PYTHONPATH": str(folder / "site"), **(env or {})}
        self.workers: list[subprocess.Popen[bytes]] = []
        place = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        self.master = self._start("master", ["org.apache.spark.deploy.master.Master", *place])
        self.address = self._told("master", self.master, r"Starting Spark master at (spark://\S+)")
        for number in range(2):
            name = f"worker-{number}"
            options = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / f"work-{number}")]
            self.workers.append(
                self._start(name, ["org.apache.spark.deploy.worker.Worker", *place, *options, self.address])
            )
        for number, worker in enumerate(self.workers):
            self._told(f"worker-{number}", worker, r"Successfully (registered) with master")

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [str(HOME / "bin/spark-class"), *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={
                    **environment(self.folder),
                    "SPARK_DAEMON_MEMORY": "256m",
                    "SPARK_DAEMON_JAVA_OPTS": f"{YOUNG} -Dspark.master.rest.enabled=false",
                    **self.env,
                },
                start_new_session=True,
            )

    def _told(self, name: str, process: subprocess.Popen[bytes], pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            found = re.search(pattern, self.log(name))
            if found:
                return found[1]
            time.sleep(0.05)
        raise RuntimeError(self.log(name))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def executors(self) -> list[psutil.Process]:
        """The executors' Java processes."""
        return [p for worker in self.workers for p in children(worker.pid) if "CoarseGrained" in command_of(p)]

    def pythons(self) -> list[psutil.Process]:
        """The Python workers: what the daemons of the executors have forked."""
        daemons = [p for e in self.executors() for p in children(e.pid, recursive=False) if "daemon" in command_of(p)]
        return [p for daemon in daemons for p in children(daemon.pid)]

    def stop(self) -> None:
        for process in [self.master, *self.workers]:
            end(process)


def children(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all it has started."""
    found = children(process.pid)
    process.kill()
    process.wait()
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def environment(folder: Path) -> dict[str, str]:
    """The environment of every process of Spark: nothing of the user's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    return {
        **kept,
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


@contextlib.contextmanager
def cluster(folder: Path, **options: Any) -> Iterator[Cluster]:
    """A master and two workers of one core and 1 GiB each; all ended when the block is left."""
    found: list[Cluster] = []
    try:
        found.append(Cluster(folder, **options))
        yield found[0]
    finally:
        for each in found:
            each.stop()
        shutil.rmtree(folder / "local", ignore_errors=True)


def submit(
    address: str,
    script: Path,
    arguments: Sequence[str],
    folder: Path,
    *,
    zipped: Path | None = None,
    conf: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
    options: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """``spark-submit`` of a script; the driver runs in the process that this starts."""
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.driver.extraJavaOptions": YOUNG,
        "spark.executor.extraJavaOptions": YOUNG,
        "spark.executor.memory": "512m",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        **(conf or {}),
    }
    options = [*options, *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}"))]
    if zipped is not None:
        options += ["--py-files", str(zipped)]
    return subprocess.Popen(
        [str(HOME / "bin/spark-submit"), "--master", address, *options, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(folder), **(env or {})},
        start_new_session=True,
    )


def made_zip(target: Path) -> Path:
    """The zip of ``make dist``."""
    subprocess.run([sys.executable, "scripts/zip_packages.py", str(target), "src/eigenmill"], cwd=ROOT, check=True)
    return target


@contextlib.contextmanager
def serving(folder: Path, master: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Spark Connect server on a cluster, whose workers find this package; the process and its address."""
    service, binding = "org.apache.spark.sql.connect.service.SparkConnectServer", "spark.connect.grpc.binding"
    conf = {
        f"{binding}.address": "127.0.0.1",
        f"{binding}.port": "0",
        "spark.executorEnv.PYTHONPATH": f"{ROOT}/src:{ROOT}",
    }
    folder.mkdir()
    told: list[str] = []
    server = submit(master, Path("spark-internal"), [], folder, conf=conf, options=["--class", service])
    try:
        assert server.stderr is not None
        for line in server.stderr:
            told.append(line)
            found = re.search(r"Connect server started at: (\S+)", line)
            if found:
                break
        else:
            raise RuntimeError("".join(told))
        # A full pipe would stop it.
        threading.Thread(target=told.extend, args=(server.stderr,), daemon=True).start()
        yield server, f"sc://{found[1]}"
    finally:
        end(server)
        for stream in (server.stdout, server.stderr):
            assert stream is not None
            stream.close()
