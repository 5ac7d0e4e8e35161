"""Engines decide where a pass runs. :func:`connect` imports the one that is asked for, and nothing else."""

from __future__ import annotations

from typing import Any

from reduce.engines.base import Engine
from reduce.errors import ConfigError


def connect(kind: str = "local", client: Any = None, **options: Any) -> Engine:
    """The engine called ``kind``.

    Args:
        kind: ``"local"``: threads of this process; ``"dask"``: a Dask cluster; ``"spark"``: Spark.
        client: what the engine connects through: a ``distributed.Client`` or a scheduler's address, a ``SparkSession``.
        options: as of :class:`reduce.engines.local.LocalEngine` , :class:`reduce.engines.dask.DaskEngine`,
            :class:`reduce.engines.spark.SparkEngine`.
    """
    if kind == "local" and client is not None:
        raise ConfigError("expected no client for the local engine")
    if kind == "spark" and client is None:
        raise ConfigError("expected connect('spark', session) with a SparkSession")
    if kind == "dask" and client is None:
        raise ConfigError("expected connect('dask', client) with a distributed.Client or a scheduler's address")
    try:
        if kind == "local":
            from reduce.engines.local import LocalEngine

            return LocalEngine(**options)
        if kind == "spark":
            from reduce.engines.spark import SparkEngine

            return SparkEngine(client, **options)
        if kind == "dask":
            from reduce.engines.dask import DaskEngine

            return DaskEngine(client, **options)
    except TypeError as error:
        raise ConfigError(f"expected options of the engine {kind!r}: {error}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"expected the extra for {kind!r}: pip install 'eigenmill[{kind}]' ({error})") from error
    raise ConfigError(f"expected an engine among local, dask, spark; found {kind!r}")


__all__ = ["Engine", "connect"]
