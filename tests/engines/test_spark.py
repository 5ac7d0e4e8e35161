"""The Spark engine keeps the contract, on a session of this process."""

from __future__ import annotations

from typing import Any

import pytest

from reduce import connect
from reduce.engines.load import TASKS
from tests.engines.contract import EngineContract

pytestmark = pytest.mark.filterwarnings("default")  # those of pyspark


class TestSpark(EngineContract):
    @pytest.fixture
    def make_engine(self, spark: Any) -> Any:  # type: ignore[override]
        return lambda **options: connect("spark", spark, **options)

    @pytest.fixture(autouse=True)
    def tiny_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("reduce.dataset.LEAF_BYTES", 1)
        # A task then folds runs of four leaves.
        monkeypatch.setitem(TASKS, "spark", 4)
