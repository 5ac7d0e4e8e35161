"""Engines decide where a pass runs. :func:`connect` imports the one that is asked for, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ConfigError


def connect(kind: str = "local", client: Any = None, **options: Any) -> Engine:
    """The engine called ``kind``.

    Args:
        kind: ``"local"``: threads of this process; ``"dask"``: a Dask cluster; ``"spark"``: Spark.
        client: what the engine connects through: a ``distributed.Client`` or a scheduler's address, a ``SparkSession``.
        options: as of :class:`eigenmill.reduce.engines.local.LocalEngine`,
            :class:`eigenmill.reduce.engines.dask.DaskEngine`, :class:`eigenmill.reduce.engines.spark.SparkEngine`.
    """
    try:
        made = _class(kind)
    except ModuleNotFoundError as error:
        raise ConfigError(f"expected the extra for {kind!r}: pip install 'eigenmill[{kind}]' ({error})") from error
    if kind == "local" and client is not None:
        raise ConfigError("expected no client for the local engine")
    if kind == "spark" and client is None:
        raise ConfigError("expected connect('spark', session) with a SparkSession")
    if kind == "dask" and client is None:
        raise ConfigError("expected connect('dask', client) with a distributed.Client or a scheduler's address")
    given = () if kind == "local" else (client,)
    known = list(inspect.signature(made).parameters)[len(given) :]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(f"expected options of the {kind} engine among {', '.join(known)}; found {unknown[0]!r}")
    return made(*given, **options)


def _class(kind: str) -> Callable[..., Engine]:
    if kind == "local":
        from eigenmill.reduce.engines.local import LocalEngine

        return LocalEngine
    if kind == "dask":
        from eigenmill.reduce.engines.dask import DaskEngine

        return DaskEngine
    if kind == "spark":
        from eigenmill.reduce.engines.spark import SparkEngine

        return SparkEngine
    raise ConfigError(f"expected an engine among local, dask, spark; found {kind!r}")


__all__ = ["Engine", "connect"]
