"""Engines decide where a pass runs. :func:`connect` imports the one that is asked for, and nothing else."""

from __future__ import annotations

from typing import Any

from reduce.engines.base import Engine
from reduce.errors import ConfigError


def connect(kind: str = "local", client: Any = None, **options: Any) -> Engine:
    """The engine called ``kind``.

    Args:
        kind: ``"local"``: threads of this process.
        client: what the engine connects through; the local engine takes none.
        options: as of :class:`reduce.engines.local.LocalEngine`: ``workers``, ``memory``, ``work``, ``progress``.
    """
    if kind == "local":
        from reduce.engines.local import LocalEngine

        if client is not None:
            raise ConfigError("expected no client for the local engine")
        try:
            return LocalEngine(**options)
        except TypeError as error:
            raise ConfigError(f"expected workers, memory, work or progress: {error}") from error
    raise ConfigError(f"expected an engine among: local; found {kind!r}")


__all__ = ["Engine", "connect"]
