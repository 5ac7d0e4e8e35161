"""A job of Spark under watch: when its cluster is gone, it ends with an error instead of waiting for ever.

Spark itself waits for workers without limit, and its Connect client tries a dead server for ten minutes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyspark import InheritableThread

from reduce.engines.spark_session import knock
from reduce.errors import EngineError

T = TypeVar("T")
POLL = 5.0
"""Seconds after which a silent cluster is asked whether it is still there."""
FAREWELL = 10.0
"""Seconds for a cancelled job to return: a process that ends while a thread still reads from Java is aborted."""


def watched(session: Any, group: str, call: Callable[[], T], patience: float) -> T:
    """What ``call`` returns, which waits for a job of ``session``.

    Args:
        session: a ``SparkSession``, classic or Connect.
        group: the job group in which ``call`` runs its jobs.
        call: runs in a thread of its own, because a call to a dead cluster does not return.
        patience: seconds for which a cluster may have no executor.

    Raises:
        EngineError: the master or the Connect server does not answer, or there is no executor for too long.
    """
    found: list[T] = []
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            wrong.append(error)

    thread = InheritableThread(target=run, session=session, daemon=True)
    thread.start()
    alone = time.monotonic()
    try:
        while thread.is_alive():
            thread.join(POLL)
            if thread.is_alive():
                alone = _still_there(session, alone, patience)
    except BaseException:
        with contextlib.suppress(Exception):  # Java may be gone, too
            _cancel(session, group)
        thread.join(FAREWELL)
        raise
    if wrong:
        raise wrong[0]
    return found[0]


def _still_there(session: Any, alone: float, patience: float) -> float:
    """Ask for a cluster's executors; the time since when there have been none."""
    context = getattr(session, "_sc", None)
    if context is None:
        knock(f"sc://{session.client._builder.endpoint}")
        return time.monotonic()
    # One entry is the driver's own.
    if context.master.startswith("local") or context._jsc.sc().getExecutorMemoryStatus().size() > 1:
        return time.monotonic()
    knock(context.master)
    if time.monotonic() - alone > patience:
        raise EngineError(
            f"expected executors from {context.master}, found none for {patience:g} s; start workers, or give this "
            "session fewer cores and less memory per executor, then run again to go on"
        )
    return alone


def _cancel(session: Any, group: str) -> None:
    """Let the cluster forget the job that nobody waits for any more."""
    context = getattr(session, "_sc", None)
    if context is not None:
        context.cancelJobGroup(group)
