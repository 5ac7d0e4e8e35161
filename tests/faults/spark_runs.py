"""Jobs on Spark that a test kills: the driver of ``spark_driver.py`` in processes of its own, and what it printed."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from eigenmill.reduce import Dataset, connect
from tests.engines.spark_driver import LEAF, fit_and_write
from tests.engines.spark_processes import ROOT, Cluster, children, environment, submit
from tests.faults.staged import Staged
from tests.jobs.conftest import D
from tests.support.formats import other
from tests.support.trees import tree

DRIVER = ROOT / "tests/engines/spark_driver.py"


class Run(Staged):
    """The job; its log is read all the while."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(process)
        self.log: list[str] = []
        assert process.stderr is not None
        self.reader = threading.Thread(target=self.log.extend, args=(process.stderr,))
        self.reader.start()

    def told(self) -> str:
        return "".join(self.log[-60:])

    def finish(self) -> None:
        self.until("done")
        assert self.process.wait(60) == 0, self.told()
        self.close()

    def ended(self) -> int:
        """The exit code of a job that must end by itself."""
        assert self.process.stdout is not None
        self.printed += [line.strip() for line in self.process.stdout]
        code = self.process.wait(60)
        self.close()
        return code

    def kill(self, rng: random.Random) -> None:
        """Kill the driver: its Python process or its Java machine, and then what is left of both."""
        pythons = children(self.process.pid, recursive=False)
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice([psutil.Process(self.process.pid), *pythons]).kill()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError("half of a driver lives on") from None
        _, alive = psutil.wait_procs(pythons, 60)
        assert not alive
        self.close()

    def close(self) -> None:
        self.reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def submitted(found: Cluster, folder: Path, out: Path, zipped: Path, solver: str = "gram") -> Run:
    """The job through spark-submit."""
    return Run(submit(found.address, DRIVER, [str(folder), str(out), solver], out.parent, zipped=zipped))


def connected(address: str, folder: Path, out: Path, solver: str = "gram") -> Run:
    """The job on a Connect server."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(DRIVER), str(folder), str(out), solver, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(out.parent), "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
    )
    return Run(process)


def reference(folder: Path, out: Path, solver: str = "gram") -> dict[str, str]:
    """What the job leaves on the local engine."""
    data = Dataset.from_parquet(folder, vector="x", carry=["id"], format=other(leaf_bytes=LEAF * D * 8))
    fit_and_write(data, str(out), connect("local", workers=1), solver)
    return tree(out, without="work")


def parts(out: Path) -> int:
    """Parts of the features that are there."""
    return len(list(out.glob("features/part-*")))


def kill_one(found: Cluster, target: str, rng: random.Random) -> bool:
    """Kill a random executor or Python worker, if there is one at this moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        victims = found.executors() if target == "executor" else found.pythons()
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            rng.choice(victims).kill()
            return True
    return False
