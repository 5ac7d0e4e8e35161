"""The Spark session of a job: the one that is there, or a new one on the cluster that is named."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from eigenmill.reduce.errors import EngineError
from eigenmill.reduce.storage import secrets

PATIENCE = 5.0
"""Seconds within which a cluster must take a connection. Spark alone would try for a minute, and not say much."""
PORTS = {"spark": 7077, "sc": 15002}


def session(master: str | None = None, remote: str | None = None) -> Any:
    """The session of this process.

    Args:
        master: a cluster such as ``spark://host:7077``; by default what spark-submit or Spark's own settings say.
        remote: a Spark Connect server such as ``sc://host:15002``, instead.

    Raises:
        EngineError: the cluster does not answer.
    """
    submitted = master is None and remote is None and "PYSPARK_GATEWAY_PORT" in os.environ
    if submitted:
        SparkContext._ensure_initialized()
    refuse_unreachable(remote or master or (SparkConf().get("spark.master", None) if submitted else None) or "")
    builder = SparkSession.builder.appName("eigenmill")
    if remote is not None:
        builder = builder.remote(remote)
    elif master is not None:
        builder = builder.master(master)
    try:
        return builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise EngineError(f"expected a Spark cluster that answers, found {error!r}; start it first") from error


def stop() -> None:
    """End the session of this process, if there is one."""
    found = SparkSession.getActiveSession()
    if found is not None:
        if getattr(found, "_sc", None) is None:
            close_session(found)
        found.stop()


def close_session(session: Any) -> None:
    """Close the client of a Connect server that is gone: pyspark would try for ten minutes to take leave of it."""
    try:
        refuse_silent_server(session)
    except EngineError:
        session.client.close()


def refuse_silent_server(session: Any) -> None:
    """Refuse the Connect server of a session when it does not answer, as :func:`refuse_unreachable` does."""
    refuse_unreachable(f"sc://{session.client._builder.endpoint}")


def refuse_unreachable(address: str) -> None:
    """Refuse a standalone master or Connect server (``spark://a:7077,b:7077``, ``sc://host``) that does not answer.

    Raises:
        EngineError: no connection within :data:`PATIENCE` seconds.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in PORTS:
        return
    why = ""
    for place in re.split(r"[/;]", rest)[0].split(","):
        host, _, port = place.rpartition("@")[2].partition(":")
        try:
            socket.create_connection((host, int(port or PORTS[scheme])), PATIENCE).close()
            return
        except (OSError, ValueError) as error:
            why = str(error)
    raise EngineError(
        f"expected a Spark cluster that answers at {secrets.masked_uri(address)}, found: {why}; "
        "start it first, or correct the address"
    )
