"""Ending when asked to: by Ctrl-C or SIGTERM, within seconds, also while a library waits for what never comes.

Python hears a signal when a call into a library returns. Where that takes too long, or where a thread keeps the process
from ending afterwards, a thread of our own ends it: what is finished lies on disk, as after a kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from eigenmill.jobs.shown.exits import INTERRUPTED
from eigenmill.reduce.storage import waiting

SIGNALS = (signal.SIGINT, signal.SIGTERM)
UNHEARD, GRACE = 4.0, 15.0
"""Seconds for which a signal may go unheard, and for which a process that has heard one may save what it has."""
heard = threading.Event()
"""Set when Python has heard a signal."""


def _stop(*_: object) -> None:
    heard.set()
    raise KeyboardInterrupt


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, with which schedulers stop a job, ends it as Ctrl-C does: with what is done kept for the next run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Who ignores Ctrl-C, as what runs in the background does, goes on ignoring it.
    before = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in before.items():
        if each == signal.SIGTERM or handler is signal.default_int_handler:
            signal.signal(each, _stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def watch() -> None:
    """End this process when a signal has not ended it; to be called once, by its main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    told = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read, told), daemon=True, name="eigenmill-watches-signals").start()


def _watch(read: int, told: int) -> None:
    """Reads signals as they come; ``told`` is who was told of them before, -1 for nobody."""
    while True:
        numbers = os.read(read, 1)
        if told >= 0:
            with contextlib.suppress(OSError):
                os.write(told, numbers)
        if any(number in SIGNALS for number in numbers):
            if heard.wait(UNHEARD):
                time.sleep(GRACE)
            os.write(2, b"interrupted; what is finished stays, and the same command goes on from there\n")
            os._exit(INTERRUPTED)


def leave(code: int) -> None:
    """Leave without waiting for a call that nobody waits for any more, if there is one."""
    if waiting.left_behind():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


__all__ = ["heard", "leave", "terminable", "watch"]
