"""Workers behind links of limited bandwidth: one network namespace each, on a bridge of this machine.

Needs root, ``ip`` and ``tc`` with the token bucket filter. Files are read from the local disk, so what the links carry
is Dask's own: descriptions, states, heartbeats. Both directions of a link are limited, and what went through is
counted by the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import CACHE, Spec, make
from eigenmill.reduce import PCA, Dataset, connect
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.load import Load, fold_load
from eigenmill.reduce.passes.gram import GramPass
from eigenmill.reduce.passes.intake import Intake

BRIDGE, NETWORK = "em-bridge", "10.77.0"
SPEC = Spec(rows=33_600, features=2_000, layout="fixed", row_group=4_200, groups_per_file=2)
"""8 leaves, with states of 17 MB."""


@dataclass(frozen=True)
class Measured:
    """A fit: its seconds, and what the links carried to and from workers, in bytes."""

    seconds: float
    received: int
    sent: int


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def limit(workers: int, rate: float | None) -> None:
    """Let every link carry ``rate`` bytes per second; without one, what the machine can."""
    for i in range(workers):
        for inside in ([], ["ip", "netns", "exec", f"em-{i}"]):
            device = f"em-in{i}" if inside else f"em-out{i}"
            subprocess.run([*inside, "tc", "qdisc", "del", "dev", device, "root"], capture_output=True)
            if rate is not None:
                kbit = f"{round(rate * 8 / 1000)}kbit"
                bucket = ["tbf", "rate", kbit, "burst", "128kb", "latency", "200ms"]
                run(*inside, "tc", "qdisc", "add", "dev", device, "root", *bucket)


@contextlib.contextmanager
def namespaces(workers: int) -> Iterator[None]:
    """A bridge with the address ``NETWORK.1``, and a namespace with ``NETWORK.(10 + i)`` for every worker.

    They are taken away at the end, by SIGTERM too; what a killed run has left goes first.
    """
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sweep()
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for i in range(workers):
            name, ours, theirs = f"em-{i}", f"em-out{i}", f"em-in{i}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
            run("ip", "link", "set", theirs, "netns", name)
            run("ip", "link", "set", ours, "master", BRIDGE)
            run("ip", "link", "set", ours, "up")
            run("ip", "netns", "exec", name, "ip", "addr", "add", f"{NETWORK}.{10 + i}/24", "dev", theirs)
            for device in (theirs, "lo"):
                run("ip", "netns", "exec", name, "ip", "link", "set", device, "up")
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sweep()
        signal.signal(signal.SIGTERM, before)


def sweep() -> None:
    """Take away all namespaces and links of ours."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    for name in [line.split()[0] for line in listed.splitlines() if line.startswith("em-")]:
        subprocess.run(["ip", "link", "del", name.replace("em-", "em-out")], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


@contextlib.contextmanager
def dask(workers: int) -> Iterator[Any]:
    """A client of a scheduler on the bridge, with a worker of one thread in every namespace."""
    from distributed import Client

    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.path.join(os.getcwd(), "src"), os.getcwd()]),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    processes = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        log = ending.enter_context((Path(folder) / "log").open("wb"))

        def start(*command: str, within: tuple[str, ...] = ()) -> None:
            line = [*within, sys.executable, "-m", "dask", *command]
            processes.append(subprocess.Popen(line, env=env, cwd=folder, stdout=log, stderr=log))

        told = Path(folder) / "scheduler.json"
        try:
            start("scheduler", "--host", f"{NETWORK}.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told))
            deadline = time.monotonic() + 60
            while not told.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(0.2)
            address = json.loads(told.read_text())["address"]
            for i in range(workers):
                worker = ["worker", address, "--host", f"{NETWORK}.{10 + i}", "--nthreads", "1", "--no-dashboard"]
                worker += ["--no-nanny", "--memory-limit", "2GiB", "--local-directory", folder]
                start(*worker, within=("ip", "netns", "exec", f"em-{i}"))
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=120)
                yield client
        finally:
            for process in processes:
                process.kill()
                process.wait()


def carried(workers: int) -> tuple[int, int]:
    """Bytes that the links have carried (to, from) workers; the bridge's ends send what workers receive."""
    base = Path("/sys/class/net")
    each = [(base / f"em-out{i}/statistics") for i in range(workers)]
    return tuple(sum(int((path / f"{way}_bytes").read_text()) for path in each) for way in ("tx", "rx"))  # type: ignore[return-value]


def fit(client: Any, data: Dataset, workers: int) -> Measured:
    """One fit by a Gram matrix."""
    before, began = carried(workers), time.perf_counter()
    PCA(50, solver="gram").fit(data, engine=connect("dask", client))
    seconds, after = time.perf_counter() - began, carried(workers)
    return Measured(seconds, after[0] - before[0], after[1] - before[1])


def compare(megabits: float, workers: int = 4, cache: Path = CACHE, spec: Spec = SPEC) -> dict[str, Any]:
    """The same fit with free and with limited links, beside what a plan says of it."""
    rate = megabits * 1e6 / 8
    data = Dataset.from_parquet(make(spec, cache), vector="x")
    pass_ = GramPass(Intake(data.feature_names, data.dtype, data.cleaning.resolve(data.feature_names)))
    planned: dict[str, Load] = {
        name: fold_load(pass_, data, Cluster("dask", workers, link=link), 0)
        for name, link in (("free", float("inf")), ("limited", rate))
    }
    with namespaces(workers), dask(workers) as client:
        fit(client, data, workers)  # imports
        measured = {"free": fit(client, data, workers)}
        limit(workers, rate)
        measured["limited"] = fit(client, data, workers)
    load, found = planned["limited"], measured["limited"]
    rows = [
        (
            "states between workers and to the client, MB",
            (load.moved_bytes + load.returned_bytes) / 1e6,
            found.sent / 1e6,
        ),
        (
            "descriptions and states to workers, MB",
            (load.moved_bytes + load.described_bytes) / 1e6,
            found.received / 1e6,
        ),
        (
            "seconds that the links cost",
            load.merge_seconds - planned["free"].merge_seconds,
            found.seconds - measured["free"].seconds,
        ),
    ]
    print(f"\n| fit of {spec.name}, {workers} workers, {megabits:g} Mbit/s a link | predicted | measured |")
    print("|---|---:|---:|")
    for what, expected, value in rows:
        print(f"| {what} | {expected:.1f} | {value:.1f} |")
    print(f"| seconds of the fit: free links | | {measured['free'].seconds:.1f} |")
    print(f"| limited links | | {found.seconds:.1f} |", flush=True)
    return {"predicted": vars(load), "measured": {name: vars(value) for name, value in measured.items()}}
