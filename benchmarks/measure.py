"""One case in one fresh process: seconds inside it, and peak memory seen from outside.

``measure("floor", spec, workers=2)`` starts ``python -m benchmarks.measure``. The child runs the job once on
2,000 rows (imports and first-use costs of every side are paid there), then on the clock. The parent follows
``VmHWM`` in ``/proc``: unlike ``ru_maxrss`` it does not inherit the size of the process that started it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.data import CACHE, Spec

MB = 1 << 20
POLL = 0.05
RESULT = "benchmark result: "


class CaseError(RuntimeError):
    """The child failed; the message is the end of what it printed."""


@contextmanager
def temporary() -> Iterator[Path]:
    """A directory for one run's output, on the same disk as the data."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="out-", dir=CACHE))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def peak(pid: int | str = "self") -> int:
    """Largest resident set of a process so far, in bytes; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def measure(case: str, spec: Spec, *, cache: Path = CACHE, **options: Any) -> dict[str, Any]:
    """Run ``case`` on a data set that is already made.

    Adds to the case's own result: ``cpu`` (s, clocked job), ``process`` (s, all of it), ``rss`` and ``written``
    (bytes), ``rows`` (in the output).
    """
    request = {"case": case, "cache": str(cache), "spec": vars(spec), "options": options}
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measure", json.dumps(request)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        rss = 0
        while child.poll() is None:
            rss = max(rss, peak(child.pid))
            time.sleep(POLL)
        elapsed = time.perf_counter() - began
        log.seek(0)
        printed = log.read()
    lines = [line for line in printed.splitlines() if line.startswith(RESULT)]
    if child.returncode or not lines:
        raise CaseError(f"{case} on {spec.name}: exit code {child.returncode}\n{printed[-4000:]}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT))
    result["process"] = elapsed
    result["rss"] = max(rss, result["rss"])
    return result


def case(name: str) -> Any:
    """The function ``(path, out, **options) -> result`` of a case."""
    if name == "floor":
        from benchmarks import floor

        return floor.run
    if name == "eigenmill":
        from benchmarks import mill

        return mill.run
    from benchmarks import peers

    return peers.CASES[name]


def child(request: dict[str, Any]) -> dict[str, Any]:
    run, cache, spec = case(request["case"]), Path(request["cache"]), Spec(**request["spec"])
    with temporary() as out:
        run(cache / warm_up(spec).name, out / "warm", **request["options"])
        began = time.process_time()
        result: dict[str, Any] = run(cache / spec.name, out / "features", **request["options"])
        result["cpu"] = time.process_time() - began
        parts = sorted((out / "features").rglob("*.parquet"))
        result["rows"] = sum(pq.read_metadata(part).num_rows for part in parts)
        result["written"] = sum(part.stat().st_size for part in parts)
    result["rss"] = peak()
    return result


def warm_up(spec: Spec) -> Spec:
    """The small data set of the first, unmeasured run."""
    return replace(spec, rows=2_000, row_group=1_000, groups_per_file=2)


if __name__ == "__main__":
    print(RESULT + json.dumps(child(json.loads(sys.argv[1]))))
