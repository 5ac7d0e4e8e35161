"""Scale: the real Dask scheduler and merge tree over files that exist as metadata only, beside what ``explain`` says.

    python -m benchmarks.scale                              # 100,000 files on 50 workers of this process
    python -m benchmarks.scale --files 10000 --workers 16
    python -m benchmarks.scale --bandwidth 100              # a real fit of workers in network namespaces

A file is a name, a digest and 48,828 rows of 512 float32 numbers (100 MB; 100,000 of them are 10 TB). Workers read
nothing: the kernel gives each file's number to a pass whose states say which files they hold, and which refuses to
merge any but neighbours. So all is real but reading and arithmetic: descriptions, scheduling, merging, and what comes
back. States are ``--state`` bytes large.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import CACHE, feature_names
from eigenmill.reduce import PCA, Dataset, Sink
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.load import Load, fold_load
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.plan import explain
from eigenmill.reduce.rows.blocks import Block, Workspace
from eigenmill.reduce.sources.catalog import FileInfo, Files, Fragment, RowGroups
from eigenmill.reduce.sources.parquet import ParquetSource
from eigenmill.reduce.storage.digest import tagged

FEATURES, ROWS, FILES, WORKERS = 512, 48_828, 100_000, 1_000
FILE_BYTES = ROWS * FEATURES * 4


@dataclass(frozen=True)
class Unread(ParquetSource):
    """Files that are not there: a block holds the number of its file and nothing else."""

    def blocks(self, fragment: Fragment, height: int, workspace: Workspace, *, carry: bool) -> Iterator[Block]:
        yield Block(np.full((1, 1), int(self.files[fragment.file].path[5:13]), np.float64), workspace=workspace)


@tagged("Run", "first last burden")
@dataclass
class Run:
    """Files ``first`` to ``last``, and a burden."""

    first: int
    last: int
    burden: npt.NDArray[np.float64]


@tagged("NullPass", "state")
@dataclass(frozen=True)
class NullPass(Pass[Run, Run]):
    """Does nothing but keep account of files, in states of ``state`` bytes."""

    state: int

    def start(self) -> Run:
        return Run(-1, -1, np.zeros(self.state // 8))

    def fold(self, state: Run, block: Block) -> Run:
        return self.merge(state, Run(*2 * (int(block.dense(np.dtype(np.float64))[0, 0]),), state.burden))

    def merge(self, a: Run, b: Run) -> Run:
        if a.last >= 0 and b.first != a.last + 1:
            raise ValueError(f"expected file {a.last + 1} after {a.last}, found {b.first}; the tree is out of order")
        return Run(b.first if a.first < 0 else a.first, b.last, a.burden)

    def finalize(self, state: Run) -> Run:
        return state

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        return self.state, 0, self.state

    def state_type(self) -> type[Run]:
        return Run


def unread(files: int, cache: Path = CACHE, groups: int = 1) -> Dataset:
    """A data set of so many files of which only the metadata exists; in ``groups`` of 9,000 rows, if several."""
    cache.mkdir(parents=True, exist_ok=True)
    model = cache / "scale-model.parquet"
    columns = {name: pa.array(np.zeros(2, np.float32)) for name in feature_names(FEATURES)}
    pq.write_table(pa.table(columns), model)
    data = Dataset.from_parquet(model)
    source: Any = data.source
    rows = RowGroups.of([ROWS]) if groups == 1 else RowGroups((9_000,), (groups,))
    infos = Files(
        FileInfo(f"part-{i:08d}.parquet", FILE_BYTES, hashlib.sha256(b"%d" % i).hexdigest()[:32], rows, FILE_BYTES)
        for i in range(files)
    )
    made = {name: getattr(source, name) for name in source.__dataclass_fields__} | {"files": infos}
    return replace(data, source=Unread(**made))


@dataclass
class Counted:
    """What the scheduler and the workers have done."""

    nodes: int = 0
    tasks: int = 0
    described: int = 0
    moved: int = 0
    seconds: float = 0.0
    names: dict[str, int] = field(default_factory=dict)


def simulate(data: Dataset, state: int, workers: int) -> Counted:
    """Run the null pass on a real scheduler with so many workers in this process."""
    import pickle

    import dask
    from distributed import Client, LocalCluster
    from distributed.diagnostics.plugin import SchedulerPlugin

    from eigenmill.reduce import connect

    counted = Counted()

    class Count(SchedulerPlugin):  # type: ignore[misc]
        def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
            if finish == "memory" and str(key).startswith("eigenmill-"):
                counted.nodes += 1
                name = str(key).split("-")[1]
                counted.names[name] = counted.names.get(name, 0) + 1

        def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
            counted.described += sum(len(pickle.dumps(t.run_spec)) for t in scheduler.tasks.values())

    with (
        dask.config.set({"distributed.worker.memory.spill": False, "distributed.admin.low-level-log-length": 1 << 20}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit="8GiB",
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.scheduler.add_plugin(Count(), name="count")
        engine = connect("dask", client)
        began = time.perf_counter()
        found: Run = engine.run(NullPass(state), data)
        counted.seconds = time.perf_counter() - began
        counted.moved = sum(
            transfer["total"] for worker in cluster.workers.values() for transfer in worker.transfer_incoming_log
        )
    if (found.first, found.last) != (0, len(data.source.files) - 1):
        raise RuntimeError(f"expected all {len(data.source.files)} files, found {found.first} to {found.last}")
    counted.tasks = counted.names["fold"]
    return counted


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks scale", description="tasks and bytes: predicted and measured")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--workers", type=int, default=50, help="workers of the simulation")
    parser.add_argument("--state", type=int, default=64 << 10, help="bytes of one state")
    parser.add_argument("--bandwidth", type=float, help="instead: a real fit over links of so many Mbit/s (needs root)")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    if args.bandwidth is not None:
        from benchmarks import links

        found = links.compare(args.bandwidth, cache=args.cache)
        (args.cache / "links.json").write_text(json.dumps(found, default=list))
        return
    data = unread(args.files, args.cache)
    plan = explain(PCA(50, scale=True), data, Cluster("dask", WORKERS, 1, 4 << 30), Sink("unwritten"))
    print(f"{plan}\n")
    for scan in plan.scans:
        print(f"{scan.name} on {WORKERS} workers, about {scan.seconds:.0f} s: {scan.load}")
    predicted: Load = fold_load(NullPass(args.state), data, Cluster("dask", args.workers), 0)
    counted = simulate(data, args.state, args.workers)
    print(f"\n| {args.files:,} files, {args.workers} workers, {args.state} bytes a state | predicted | measured |")
    print("|---|---:|---:|")
    rows = [
        ("tasks that read", predicted.tasks, counted.tasks),
        ("all tasks", predicted.tasks + predicted.merges, counted.nodes),
        ("descriptions, bytes", predicted.described_bytes, counted.described),
        ("states between workers, bytes", predicted.moved_bytes, counted.moved),
    ]
    for what, expected, found in rows:
        print(f"| {what} | {expected:,} | {found:,} |")
    print(f"| seconds (scheduler; all in one process) | {predicted.scheduler_seconds:.1f} | {counted.seconds:.1f} |")
    target = args.cache / "scale.json"
    target.write_text(json.dumps({"plan": plan.as_json(), "predicted": vars(predicted), "measured": vars(counted)}))
    print(f"written: {target}")


if __name__ == "__main__":
    main()
