"""One engine for any number of threads and data sets at once, again after an error, in a pickle and in a fork."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import PCA, Dataset, TruncatedSVD
from eigenmill.reduce.engines.local.engine import LocalEngine
from eigenmill.reduce.engines.local.kept import Kept
from tests.engines.contract import bytes_of, open_input, pass_of, reference
from tests.engines.session_contract import at_once, equal_to_the_same_alone
from tests.support import formats
from tests.support.tables import vectors


@pytest.fixture
def tiny_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    formats.use(monkeypatch, leaf_bytes=1)


ENGINES: dict[str, Callable[[Path], LocalEngine]] = {
    "plain": lambda folder: LocalEngine(workers=2),
    "kept": lambda folder: LocalEngine(workers=2, memory="16GiB"),
    "checkpoints": lambda folder: LocalEngine(workers=2, work=folder / "work", disk="64MiB", save_every=0.0),
}


@pytest.mark.usefixtures("tiny_leaves")
@pytest.mark.parametrize("name", ENGINES)
def test_one_engine_and_eight_threads(name: str, tmp_path: Path) -> None:
    equal_to_the_same_alone(ENGINES[name](tmp_path), 24 if name == "kept" else 8, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_leaves")
@pytest.mark.parametrize("name", ENGINES)
def test_one_engine_eight_threads_and_200_jobs(name: str, tmp_path: Path) -> None:
    equal_to_the_same_alone(ENGINES[name](tmp_path), 200, 1, tmp_path)


def wide_file(path: Path, seed: int) -> Dataset:
    X = np.random.default_rng(seed).normal(size=(3000, 40)) * (1 + 9 * seed)
    table = pa.table({"v": vectors(X)})
    pq.write_table(table, path, row_group_size=500)
    return Dataset.from_parquet(path)


def test_kept_blocks_are_those_of_their_own_data(tmp_path: Path) -> None:
    """Two data sets, one engine, two threads that scan in turn."""
    data = [wide_file(tmp_path / f"{seed}.parquet", seed) for seed in (0, 1)]
    model: dict[str, Any] = {"solver": "sketch", "tol": None, "max_scans": 5}
    alone = [TruncatedSVD(4, **model).fit(each).components_.tobytes() for each in data]
    engine, both = LocalEngine(workers=1, memory="16GiB"), threading.Barrier(2)

    def fit(which: int) -> bytes:
        both.wait(300)
        return TruncatedSVD(4, **model).fit(data[which], engine=engine).components_.tobytes()

    for _ in range(6):
        assert at_once([lambda: fit(0), lambda: fit(1)], 2) == alone


def test_one_session_keeps_blocks_of_two_data_sets_apart(tmp_path: Path) -> None:
    data = [wide_file(tmp_path / f"{seed}.parquet", seed) for seed in (0, 1)]
    passes = [pass_of("gram", each) for each in data]
    alone = [bytes_of(reference().run(pass_, each)) for pass_, each in zip(passes, data, strict=True)]
    with LocalEngine(workers=2, memory="16GiB").session(reserve=0) as session:
        for _ in range(3):
            for pass_, each, expected in zip(passes, data, alone, strict=True):
                assert bytes_of(session.run(pass_, each)) == expected
        kept: Kept = session._kept
        assert kept.bytes == sum(each.n_rows * 40 * 8 for each in data)


# After an error, in a pickle, in a fork.


def test_an_idle_engine_is_pickled(tmp_path: Path) -> None:
    data = open_input("scalar", tmp_path)
    engine = LocalEngine(workers=2, memory="16GiB", work=tmp_path / "work", disk="1MiB", save_every=3.0)
    PCA(2, solver="sketch", tol=None).fit(data, engine=engine)
    again = pickle.loads(pickle.dumps(engine))
    assert vars(again) == vars(engine)
    pass_ = pass_of("gram", data)
    assert (
        bytes_of(again.run(pass_, data)) == bytes_of(engine.run(pass_, data)) == bytes_of(reference().run(pass_, data))
    )


FORK = """
import os, sys, threading
from eigenmill.reduce import Dataset, PCA, connect
from eigenmill.reduce.engines.ledger import LEDGER

data = Dataset.from_parquet(sys.argv[1])
engine = connect("local", workers=2, memory="16GiB")

def fitted():
    return PCA(3, solver="sketch", tol=None, max_scans=4).fit(data, engine=engine).components_.tobytes()

before = fitted()
open_ = engine.session(reserve=1 << 30)  # what another thread of the parent would have claimed is not in the child
LEDGER.begin(open_._claim, lambda workers: 15 << 30, 1, 0, MemoryError)
child = os.fork()
if child == 0:
    os._exit(fitted() != before)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
open_.close()
assert fitted() == before
print("same")
"""


def test_an_idle_engine_is_forked(tmp_path: Path) -> None:
    wide_file(tmp_path / "x.parquet", 0)
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "x.parquet")], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "same\n", done.stderr[-2000:]


INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
from eigenmill.reduce import Dataset, PCA, connect
from eigenmill.reduce.engines.ledger import LEDGER

class Interrupt:
    rows = 0
    def begin(self, stage, rows, size): return self
    def advance(self, rows):
        self.rows += rows
        if self.rows == rows:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
    def end(self): pass

data = Dataset.from_parquet(sys.argv[1])
engine = connect("local", workers=int(sys.argv[2]), memory="16GiB", progress=Interrupt())
model = PCA(3, solver="sketch", tol=None, max_scans=4)
try:
    model.fit(data, engine=engine)
except KeyboardInterrupt:
    print("interrupted")
assert not LEDGER._claims and threading.active_count() == 1
expected = PCA(3, solver="sketch", tol=None, max_scans=4).fit(data)
assert model.fit(data, engine=engine).components_.tobytes() == expected.components_.tobytes()
print("same")
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_engine_is_as_before_after_ctrl_c(workers: int, tmp_path: Path) -> None:
    wide_file(tmp_path / "x.parquet", 0)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, str(tmp_path / "x.parquet"), str(workers)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "interrupted\nsame\n", done.stderr[-2000:]
    assert os.listdir(tmp_path) == ["x.parquet"]
