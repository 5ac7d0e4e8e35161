"""A Spark standalone cluster of real processes on loopback: one master, workers of one core each."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pyspark

ROOT = Path(__file__).parents[2]
BIN = Path(pyspark.__file__).parent / "bin"
PATIENCE = 90.0
SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.pyspark.python": sys.executable,
    # Young JVMs with many small jobs, as in the tests' own session.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


class Cluster:
    """The processes; logs are in ``folder``: master.log, worker-N.log, and what executors print below work-N."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.count = 0
        self.master = self._start(
            "master", ["master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"], {}
        )
        self.address = self._said("master", self.master, r"Starting Spark master at (spark://[\d.:]+)")
        self._said("master", self.master, r"I have been elected leader")

    def add(self, env: Mapping[str, str] | None = None) -> None:
        """Start a worker, and wait until it has joined."""
        name = f"worker-{self.count}"
        place = self.folder / f"work-{self.count}"
        self.count += 1
        command = ["worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1", "--memory", "1g"]
        self.workers.append(self._start(name, [*command, "--work-dir", str(place), self.address], env or {}))
        self._said(name, self.workers[-1], r"Successfully registered with master")

    def _start(self, name: str, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [BIN / "spark-class", f"org.apache.spark.deploy.{command[0]}", *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_IP": "127.0.0.1", **env},
                start_new_session=True,
            )

    def _said(self, name: str, process: subprocess.Popen[bytes], pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            found = re.search(pattern, self.log(name))
            if found:
                return found[found.re.groups]
            time.sleep(0.05)
        raise RuntimeError(self.log(name))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def executors(self) -> list[psutil.Process]:
        """The JVMs that run tasks."""
        return [p for p in self._below() if "CoarseGrainedExecutorBackend" in " ".join(_command(p))]

    def python_workers(self) -> list[psutil.Process]:
        """The Python processes that run tasks: children of each executor's daemon."""
        daemons = [p for p in self._below() if "pyspark.daemon" in _command(p)]
        return [p for p in daemons if p.ppid() in {d.pid for d in daemons}]

    def _below(self) -> Iterator[psutil.Process]:
        for worker in self.workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                yield from psutil.Process(worker.pid).children(recursive=True)

    def stop(self) -> None:
        for process in [self.master, *self.workers]:
            end(process)


def _command(process: psutil.Process) -> list[str]:
    try:
        found: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return found


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all it has started."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2, env: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A master and so many workers; all ended when the block is left."""
    found = Cluster(folder)
    try:
        for _ in range(workers):
            found.add(env)
        yield found
    finally:
        found.stop()


def submit(
    master: str,
    arguments: list[str],
    *,
    settings: Mapping[str, str] | None = None,
    files: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """spark-submit with a script and its arguments, outside of the repository."""
    command: list[str | Path] = [BIN / "spark-submit", "--master", master]
    for name, value in {**SETTINGS, **(settings or {})}.items():
        command += ["--conf", f"{name}={value}"]
    if files is not None:
        command += ["--py-files", files]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PYSPARK_DRIVER_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", **(env or {})},
        start_new_session=True,
    )
