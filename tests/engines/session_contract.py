"""What every engine promises of its sessions: inherit :class:`SessionContract` beside the contract of its scans."""

from __future__ import annotations

import os
import pickle
import random
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eigenmill.reduce import PCA, Dataset, EngineError, Sink, StandardScaler, TruncatedSVD
from eigenmill.reduce.engines import ENGINES, Engine
from eigenmill.reduce.storage.digest import digest_of
from tests.engines.contract import INPUTS, N, bytes_of, open_input, pass_of, reference
from tests.support.progress import Recorder, Scan
from tests.support.trees import tree


@dataclass(frozen=True)
class Job:
    """A fit, and perhaps a write, of one of the inputs."""

    input: str
    model: Any
    sink: dict[str, Any] | None = field(hash=False)

    def run(self, data: Dataset, engine: Any, out: Path) -> str:
        """What it gives, as a digest."""
        model = type(self.model)(**self.model.get_params()).fit(data, engine=engine)
        arrays = (value for _, value in sorted(vars(model).items()) if isinstance(value, np.ndarray))
        found: list[Any] = [value for value in arrays if not value.dtype.hasobject]
        if self.sink is not None:
            engine.write(model.transform(data), Sink(out, **self.sink))
            found.append(tree(out))
        elif not data.sparse:
            found.append(model.transform(data).to_numpy(engine))
        return digest_of(found)


def drawn(draw: random.Random) -> Job:
    """A job at random: of every input, solver and layout."""
    input_ = draw.choice([name for name in INPUTS if name != "one row"])
    sparse = input_ == "sparse"
    sketch = {"solver": "sketch", "block_size": draw.choice([2, 3]), "max_scans": draw.choice([1, 3, 5]), "tol": None}
    options = draw.choice([{"solver": "gram"}, {"solver": "dual"}, {"solver": "auto"}, sketch, sketch])
    shared = {"scale": draw.random() < 0.3, "refine": draw.random() < 0.3, "random_state": draw.randrange(3), **options}
    if shared.get("max_scans") == 1:
        shared |= {"scale": False, "refine": False}
        sparse_or_filled = sparse or input_ == "missing"
        shared["max_scans"] = 3 if sparse_or_filled else 1
    kind = draw.choice([TruncatedSVD] if sparse else [PCA, TruncatedSVD, PCA])
    model = StandardScaler(with_mean=not sparse) if draw.random() < 0.15 else kind(2, **shared)
    layout = draw.choice(
        [{}, {"layout": "columns"}, {"part_bytes": 300}, {"part_bytes": 200, "layout": "columns", "dtype": "float64"}]
    )
    return Job(input_, model, layout if draw.random() < 0.6 else None)


def at_once(jobs: Sequence[Callable[[], Any]], threads: int = 8) -> list[Any]:
    """The results of all jobs, so many at a time, in order."""
    with ThreadPoolExecutor(threads) as pool:
        return [future.result(600) for future in [pool.submit(job) for job in jobs]]


def equal_to_the_same_alone(engine: Any, count: int, seed: int, folder: Path, threads: int = 8) -> None:
    """So many random fits and writes on one engine, some at a time, give what each gives by itself."""
    draw, inputs = random.Random(seed), dict[str, Dataset]()
    for name in INPUTS:
        (folder / name).mkdir(parents=True)
        inputs[name] = open_input(name, folder / name)
    jobs = [drawn(draw) for _ in range(count)]

    def work(engine: Any, place: str) -> list[Callable[[], str]]:
        return [
            lambda n=n, job=job: job.run(inputs[job.input], engine, folder / f"{place}-{n}")
            for n, job in enumerate(jobs)
        ]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "expected singular values")
        alone = [job() for job in work(reference(), "alone")]
        together = at_once(work(engine, "together"), threads)
    assert [n for n, (one, other) in enumerate(zip(alone, together, strict=True)) if one != other] == []


def ctrl_c(scan: Scan) -> None:
    """Ctrl-C in the first scan."""
    if scan.calls and scan is scan.recorder.scans[0]:
        raise KeyboardInterrupt


class SessionContract:
    """Inherit it beside :class:`tests.engines.contract.EngineContract`, whose fixtures it takes."""

    jobs, travels = 6, False

    def test_threads_share_an_engine(self, engine: Any, tmp_path: Path) -> None:
        equal_to_the_same_alone(engine, self.jobs, 3, tmp_path, threads=4)

    def test_scans_at_once_are_told_apart(self, make_engine: Any, tmp_path: Path) -> None:
        data, told = open_input("scalar", tmp_path), Recorder()
        engine, passes = make_engine(progress=told), ("moments", "gram", "sketch")
        at_once([lambda kind=kind: engine.run(pass_of(kind, data), data) for kind in passes])
        found = [(scan.stage, scan.planned, scan.rows, scan.ends) for scan in told.scans]
        assert sorted(found) == [(kind, N, N, 1) for kind in sorted(passes)]

    def test_a_session_does_what_its_engine_does(self, engine: Any, tmp_path: Path) -> None:
        data = open_input("list", tmp_path)
        with engine.session(reserve=1 << 20, need=1 << 20) as session:
            assert session.engine is engine
            for kind in ("moments", "gram", "moments"):
                expected = bytes_of(reference().run(pass_of(kind, data), data))
                assert bytes_of(session.run(pass_of(kind, data), data)) == expected
            session.write(data, Sink(tmp_path / "a", part_bytes=300))
            reference().write(data, Sink(tmp_path / "b", part_bytes=300))
            assert tree(tmp_path / "a") == tree(tmp_path / "b")
            np.testing.assert_array_equal(session.collect(data), reference().collect(data))

    def test_after_ctrl_c_and_after_its_end_it_is_as_before(self, make_engine: Any, tmp_path: Path) -> None:
        data = open_input("scalar", tmp_path)
        expected = bytes_of(reference().run(pass_of("gram", data), data))
        with make_engine(progress=Recorder(ctrl_c)) as engine:
            with pytest.raises(KeyboardInterrupt):
                engine.run(pass_of("gram", data), data)
            assert bytes_of(engine.run(pass_of("gram", data), data)) == expected
        assert bytes_of(engine.run(pass_of("gram", data), data)) == expected

    def test_it_says_what_it_is(self, engine: Any) -> None:
        assert isinstance(engine, Engine)
        assert isinstance(engine, ENGINES[engine.kind].load())
        assert engine.workers >= 1
        assert engine.progress is None
        assert engine.memory_limit() is None or engine.memory_limit() > 0
        assert (engine.spare(0) is None) == (ENGINES[engine.kind].costs is not None)
        assert engine.cluster is None or engine.cluster.kind == engine.kind

    def test_whether_it_travels(self, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = open_input("scalar", tmp_path)
        expected = bytes_of(reference().run(pass_of("gram", data), data))
        if self.travels:
            assert bytes_of(pickle.loads(pickle.dumps(engine)).run(pass_of("gram", data), data)) == expected
            return
        with pytest.raises(EngineError, match=r"expected a (dask|spark) engine to stay in its process, .*; send what"):
            pickle.dumps(engine)
        mine = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: mine + 1)
        with pytest.raises(EngineError, match=r"in the process that has made it, found it in a fork; call connect"):
            engine.run(pass_of("gram", data), data)
        monkeypatch.undo()
        assert engine.run(pass_of("moments", data), data) is not None


__all__ = ["SessionContract", "at_once", "equal_to_the_same_alone"]
