"""The same job with eigenmill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def run(
    path: Path, out: Path, *, workers: int = 2, components: int = 50, memory: str = "2GiB", engine: Any = None
) -> dict[str, Any]:
    """The whole job, in this process or on ``engine``.

    Seconds of the fit and of the whole, opening the files included; the variances.
    """
    from eigenmill.reduce import PCA, Dataset, connect

    began = time.perf_counter()
    layout: dict[str, Any] = {"vector": "x"}
    if path.name.startswith("scalar"):
        layout = {"columns": scalar_columns(path)}
    data = Dataset.from_parquet(str(path), carry=["id"], **layout)
    engine = engine or connect("local", workers=workers, memory=memory)
    pca = PCA(n_components=components, scale=True).fit(data, engine=engine)
    fitted = time.perf_counter()
    pca.transform(data).to_parquet(str(out), engine=engine)
    ended = time.perf_counter()
    return {"fit": fitted - began, "seconds": ended - began, "variance": pca.explained_variance_.tolist()}


def scalar_columns(path: Path) -> list[str]:
    """Names of the feature columns."""
    import pyarrow.parquet as pq

    return [name for name in pq.read_schema(min(path.glob("*.parquet"))).names if name != "id"]
