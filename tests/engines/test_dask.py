"""The Dask engine keeps the contract, on a real scheduler and two worker processes."""

from __future__ import annotations

from typing import Any

import pytest

from eigenmill.reduce import connect
from tests.engines.contract import EngineContract

pytest.importorskip("distributed")


class TestDask(EngineContract):
    @pytest.fixture
    def make_engine(self, client: Any) -> Any:  # type: ignore[override]
        return lambda **options: connect("dask", client, **options)
