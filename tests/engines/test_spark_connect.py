"""Spark Connect: the same script in a process of its own, for Connect and classic Spark do not share one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def on_connect(*names: str) -> dict[str, Any]:
    """What ``spark_connect.py`` finds for these cases."""
    for module in ("pyspark", "grpc", "grpc_status", "google.rpc", "zstandard"):
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("spark_connect.py")), *names],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("found "))
    return found


def test_passes_parts_words_frames_and_an_interrupt() -> None:
    names = ("passes", "parts", "words", "budget", "frames", "interrupted")
    assert on_connect(*names) == {"module": "pyspark.sql.connect.session", **dict.fromkeys(names, True)}


@pytest.mark.slow
def test_a_state_larger_than_a_message_may_be() -> None:
    assert on_connect("large_state")["large_state"] is True
