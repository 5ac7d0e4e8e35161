"""The Dask engine keeps the contract, on a real scheduler and two worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import eigenmill.reduce.source_base
from eigenmill.reduce import connect
from tests.engines.contract import EngineContract

pytest.importorskip("distributed")


WHOLE = eigenmill.reduce.source_base.LEAF_BYTES


def set_leaf_bytes(size: int) -> None:
    eigenmill.reduce.source_base.LEAF_BYTES = size


class TestDask(EngineContract):
    @pytest.fixture
    def make_engine(self, client: Any) -> Any:  # type: ignore[override]
        return lambda **options: connect("dask", client, **options)

    @pytest.fixture(autouse=True)
    def tiny_leaves(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # type: ignore[override]
        self.client = client
        monkeypatch.setattr("eigenmill.reduce.source_base.LEAF_BYTES", 1)
        client.run(set_leaf_bytes, 1)
        yield
        client.run(set_leaf_bytes, WHOLE)

    def whole_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().whole_leaves(monkeypatch)
        self.client.run(set_leaf_bytes, WHOLE)
