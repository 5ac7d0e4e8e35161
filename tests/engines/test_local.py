"""The local engine keeps the contract with any number of threads, and its memory model is sane."""

from __future__ import annotations

import itertools
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenmill.reduce import PCA, ConfigError, Dataset, MissingValueError, TruncatedSVD, connect
from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.engines.local.engine import LocalEngine
from eigenmill.reduce.engines.memory import estimate, format_bytes, parse_bytes
from eigenmill.reduce.engines.threads import run_tasks
from eigenmill.reduce.format import CURRENT, Format
from eigenmill.reduce.passes.gram import GramPass
from eigenmill.reduce.passes.intake import Intake
from eigenmill.reduce.passes.rows import RowsPass
from eigenmill.reduce.rows.cleaning import Cleaning
from tests.engines.contract import EngineContract, bytes_of, open_input, pass_of
from tests.engines.counting import WatchedSource, failing_at
from tests.engines.session_contract import SessionContract
from tests.support.formats import other
from tests.support.progress import Recorder, Scan
from tests.support.tables import vectors

TINY = other(leaf_bytes=1)


class TestLocal(EngineContract, SessionContract):
    travels = True

    @pytest.fixture(params=[1, 2, 4])
    def make_engine(self, request: Any) -> Any:  # type: ignore[override]
        return lambda **options: connect("local", workers=request.param, **options)


def test_the_first_error_stops_the_others(tmp_path: Path) -> None:
    before = threading.active_count()
    data = failing_at(open_input("scalar", tmp_path), 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        connect("local", workers=3).run(pass_of("gram", data), data)
    assert threading.active_count() == before


def test_the_error_is_that_of_the_first_rows_however_many_threads() -> None:
    """A later leaf fails at once, the first one at its last row: that one is reported, by all alike."""
    X = np.random.default_rng(0).normal(size=(4000, 300))
    X[599, 7] = X[1200, 3] = X[2000, 1] = np.nan
    data, told = Dataset.from_numpy(X, format=TINY), set()
    for workers in (1, 2, 3, 4, 4, 4, 4):
        with pytest.raises(MissingValueError, match=r"row 599\b") as found:
            connect("local", workers=workers).run(pass_of("gram", data), data)
        told.add(str(found.value))
    assert len(told) == 1


@pytest.mark.parametrize("workers", [2, 3])
def test_no_leaf_starts_far_ahead_of_the_oldest(workers: int) -> None:
    """States that wait for a slow leaf would pile up: at most 4 leaves a thread start while it runs."""
    last, reached, beyond, overtaken = 4 * workers, threading.Event(), threading.Event(), list[bool]()

    def tell(fragment: Any, block: Any) -> None:
        if fragment.index == last:
            reached.set()
        if fragment.index > last:
            beyond.set()
        if fragment.index == 0:
            assert reached.wait(300)
            overtaken.append(beyond.wait(0.3))  # time enough for a thread that does not wait

    data = Dataset.from_numpy(np.random.default_rng(0).normal(size=(80, 1)), format=TINY)
    assert len(data.fragments) == 40
    slow = replace(data, source=WatchedSource(data.source, tell))  # type: ignore[arg-type]
    pass_ = pass_of("gram", data)
    assert bytes_of(connect("local", workers=workers).run(pass_, slow)) == bytes_of(connect("local").run(pass_, data))
    assert overtaken == [False]
    assert beyond.is_set()


def test_openmp_has_one_thread_in_every_thread_that_folds() -> None:
    """OpenMP keeps a limit for every thread apart, and scikit-learn brings it along."""
    import sklearn.utils  # noqa: F401  (loads OpenMP)
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "openmp"}

    data = Dataset.from_numpy(np.random.default_rng(0).normal(size=(4000, 100)), format=TINY)
    seen, names, both = list[set[int]](), set[str](), threading.Barrier(2)

    def look(scan: Scan) -> None:
        if scan.calls:
            seen.append(threads())
            if threading.current_thread().name not in names:
                names.add(threading.current_thread().name)
                both.wait(300)

    with threadpool_limits(2, user_api="openmp"):
        connect("local", workers=2, progress=Recorder(look)).run(pass_of("gram", data), data)
        assert threads() == {2}
    assert len(names) == 2
    assert set(map(frozenset, seen)) == {frozenset([1])}


def test_bad_options() -> None:
    for options in ({"workers": 0}, {"memory": "lots"}, {"memory": 0}, {"threads": 3}):
        with pytest.raises(ConfigError):
            connect("local", **options)
    with pytest.raises(ConfigError, match="local"):
        connect("hadoop")
    with pytest.raises(ConfigError, match="client"):
        connect("local", client=object())


def test_engines_of_many_threads_share_the_blas_limit() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> list[int]:
        return [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]

    with threadpool_limits(2):
        before, X = threads(), np.random.default_rng(0).normal(size=(300, 40))
        seen: list[list[int]] = []

        def work() -> None:
            for _ in range(5):
                PCA(2).fit(X, engine=connect("local", workers=2))
                with one_blas_thread(), one_blas_thread():
                    seen.append(threads())

        pool = [threading.Thread(target=work) for _ in range(3)]
        for t in pool:
            t.start()
        for t in pool:
            t.join()
        assert threads() == before
    assert set(map(tuple, seen)) == {tuple(1 for _ in before)}


def test_bytes_do_not_depend_on_the_calling_thread() -> None:
    """threadpoolctl obeys one thread only, the first that asked; Dask's tasks and notebooks run in others."""
    from threadpoolctl import threadpool_limits

    X, found = np.random.default_rng(1).normal(size=(900, 420)), []

    def fit() -> None:
        found.append(PCA(5).fit(X, engine=connect("local", workers=1)).components_.tobytes())

    with threadpool_limits(2):
        fit()
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()
    assert found[0] == found[1]


# The memory model


def gram_of(d: int, rows: int = 100, format: Format = CURRENT) -> tuple[Any, Dataset]:
    data = Dataset.from_numpy(np.zeros((rows, d)), format=format)
    return GramPass(Intake(data.feature_names, data.dtype, Cleaning().resolve(data.feature_names))), data


def test_estimates_grow_with_columns_and_rows_of_a_block() -> None:
    found = [estimate(*gram_of(d), 1) for d in (10, 100, 500, 1000)]
    for small, large in itertools.pairwise(found):
        assert small.states < large.states
        assert small.blocks < large.blocks
        assert small.finalize < large.finalize
        assert small.peak - small.process < large.peak - large.process
    # The state is half a matrix, the end two or three whole ones.
    assert 0.5 * 8e6 <= found[-1].states <= 0.8 * 8e6
    assert found[-1].finalize >= 2 * 8e6


def test_estimates_grow_with_workers() -> None:
    pass_, data = gram_of(20, 4000, TINY)
    found = [estimate(pass_, data, w) for w in (1, 2, 3, 8, 50)]
    peaks = [m.peak - m.process for m in found]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]
    assert estimate(pass_, data, 10_000).workers <= 100  # never more threads than leaves
    assert estimate(None, data, 4).peak - found[0].process > estimate(None, data, 1).peak - found[0].process - (1 << 22)


def test_estimates_cover_gaps_and_rows() -> None:
    pass_, data = gram_of(100)
    names = data.feature_names
    gaps = GramPass(Intake(names, data.dtype, Cleaning(missing="mean").resolve(names)))
    assert estimate(gaps, data, 1).states >= estimate(pass_, data, 1).states + 16 * 100 * 100
    assert estimate(RowsPass(pass_.intake), data, 1).states >= 8 * 100 * 100


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process holds, as the engines see it; in truth, other tests and the allocator decide."""
    found = [300 << 20]
    for module in ("eigenmill.reduce.engines.ledger", "eigenmill.reduce.engines.memory"):
        monkeypatch.setattr(f"{module}.resident", lambda: found[0])
    return found


def test_a_budget_lowers_the_workers_and_keeps_the_bytes(resident: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(4000, 200))
    data, workers = Dataset.from_numpy(X, format=TINY), list[int]()
    pass_ = GramPass(Intake(data.feature_names, data.dtype, Cleaning().resolve(data.feature_names)))

    def counted(tasks: Any, count: int, *rest: Any) -> None:
        workers.append(count)
        run_tasks(tasks, count, *rest)

    monkeypatch.setattr("eigenmill.reduce.engines.local.engine.run_tasks", counted)
    one, many = (estimate(pass_, data, w).peak for w in (1, 8))
    small = connect("local", workers=8, memory=(one + many) // 2).run(pass_, data)
    assert 1 < workers.pop() < 8
    assert bytes_of(small) == bytes_of(connect("local", workers=1).run(pass_, data))


@given(value=st.integers(1, 1 << 50))
def test_bytes_are_read_back(value: int) -> None:
    assert parse_bytes(value) == parse_bytes(str(value)) == parse_bytes(f" {value} b ") == value
    text = format_bytes(value)
    back = parse_bytes(text.replace(" ", ""))
    assert back is not None
    assert abs(back - value) <= max(0.051 * value, 0)
    assert re.fullmatch(r"\d+ B|\d+\.\d [KMGT]iB", text)


@given(
    number=st.integers(1, 4096),
    unit=st.sampled_from(["", "k", "M", "g", "T"]),
    binary=st.booleans(),
    b=st.sampled_from(["", "B", "b"]),
)
def test_units(number: int, unit: str, binary: bool, b: str) -> None:
    power = " kmgt".index(unit.lower()) if unit else 0
    text = f"{number} {unit}{'i' if binary and unit else ''}{b}"
    assert parse_bytes(text) == number * (1024 if binary and unit else 1000) ** power


@pytest.mark.parametrize("text", ["", "B", "1.5.2 GB", "-1", "1 XB", "GiB", "1e9", "0", "0.1 B", "nan", True])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_bytes(text)


def test_a_missing_size_is_no_limit() -> None:
    assert parse_bytes(None) is None


def test_what_the_last_scan_has_freed_leaves_as_many_workers_to_the_next(
    tmp_path: Path, resident: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator still has it, so that it looks like held by the process."""
    workers = list[int]()

    def counted(tasks: Any, count: int, *rest: Any) -> None:
        workers.append(count)
        run_tasks(tasks, count, *rest)
        resident[0] = 1 << 30

    monkeypatch.setattr("eigenmill.reduce.engines.local.engine.run_tasks", counted)
    X = np.random.default_rng(0).normal(size=(2000, 60))
    pq.write_table(pa.table({"v": vectors(X)}), tmp_path / "x.parquet")
    svd = TruncatedSVD(3, solver="sketch", tol=None, max_scans=3)
    svd.fit(Dataset.from_parquet(tmp_path / "x.parquet"), engine=LocalEngine(workers=2, memory="1GiB"))
    assert workers == [2, 2, 2]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (("ray",), "among local, dask, spark; found 'ray'"),
        (("local", object()), "no client for the local engine"),
        (("spark",), r"connect\('spark', session\)"),
        (("dask",), r"connect\('dask', client\)"),
    ],
)
def test_connect_says_what_it_expects(asked: tuple[Any, ...], answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        connect(*asked)


@pytest.mark.parametrize("given", [("local",), ("dask", "tcp://localhost:1"), ("spark", object())])
def test_an_unknown_option_is_answered_with_those_there_are(given: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=r"among .*memory.*; found 'mem'"):
        connect(*given, mem="1GiB")


def test_an_engine_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eigenmill.reduce.engines.dask.engine", None)
    with pytest.raises(ConfigError, match=r"pip install 'eigenmill\[dask\]'"):
        connect("dask", "tcp://localhost:1")
