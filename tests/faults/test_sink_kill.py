"""Killed at random moments, a rerun ends with the bytes of an undisturbed run.

Moments are in CPU time of the process that is killed: however busy the machine is, they fall into the write.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eigenmill.reduce.output.sink import Sink
from eigenmill.reduce.storage import files
from tests.sink.made import Scaled, made, run
from tests.support.trees import numberless, tree

ROOT = Path(__file__).parents[2]
KILLER = """
import os, signal, sys
from tests.faults.test_sink_kill import CASES, NEW, prepare
for argument in sys.argv[1:]:
    case, base, delay = argument.split(",")
    os.mkdir(base)
    prepare(case, f"{base}/out")
    child = os.fork()  # no interpreter to start, so that the kill falls into the write
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, float(delay))  # nobody handles its signal, which ends all threads
        CASES[case](f"{base}/out", NEW)
        os._exit(0)
    os.waitpid(child, 0)
"""
OLD = made(1500, 8).then(Scaled(8, factor=-1.0))
NEW = made(1500, 8).then(Scaled(8))
CASES = {
    "plain": lambda path, data: run(Sink(path, part_bytes=3000), data),
    "partitioned": lambda path, data: run(Sink(path, part_bytes=12_000, partition_by="kind"), data),
    "overwriting": lambda path, data: run(Sink(path, part_bytes=3000, overwrite=True), data),
}


def prepare(case, path):
    if case == "overwriting":
        CASES[case](path, OLD)


def whole(path):
    """Every file that a reader sees can be read."""
    for name in files.visible_files(files.pafs.LocalFileSystem(), str(path)):
        pq.ParquetFile(path / name).read()


def kill_and_rerun(tmp_path, times):
    arguments, took = [], {}
    for case, write in CASES.items():
        out = str(tmp_path / case / "out")
        prepare(case, out)
        start = time.process_time()
        write(out, NEW)
        took[case] = time.process_time() - start
        delays = [random.Random(i).uniform(0, 1.1 * took[case]) for i in range(times)]
        arguments += [f"{case},{tmp_path / case}{i},{delay:.4f}" for i, delay in enumerate(delays)]
    subprocess.run([sys.executable, "-c", KILLER, *arguments], cwd=ROOT, check=True, timeout=300)
    unfinished = 0
    for case, write in CASES.items():
        for i in range(times):
            out = tmp_path / f"{case}{i}" / "out"
            unfinished += not (out / "_SUCCESS").exists()
            if out.exists():
                whole(out)
            write(str(out), NEW)
            assert numberless(tree(out.parent)) == numberless(tree(tmp_path / case))
    assert unfinished  # some were hit


def test_killed_at_some_moments(tmp_path):
    kill_and_rerun(tmp_path, 4)


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path):
    kill_and_rerun(tmp_path, 20)
