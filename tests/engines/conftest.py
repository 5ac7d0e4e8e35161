"""A cluster for the tests of the Dask engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A scheduler and two worker processes of two threads each."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0", memory_limit="4GiB"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
