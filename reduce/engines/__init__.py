"""Engines decide where a pass runs, and nothing else. :func:`connect` imports the one that is asked for.

Lives here: the closed protocols of an engine and its sessions, the merge tree (``base``), what a task does on any
engine (``tasks``, ``threads``), memory and costs (``memory``, ``ledger``, ``costs``, ``load``), what travels and
stays (``ship``, ``wire``, ``checkpoint``), and the table of kinds (``kinds``); one room for each of local, dask and
spark. In come passes, matrices and sinks; out go results and manifests.

May import: errors, output, passes, rows, sources, storage.
"""

from __future__ import annotations

import inspect

from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.engines.kinds import ENGINES
from eigenmill.reduce.errors import ConfigError


def connect(kind: str = "local", client: object = None, **options: object) -> Engine:
    """The engine called ``kind``.

    Args:
        kind: ``"local"``: threads of this process; ``"dask"``: a Dask cluster; ``"spark"``: Spark.
        client: what the engine connects through: a ``distributed.Client`` or a scheduler's address, a ``SparkSession``.
        options: as of :class:`eigenmill.reduce.engines.local.engine.LocalEngine`,
            :class:`eigenmill.reduce.engines.dask.engine.DaskEngine`,
            :class:`eigenmill.reduce.engines.spark.engine.SparkEngine`.
    """
    if kind not in ENGINES:
        raise ConfigError(f"expected an engine among {', '.join(ENGINES)}; found {kind!r}")
    engine = ENGINES[kind]
    try:
        made = engine.load()
    except ModuleNotFoundError as error:
        raise ConfigError(f"expected the extra for {kind!r}: pip install 'eigenmill[{kind}]' ({error})") from error
    if engine.client is None and client is not None:
        raise ConfigError(f"expected no client for the {kind} engine")
    if engine.client is not None and client is None:
        raise ConfigError(f"expected {engine.client}")
    given = () if engine.client is None else (client,)
    known = list(inspect.signature(made).parameters)[len(given) :]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(f"expected options of the {kind} engine among {', '.join(known)}; found {unknown[0]!r}")
    found: Engine = made(*given, **options)
    return found


__all__ = ["ENGINES", "Engine", "connect"]
