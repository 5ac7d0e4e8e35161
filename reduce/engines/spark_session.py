"""The Spark session of a job: the one that is there, or a new one on the cluster that is named."""

from __future__ import annotations

from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from reduce.errors import EngineError


def session(master: str | None = None, remote: str | None = None) -> Any:
    """The session of this process.

    Args:
        master: a cluster such as ``spark://host:7077``; by default what spark-submit or Spark's own settings say.
        remote: a Spark Connect server such as ``sc://host:15002``, instead.

    Raises:
        EngineError: the cluster does not answer.
    """
    builder = SparkSession.builder.appName("eigenmill")
    if remote is not None:
        builder = builder.remote(remote)
    elif master is not None:
        builder = builder.master(master)
    try:
        return builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise EngineError(f"expected a Spark cluster that answers, found {error!r}; start it first") from error
