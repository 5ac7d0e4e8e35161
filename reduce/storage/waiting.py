"""Waiting for a store in a way that ends: after a while by itself, and at once by Ctrl-C.

A call into a C++ library cannot be interrupted, and one for a store that does not answer may take a quarter of an hour.
So the first question to a store is asked in a thread of its own, which is left behind when no answer comes.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import TypeVar

from pyarrow import fs as pafs

T = TypeVar("T")
PATIENCE = 40.0
"""Seconds in which a store must have answered: three attempts of Amazon's library, each with its own limit of time."""
STEP = 0.1
"""Seconds after which a waiting thread looks whether it was interrupted."""
_left: list[threading.Event] = []


class NoAnswerError(Exception):
    """The store has not answered in time."""


def answer(ask: Callable[[], T], seconds: float | None = None) -> T:
    """What ``ask()`` returns or raises.

    Raises:
        NoAnswerError: it takes longer than ``seconds``, by default :data:`PATIENCE`; its thread is left behind.
    """
    found: list[T] = []
    failed: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True, name="eigenmill-asks-a-store").start()
    try:
        waited, limit = 0.0, PATIENCE if seconds is None else seconds
        while waited < limit and not done.wait(STEP):  # not join: a signal in it makes a thread count as ended
            waited += STEP
    finally:
        if not done.is_set():
            _left.append(done)
            # pyarrow would wait at the end of the process for the very call that does not end.
            atexit.unregister(pafs.ensure_s3_finalized)
    if failed:
        raise failed[0]
    if not found:
        raise NoAnswerError
    return found[0]


def left_behind() -> bool:
    """Whether a call is still under way that nobody waits for."""
    return not all(done.is_set() for done in _left)


__all__ = ["NoAnswerError", "answer", "left_behind"]
