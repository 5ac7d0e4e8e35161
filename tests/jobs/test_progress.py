"""What is shown and counted while a job runs."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from rich.console import Console

from eigenmill.jobs.reduction.meter import Meter, forget_peak, peak_memory
from eigenmill.jobs.reduction.report import finite
from eigenmill.jobs.shown import show, words
from eigenmill.jobs.shown.progress import Bars
from eigenmill.reduce.storage.secrets import MASK


def test_bars_show_rows_rate_and_what_remains() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Bars(console) as bars:
        meter = Meter(bars)
        scan = meter.begin("gram", 80_000, 0)
        threads = [threading.Thread(target=lambda: [scan.advance(10) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bars._progress.refresh()
        scan.end()
        scan._shown.advance(1)  # after the end: nothing
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "forming the products" in text
    assert "40,000 of 80,000 rows" in text
    assert [(s.name, s.planned, s.rows) for s in meter.scans] == [("gram", 80_000, 40_000)]


def test_bars_appear_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import eigenmill.jobs.shown.console

    def console(terminal: bool) -> Any:
        return lambda: Console(file=io.StringIO(), force_terminal=terminal)

    monkeypatch.setattr(eigenmill.jobs.shown.console, "stderr", console(True))
    with eigenmill.jobs.shown.console.bars(False) as bars:
        assert isinstance(bars, Bars)
    with eigenmill.jobs.shown.console.bars(True) as bars:
        assert bars is None
    monkeypatch.setattr(eigenmill.jobs.shown.console, "stderr", console(False))
    with eigenmill.jobs.shown.console.bars(False) as bars:
        assert bars is None


def test_stages_add_up() -> None:
    meter = Meter()
    with meter.stage("fit"):
        pass
    with meter.stage("fit"):
        pass
    assert list(meter.seconds) == ["fit"]


def test_the_peak_is_that_of_this_process() -> None:
    forget_peak()
    before = peak_memory()
    block = bytearray(64 << 20)
    assert peak_memory() > before + (48 << 20)
    del block


@pytest.mark.parametrize(
    ("duration", "text"), [(0.0123, "12 ms"), (5.25, "5.2 s"), (125, "2 min 5 s"), (7320, "2 h 2 min")]
)
def test_durations(duration: float, text: str) -> None:
    assert words.seconds(duration) == text


def test_numbers() -> None:
    assert [words.number(v) for v in (None, float("nan"), 3.0, 1234567.0, 0.000123456)] == [
        "–",
        "–",
        "3",
        "1,234,567",
        "0.00012346",
    ]
    assert words.percent(0.12345) == "12.35 %"


def test_sparklines() -> None:
    assert show.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert show.sparkline([]) == ""
    assert len(show.sparkline([0.1] * 500)) == 60


def test_json_has_no_nan() -> None:
    assert finite({"a": [float("nan"), 1.0], "b": float("inf"), "c": "x"}) == {"a": [None, 1.0], "b": None, "c": "x"}
    assert MASK == "***"
