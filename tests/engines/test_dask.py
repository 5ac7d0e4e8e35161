"""The Dask engine keeps the contract, on a real scheduler and two worker processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from eigenmill.reduce import connect
from eigenmill.reduce.engines.base import Tree
from tests.engines.contract import KINDS, EngineContract, bytes_of, open_input, pass_of, reference
from tests.engines.session_contract import SessionContract

pytest.importorskip("distributed")
dask = pytest.importorskip("dask")


@dataclass(frozen=True)
class Twice:
    """A node that a cluster runs twice on the same inputs, of which the second result counts."""

    function: Any

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.function(*args, **options)
        return self.function(*args, **options)


def test_large_graphs_are_sent_without_a_warning_by_any_number_of_threads() -> None:
    """Dask's threshold is of the whole process: it is put back when the last thread has sent its graph."""
    from eigenmill.reduce.engines.dask.engine import large_graphs

    name = "distributed.admin.large-graph-warning-threshold"
    before, one, other = dask.config.get(name), large_graphs(), large_graphs()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert dask.config.get(name) > 1 << 40
    other.__exit__(None, None, None)
    assert dask.config.get(name) == before


class TestDask(EngineContract, SessionContract):
    @pytest.fixture
    def make_engine(self, client: Any) -> Any:  # type: ignore[override]
        return lambda **options: connect("dask", client, **options)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_node_may_run_twice(
        self, engine: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Dask keeps what a node has read, and runs the node again when its result is lost."""
        data, delayed, named = open_input("missing", tmp_path), dask.delayed, list[str]()

        def twice(function: Any, **options: Any) -> Any:
            named.append(function.__name__)
            return delayed(Twice(function), **options)

        monkeypatch.setattr("eigenmill.reduce.engines.dask.engine.delayed", twice)
        pass_, files = pass_of(kind, data), range(len(data.source.files))
        assert bytes_of(engine.run(pass_, data)) == bytes_of(reference().run(pass_, data))
        assert len(named) > 3, "tasks, and merges on the cluster"
        trees: list[Tree[Any]] = [Tree(), Tree()]
        for e, tree in zip((engine, reference()), trees, strict=True):
            for day in (files[:1], files[1:]):
                e.run(pass_, replace(data, source=data.source.only(day)), tree=tree)
        mine, theirs = ({k: bytes_of(s) for k, s in tree.nodes.items()} for tree in trees)
        assert mine == theirs
