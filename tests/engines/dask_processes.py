"""A Dask cluster of real processes on loopback: one scheduler, workers that a test may add, stop and kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0


class Cluster:
    """The processes. Logs are in ``folder``: scheduler.log and worker-N.log.

    Attributes:
        nannies: whether workers have one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.nannies = folder, False
        folder.mkdir(parents=True, exist_ok=True)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.count = 0
        self.scheduler, self.address = self._scheduler()

    def _scheduler(self) -> tuple[subprocess.Popen[bytes], str]:
        told = self.folder / "scheduler.json"
        command = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told)]
        process = self._start("scheduler", command, {})
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return process, json.loads(told.read_text())["address"]
            time.sleep(0.02)
        raise RuntimeError(self.log("scheduler"))

    def add(
        self,
        *,
        threads: int = 1,
        nanny: bool = False,
        memory: str = "2GiB",
        env: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> Any:
        """Start a worker, by the command ``within`` if given; its process. Does not wait until it has joined."""
        name = f"worker-{self.count}"
        self.count += 1
        self.nannies |= nanny
        command = ["worker", self.address, "--host", "127.0.0.1", "--nthreads", str(threads), "--no-dashboard"]
        command += ["--nanny" if nanny else "--no-nanny", "--memory-limit", memory]
        command += ["--local-directory", str(self.folder / name)]
        self.workers.append(self._start(name, command, env or {}, within))
        return self.workers[-1]

    def _start(
        self, name: str, command: list[str], env: dict[str, str], within: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*within, sys.executable, "-m", "dask", *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", **env},
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in [*self.workers, self.scheduler]:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all it has started; a nanny would start its worker again."""
    found: list[Any] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        parent.suspend()
        found = parent.children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2, **options: Any) -> Iterator[Cluster]:
    """A scheduler and so many workers; all ended when the block is left."""
    found = Cluster(folder)
    try:
        for _ in range(workers):
            found.add(**options)
        yield found
    finally:
        found.stop()


def run_job(
    arguments: list[str], *, leaf_bytes: int | None = None, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    code = "from eigenmill.jobs.cli import main\n"
    if leaf_bytes is not None:
        code += f"from tests.support.formats import switch\nswitch(leaf_bytes={leaf_bytes})\n"
    return subprocess.Popen(
        [sys.executable, "-c", code + "main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", **(env or {})},
    )
