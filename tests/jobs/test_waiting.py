"""No wait without end: a store that does not answer is an error, and a signal ends what waits for it."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from pyarrow import fs

from eigenmill.jobs.shown import exits
from eigenmill.reduce.storage import waiting

DRIVER = """
import sys
from eigenmill.reduce.storage import waiting
waiting.PATIENCE = float(sys.argv.pop(1))
from eigenmill.jobs.cli import main
main()
"""
ENOUGH = 25.0
"""Seconds on a busy machine, for what takes two on a quiet one; the libraries themselves wait for minutes."""


@pytest.fixture
def taken() -> list[socket.socket]:
    """Connections that the silent server has taken."""
    return []


@pytest.fixture
def silent(taken: list[socket.socket]) -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for each in taken:
        each.close()


def started(patience: float, *arguments: str) -> subprocess.Popen[str]:
    secret = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(patience), *arguments],
        env={**os.environ, **secret},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


STORES = (
    "s3://bucket/x?endpoint_override={}&scheme=http&region=x",
    "gs://anonymous@b/x?endpoint_override={}&scheme=http",
)


@pytest.mark.parametrize("uri", STORES)
def test_case_b14_a_store_that_does_not_answer_is_an_error(uri: str, silent: str) -> None:
    process, began = started(2, "inspect", uri.format(silent)), time.monotonic()
    _, errors = process.communicate(timeout=2 * ENOUGH)
    assert process.returncode == exits.BAD_DATA
    assert "expected an answer of the store" in " ".join(errors.split())
    assert time.monotonic() - began < 2 * ENOUGH


@pytest.mark.parametrize(("uri", "number"), [(STORES[0], signal.SIGTERM), (STORES[1], signal.SIGINT)])
def test_case_b14_a_signal_ends_what_waits(
    uri: str, number: signal.Signals, silent: str, taken: list[socket.socket]
) -> None:
    process = started(600, "inspect", uri.format(silent))
    while not taken:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    began = time.monotonic()
    _, errors = process.communicate(timeout=ENOUGH)
    assert process.returncode == exits.INTERRUPTED
    assert "interrupted" in errors
    assert time.monotonic() - began < ENOUGH


def test_a_signal_that_nobody_hears_ends_the_process() -> None:
    """A call into C holds the main thread, and Python hears nothing."""
    code = (
        "import ctypes\n"
        "from eigenmill.jobs.shown import stopping\n"
        "stopping.watch()\n"
        "print('waits', flush=True)\n"
        "mutex = ctypes.create_string_buffer(256)\n"
        "with stopping.terminable():\n"
        "    while True:\n"
        "        ctypes.CDLL(None).pthread_mutex_lock(mutex)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=ENOUGH)
    assert process.returncode == exits.INTERRUPTED


def test_answers_and_errors_come_through() -> None:
    assert waiting.answer(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        waiting.answer(lambda: 1 // 0)
    never = threading.Event()
    with pytest.raises(waiting.NoAnswerError):
        waiting.answer(never.wait, seconds=0.2)
    assert waiting.left_behind()
    never.set()
    atexit.register(fs.ensure_s3_finalized)  # it was given up for the thread
