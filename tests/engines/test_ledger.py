"""Sessions of a process share ``memory=``: who waits, who is refused, what is given back, and that nobody hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import Dataset, DoesNotFitError, TruncatedSVD, connect
from eigenmill.reduce.engines.ledger import LEDGER, Claim, Ledger
from eigenmill.reduce.engines.local.engine import LocalEngine
from eigenmill.reduce.engines.local.kept import Kept
from eigenmill.reduce.engines.memory import estimate
from tests.engines.contract import bytes_of, pass_of, reference
from tests.engines.counting import WatchedSource
from tests.engines.test_sessions import wide_file
from tests.support.tables import vectors

MB = 1_000_000
SOON = 300.0


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Process:
    """A process that holds so many bytes, and its ledger."""

    def __init__(self, patch: pytest.MonkeyPatch, resident: int) -> None:
        self.resident, self.ledger = resident, Ledger()
        patch.setattr("eigenmill.reduce.engines.ledger.resident", lambda: self.resident)

    def begin(self, claim: Claim, size: int, workers: int = 1, kept: int = 0) -> tuple[int, int]:
        """A scan of ``size`` bytes, and as many for every further worker."""
        return self.ledger.begin(
            claim, lambda count: size * count, workers, kept, lambda process: DoesNotFitError(f"{process} held")
        )

    def waiting(self, count: int) -> None:
        wait_for(lambda: len(self.ledger._queue) == count)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch, 100 * MB)


@pytest.fixture
def others() -> Callable[..., Future[Any]]:
    """Runs a call in a thread of its own, which does not keep a test that has failed from its end."""

    def submit(call: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(*args))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    return submit


def test_workers_and_kept_blocks_take_what_is_left(process: Process) -> None:
    claim = process.ledger.open(1000 * MB)
    assert process.begin(claim, 300 * MB, workers=8) == (3, 0), "100 held, 900 left"
    assert claim.bytes == 900 * MB
    process.ledger.end(claim, 0)
    assert claim.bytes == 0
    iterating = process.ledger.open(1000 * MB, reserve=200 * MB, need=300 * MB)
    assert process.begin(iterating, 250 * MB, workers=8) == (3, 0)
    process.ledger.end(iterating, 0)
    assert iterating.bytes == 500 * MB, "what it reserves, and its largest scan"
    process.resident = 800 * MB  # the allocator keeps what the scan has freed
    assert process.begin(iterating, 250 * MB, workers=2, kept=50 * MB) == (2, 150 * MB)
    process.ledger.end(iterating, 200 * MB)
    assert iterating.bytes == 500 * MB
    process.ledger.close(iterating)
    process.ledger.close(claim)
    assert not process.ledger._claims


def test_what_others_hold_is_not_counted_twice(process: Process, others: Any) -> None:
    first, second = process.ledger.open(1000 * MB), process.ledger.open(1000 * MB)
    process.begin(first, 300 * MB)
    process.resident = 350 * MB  # 250 of the 300 are there by now
    assert others(process.begin, second, 300 * MB, 8).result(SOON) == (2, 0)


def test_who_fits_alone_waits_and_who_does_not_is_refused_at_once(process: Process, others: Any) -> None:
    first, second, third = (process.ledger.open(1000 * MB) for _ in range(3))
    process.begin(first, 500 * MB)
    process.resident = 550 * MB
    waits = others(process.begin, second, 500 * MB)
    process.waiting(1)
    with pytest.raises(DoesNotFitError, match="held"):
        others(process.begin, third, 901 * MB).result(SOON)
    assert not waits.done()
    process.resident = 120 * MB
    process.ledger.end(first, 0)
    assert waits.result(SOON) == (1, 0)


def test_first_come_first_served(process: Process, others: Any) -> None:
    """A small scan does not overtake a large one that waits, which would wait for ever."""
    claims = [process.ledger.open(1000 * MB) for _ in range(3)]
    process.begin(claims[0], 500 * MB)
    large = others(process.begin, claims[1], 800 * MB)
    process.waiting(1)
    small = others(process.begin, claims[2], 200 * MB)
    process.waiting(2)
    process.ledger.end(claims[0], 0)
    large.result(SOON)
    assert not small.done()
    process.ledger.end(claims[1], 0)
    small.result(SOON)


def test_a_session_that_has_claimed_what_it_needs_does_not_wait_between_scans(process: Process, others: Any) -> None:
    iterating, other = process.ledger.open(1000 * MB, reserve=100 * MB, need=400 * MB), process.ledger.open(1000 * MB)
    process.begin(iterating, 200 * MB)
    process.ledger.end(iterating, 0)
    waits = others(process.begin, other, 500 * MB)
    process.waiting(1)
    for _ in range(3):
        assert process.begin(iterating, 400 * MB, workers=2) == (2, 0)
        process.ledger.end(iterating, 0)
    assert not waits.done()
    process.ledger.close(iterating)
    waits.result(SOON)


def test_more_workers_leave_room_for_who_waits(process: Process, others: Any) -> None:
    iterating, other = process.ledger.open(1000 * MB, reserve=0, need=200 * MB), process.ledger.open(1000 * MB)
    assert process.begin(iterating, 200 * MB, workers=4) == (4, 100 * MB)
    waits = others(process.begin, other, 450 * MB)
    process.waiting(1)
    process.ledger.end(iterating, 0)
    assert waits.result(SOON) == (1, 0), "its turn comes when the scan ends"
    process.ledger.end(other, 0)
    assert process.begin(iterating, 200 * MB, workers=4) == (4, 100 * MB)


def test_what_is_kept_makes_room_at_the_next_scan(process: Process, others: Any) -> None:
    iterating, other = process.ledger.open(1000 * MB, reserve=0, need=200 * MB), process.ledger.open(1000 * MB)
    assert process.begin(iterating, 200 * MB) == (1, 700 * MB)
    process.ledger.end(iterating, 700 * MB)
    waits = others(process.begin, other, 450 * MB)
    process.waiting(1)
    assert process.ledger.crowded
    assert process.begin(iterating, 200 * MB, workers=4, kept=0) == (2, 50 * MB), "450 are promised"
    assert waits.result(SOON) == (1, 0), "while the other one scans"


def test_a_session_within_another_of_its_thread_is_refused_where_it_would_wait_for_itself(process: Process) -> None:
    outer, inner = process.ledger.open(1000 * MB, reserve=0, need=500 * MB), process.ledger.open(1000 * MB)
    process.begin(outer, 500 * MB)
    process.ledger.end(outer, 0)
    assert process.begin(inner, 400 * MB) == (1, 0)
    process.ledger.end(inner, 0)
    with pytest.raises(DoesNotFitError, match=r"sessions which cannot end before it hold .*close the session around"):
        process.begin(inner, 600 * MB)


def test_two_that_grow_do_not_wait_for_each_other(process: Process, others: Any) -> None:
    """Neither has said what it needs: the second one that would wait is refused, and the first one goes on."""
    one, two = (process.ledger.open(1000 * MB, reserve=100 * MB) for _ in range(2))
    for claim in (one, two):
        process.begin(claim, 200 * MB)
        process.ledger.end(claim, 0)
    first = others(process.begin, one, 600 * MB)
    process.waiting(1)
    with pytest.raises(DoesNotFitError, match="cannot end before it"):
        others(process.begin, two, 600 * MB).result(SOON)
    assert not first.done()
    process.ledger.close(two)
    assert first.result(SOON)[0] == 1


def test_what_is_freed_and_still_resident_is_given_back_before_anybody_is_refused(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """glibc keeps what threads have freed, which a later scan of others would not use."""

    def give_back() -> None:
        process.resident = 100 * MB

    monkeypatch.setattr("eigenmill.reduce.engines.ledger.give_back", give_back)
    claim = process.ledger.open(1000 * MB)
    process.resident = 700 * MB
    assert process.begin(claim, 150 * MB, workers=2) == (2, 0)
    assert process.resident == 700 * MB, "there is room as it is"
    process.ledger.end(claim, 0)
    assert process.begin(claim, 400 * MB, workers=2) == (2, 0)


# With scans.


def held_up(data: Dataset, begun: threading.Event, go: threading.Event) -> Dataset:
    """``data`` whose first block waits for ``go``."""

    def tell(fragment: Any, block: Any) -> None:
        begun.set()
        assert go.wait(SOON)

    return replace(data, source=WatchedSource(data.source, tell))  # type: ignore[arg-type]


def test_with_memory_for_one_the_second_waits_and_both_finish(tmp_path: Path, others: Any) -> None:
    data = wide_file(tmp_path / "x.parquet", 0)
    pass_, begun, go = pass_of("gram", data), threading.Event(), threading.Event()
    alone = estimate(pass_, data, 1)
    own = alone.peak - alone.process
    engine = LocalEngine(workers=1, memory=alone.peak + own // 2)
    expected = bytes_of(reference().run(pass_, data))
    first = others(engine.run, pass_, held_up(data, begun, go))
    assert begun.wait(SOON)
    second = others(engine.run, pass_, data)
    wait_for(lambda: LEDGER.crowded)
    with pytest.raises(DoesNotFitError, match="one worker needs"):
        connect("local", workers=1, memory=own // 2).run(pass_, data)
    assert not second.done()
    go.set()
    assert bytes_of(first.result(SOON)) == bytes_of(second.result(SOON)) == expected
    assert not LEDGER._claims


def test_kept_blocks_are_given_back_to_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are decoded again, to the same bytes."""
    data = wide_file(tmp_path / "x.parquet", 0)
    model: dict[str, Any] = {"solver": "sketch", "tol": None, "max_scans": 6}
    expected = TruncatedSVD(4, **model).fit(data).components_.tobytes()
    given_back, forget = list[int](), Kept.forget_all

    def forgotten(self: Kept) -> None:
        given_back.append(self.bytes)
        forget(self)

    monkeypatch.setattr(Kept, "forget_all", forgotten)
    crowded = iter([False, False, True, False, False, False])
    monkeypatch.setattr(Ledger, "crowded", property(lambda self: next(crowded)))
    found = TruncatedSVD(4, **model).fit(data, engine=LocalEngine(workers=2, memory="16GiB"))
    assert found.components_.tobytes() == expected
    assert given_back == [data.n_rows * 40 * 8]


def test_fits_with_memory_for_one_take_turns(tmp_path: Path, others: Any) -> None:
    """Iterations hold a basis and kept blocks between their scans, and nobody waits for ever."""
    data = wide_file(tmp_path / "x.parquet", 0)
    model: dict[str, Any] = {"solver": "sketch", "tol": None, "max_scans": 4, "scale": True, "refine": True}
    expected = TruncatedSVD(4, **model).fit(data).components_.tobytes()
    alone = estimate(pass_of("gram", data), data, 2)
    engine = LocalEngine(workers=2, memory=alone.peak + (64 << 20))
    fits = [others(lambda: TruncatedSVD(4, **model).fit(data, engine=engine).components_.tobytes()) for _ in range(4)]
    assert [fit.result(SOON * 3) for fit in fits] == [expected] * 4
    assert not LEDGER._claims


def test_a_claim_ends_with_its_session_however_it_ends(tmp_path: Path) -> None:
    data = wide_file(tmp_path / "x.parquet", 0)
    engine = LocalEngine(workers=2, memory="16GiB")

    def fails(fragment: Any, block: Any) -> None:
        raise KeyboardInterrupt

    broken: Any = replace(data, source=WatchedSource(data.source, fails))  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            TruncatedSVD(4, solver="sketch").fit(broken, engine=engine)
        assert not LEDGER._claims
        assert not LEDGER.crowded
    X = np.random.default_rng(0).normal(size=(100, 5))
    assert TruncatedSVD(2).fit(X, engine=engine).n_components_ == 2


AT_ONCE = """
import json, re, sys, threading, warnings
from pathlib import Path
from sklearn.base import clone
from eigenmill.reduce import PCA, Dataset, Sink, TruncatedSVD, connect
from eigenmill.reduce.engines.memory import estimate

folder = Path(sys.argv[1])
warnings.simplefilter("ignore")  # few scans on purpose
data, parts = Dataset.from_parquet(folder / "x.parquet", vector="v", carry="key"), {"part_bytes": 1 << 30}
pca, svd = PCA(5, solver="gram"), TruncatedSVD(20, solver="sketch", tol=None, max_scans=4)
PCA(1).fit([[1.0, 2.0], [3.0, 4.5], [5.0, 5.0]])  # imports
alone = connect("local", workers=1)
plans = pca.plan(data, engine=alone), svd.plan(data, engine=alone)
plans = *plans, estimate(Sink(folder, partition_by="key", **parts).writing(data), data, 1)
memory = max(plan.peak for plan in plans) + (96 << 20)
engine, errors = connect("local", workers=2, memory=memory), []

def run(number):
    try:
        if number % 3 == 0:
            engine.write(data, Sink(folder / f"out-{number}", partition_by="key", **parts))
        else:
            clone((pca, svd)[number % 3 - 1]).fit(data, engine=engine)
    except BaseException as error:
        errors.append(repr(error))

threads = [threading.Thread(target=run, args=(number,)) for number in range(9)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"memory": memory, "peak": peak, "errors": errors}))
"""


@pytest.mark.slow
def test_sessions_at_once_keep_to_the_memory_of_the_process(space: Path) -> None:
    """Measured: three writes, each of which gathers 117 MB, three fits of a Gram matrix, and three iterations."""
    X = np.random.default_rng(0).standard_normal((150_000, 200), dtype=np.float32)
    table = {"v": vectors(X), "key": np.arange(len(X)) % 4}
    pq.write_table(pa.table(table), space / "x.parquet", row_group_size=20_000)
    done = subprocess.run([sys.executable, "-c", AT_ONCE, str(space)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["errors"] == []
    assert found["memory"] / 2 < found["peak"] <= found["memory"]
    assert len(list(space.glob("out-*/_SUCCESS"))) == 3
