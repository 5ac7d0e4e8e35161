"""A job of Spark under watch: when its cluster is gone, it ends with an error instead of waiting for ever.

Spark itself waits for workers without limit, and its Connect client tries a dead server for ten minutes.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyspark import InheritableThread

from eigenmill.reduce.engines.spark.session import close_session, refuse_silent_server, refuse_unreachable
from eigenmill.reduce.errors import EngineError

T = TypeVar("T")
log = logging.getLogger("eigenmill")
POLL = 5.0
"""Seconds after which a silent cluster is asked whether it is still there."""
FAREWELL = 10.0
"""Seconds for a cancelled job to return: a process that ends while a thread still reads from Java is aborted."""
AGAIN = 1.0
"""Seconds after which a job that has not returned is cancelled again."""


def watched(session: object, group: str, call: Callable[[], T], patience: float) -> T:
    """What ``call`` returns, which waits for a job of ``session``.

    Args:
        session: a ``SparkSession``, classic or Connect.
        group: the job group, on Connect the tag, of the jobs that ``call`` runs.
        call: runs in a thread of its own, because a call to a dead cluster does not return.
        patience: seconds for which a cluster may have no executor.

    Raises:
        EngineError: the master or the Connect server does not answer, or there is no executor for too long.
    """
    found: list[T] = []
    wrong: list[BaseException] = []
    # Not the thread itself: Python before 3.13 takes one for ended whose join() a signal has interrupted.
    ended = threading.Event()

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            wrong.append(error)
        finally:
            ended.set()

    InheritableThread(target=run, session=session, daemon=True).start()
    alone, remote = time.monotonic(), getattr(session, "_sc", None) is None
    try:
        while not ended.wait(POLL):
            alone = _still_there(session, alone, patience)
        if wrong:
            if remote:
                refuse_silent_server(session)  # one that is gone makes errors of many kinds
            raise wrong[0]
    except BaseException as error:
        if remote:
            # Runs before pyspark's own farewell, for it is registered later.
            atexit.register(close_session, session)
        if not (remote and isinstance(error, EngineError)):
            _let_go(session, group, ended)
        raise
    return found[0]


def _still_there(session: object, alone: float, patience: float) -> float:
    """Ask for a cluster's executors; the time since when there have been none."""
    context = getattr(session, "_sc", None)
    if context is None:
        refuse_silent_server(session)
        return time.monotonic()
    # One entry is the driver's own.
    if context.master.startswith("local") or context._jsc.sc().getExecutorMemoryStatus().size() > 1:
        return time.monotonic()
    refuse_unreachable(context.master)
    if time.monotonic() - alone > patience:
        raise EngineError(
            f"expected executors from {context.master}, found none for {patience:g} s; start workers, or give this "
            "session fewer cores and less memory per executor, then run again to go on"
        )
    return alone


def _let_go(session: object, group: str, ended: threading.Event) -> None:
    """Let the cluster forget the job that nobody waits for any more; without it, a Connect server works to its end."""
    deadline, asking = time.monotonic() + FAREWELL, threading.Thread()
    while not ended.is_set() and time.monotonic() < deadline:
        # Anew, because a job that was about to begin is not seen by the first call; apart, because a server that is
        # gone does not answer.
        if not asking.is_alive():
            asking = threading.Thread(target=_cancel, args=(session, group), daemon=True)
            asking.start()
        ended.wait(AGAIN)


def _cancel(session: Any, group: str) -> None:
    context = getattr(session, "_sc", None)
    try:
        if context is None:
            session.interruptTag(group)
        else:
            context.cancelJobGroup(group)
    except Exception as error:  # Java may be gone, too
        log.info("Spark has not been told that nobody waits for a job: %r", error)
