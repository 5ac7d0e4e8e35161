"""Memory of a Spark driver against the number of files: its Python process, and the heap of its JVM.

    python -m benchmarks spark_memory                     # 1,000 and 20,000 files
    python -m benchmarks spark_memory --files 100000

The files and the kernel are those of ``benchmarks.scale``: metadata only, states of 1 KiB, everything else is real.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import CACHE
from benchmarks.scale import NullPass, unread
from eigenmill.reduce import connect

STATE = 1 << 10
LISTEN = 1.0
"""Seconds between two looks at the heap, each after a collection."""


def heap_peak(jvm: Any, stop: threading.Event, found: list[int]) -> None:
    """The bytes alive in the heap, again and again until ``stop``."""
    bean = jvm.java.lang.management.ManagementFactory.getMemoryMXBean()
    while True:
        bean.gc()
        found.append(bean.getHeapMemoryUsage().getUsed())
        if stop.wait(LISTEN):
            return


def measured(spark: Any, files: int, cache: Path) -> dict[str, float]:
    """Bytes of a scan of so many files: the data set, the peak of what Python adds, and the heap's growth."""
    tracemalloc.start()
    data = unread(files, cache)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    heap, stop = list[int](), threading.Event()
    watch = threading.Thread(target=heap_peak, args=(spark._jvm, stop, heap))
    watch.start()
    last = connect("spark", spark).run(NullPass(STATE), data).last
    stop.set()
    watch.join()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if last + 1 != files:
        raise RuntimeError(f"expected {files} files in the total, found {last + 1}")
    return {"data": held, "scan": peak - held, "heap": max(heap) - heap[0]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks spark_memory", description="memory of a Spark driver")
    parser.add_argument("--files", type=int, action="append", help="default: 1,000 and 20,000")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    from benchmarks.spark import started

    spark = started()
    measured(spark, 100, args.cache)  # what the first job loads is not counted
    print("| files | data set, B a file | scan at its peak, B a file | more in the JVM's heap, MB |")
    print("|---:|---:|---:|---:|")
    for files in args.files or (1_000, 20_000):
        found = measured(spark, files, args.cache)
        each = [found[name] / files for name in ("data", "scan")]
        print(f"| {files:,} | {each[0]:.0f} | {each[1]:.0f} | {found['heap'] / 1e6:.1f} |", flush=True)
    spark.stop()


if __name__ == "__main__":
    # Python workers find this package where it lies.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [os.path.join(os.getcwd(), "src"), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    )
    main(sys.argv[1:])
