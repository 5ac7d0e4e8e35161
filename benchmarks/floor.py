"""The floor: standardize + PCA of Parquet files in two scans, and nothing else.

It checks nothing, cleans nothing, plans nothing, resumes nothing; it is as fast as pyarrow and
numpy let us be. Choices that were measured:

- row groups are the unit of work, N threads take them from one queue, BLAS has one thread each;
- ``iter_batches`` in blocks of 8,192 rows from memory-mapped files, without Arrow's threads or read-ahead;
- one buffer per thread for the whole scan; the pivot is subtracted while the block is copied into it;
- scalar columns become a (d, h) buffer, rows of lists (h, d): both contiguous, and numpy hands ``B @ B.T`` /
  ``B.T @ B`` to BLAS as a symmetric product (syrk), which costs half; 512 columns are gathered by one
  ``to_tensor`` call, without the interpreter's lock: 3 to 7 % faster (fit) than a loop over columns;
- products in float32, sums over blocks in float64; means and deviations come from the same scan, scaling is
  folded into the d x d matrix;
- the second scan subtracts the pivot in the same way and multiplies by the scaled components.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.linalg
from threadpoolctl import threadpool_limits

BLOCK = 8192

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """One row group: ``index`` counts over all files."""

    index: int
    file: Path
    group: int
    rows: int
    metadata: pq.FileMetaData


@dataclass(frozen=True)
class Input:
    """Units of a directory, names of the feature columns, and whether they are d scalars or one list."""

    units: tuple[Unit, ...]
    columns: tuple[str, ...]
    scalar: bool

    @classmethod
    def open(cls, path: Path) -> Input:
        units: list[Unit] = []
        for file in sorted(path.glob("*.parquet")):
            metadata = pq.read_metadata(file, memory_map=True)
            for group in range(metadata.num_row_groups):
                units.append(Unit(len(units), file, group, metadata.row_group(group).num_rows, metadata))
        columns = tuple(name for name in units[0].metadata.schema.to_arrow_schema().names if name != "id")
        return cls(tuple(units), columns, columns != ("x",))

    def decode(self, unit: Unit, *extra: str) -> Iterator[pa.RecordBatch]:
        """The unit's batches; an ``extra`` column is the first."""
        file = pq.ParquetFile(unit.file, metadata=unit.metadata, memory_map=True, pre_buffer=False)
        return file.iter_batches(
            batch_size=BLOCK, row_groups=[unit.group], columns=[*extra, *self.columns], use_threads=False
        )

    def pivot(self) -> F32:
        """The first row."""
        batch = next(self.decode(self.units[0]))
        if self.scalar:
            return np.array([column[0].as_py() for column in batch.columns], np.float32)
        return np.array(batch.column("x")[0].as_py(), np.float32)


class Buffer:
    """One thread's block: ``fill`` gives rows - pivot, (d, h) for scalar columns and (h, d) for lists."""

    def __init__(self, scalar: bool, pivot: F32) -> None:
        self.scalar, self.pivot, d = scalar, pivot, len(pivot)
        self.array = np.empty((d, BLOCK) if scalar else (BLOCK, d), np.float32)

    def fill(self, batch: pa.RecordBatch) -> F32:
        h = batch.num_rows
        if self.scalar:
            block = self.array[:, :h]
            if batch.num_columns > len(block):
                batch = batch.select(range(1, batch.num_columns))
            np.subtract(batch.to_tensor(row_major=False).to_numpy().T, self.pivot[:, None], out=block)
        else:
            block = self.array[:h]
            flat = batch.column("x").flatten().to_numpy()
            np.subtract(flat.reshape(h, -1), self.pivot, out=block)
        return block


class Gram:
    """Sums over blocks of one thread: n, sum of (x - pivot), cross product of (x - pivot)."""

    def __init__(self, scalar: bool, pivot: F32) -> None:
        d = len(pivot)
        self.scalar, self.buffer = scalar, Buffer(scalar, pivot)
        self.product = np.empty((d, d), np.float32)
        self.ones = np.ones(BLOCK, np.float32)
        self.n, self.sum, self.cross = 0, np.zeros(d), np.zeros((d, d))

    def fold(self, batch: pa.RecordBatch) -> None:
        self.add(self.buffer.fill(batch), batch.num_rows)

    def add(self, block: F32, h: int) -> None:
        if self.scalar:
            np.matmul(block, block.T, out=self.product)
            self.sum += block @ self.ones[:h]
        else:
            np.matmul(block.T, block, out=self.product)
            self.sum += self.ones[:h] @ block
        self.cross += self.product
        self.n += h


class Projection:
    """One thread's second scan: features of a unit, in one reused array."""

    def __init__(self, scalar: bool, pivot: F32, matrix: F32, offset: F32, rows: int) -> None:
        self.scalar, self.buffer, self.matrix, self.offset = scalar, Buffer(scalar, pivot), matrix, offset
        self.features = np.empty((rows, matrix.shape[1]), np.float32)

    def fold(self, batch: pa.RecordBatch, row: int) -> None:
        self.project(self.buffer.fill(batch), row, batch.num_rows)

    def project(self, block: F32, row: int, h: int) -> None:
        out = self.features[row : row + h]
        np.matmul(block.T if self.scalar else block, self.matrix, out=out)
        out -= self.offset


@dataclass(frozen=True)
class Model:
    """``features = (x - pivot) @ matrix - offset``."""

    variance: F64
    matrix: F32
    offset: F32


def solve(n: int, total: F64, cross: F64, k: int) -> Model:
    """Components of the standardized data, from sums about the pivot."""
    shift = total / n
    centred = cross - n * np.outer(shift, shift)
    scale = np.sqrt(np.diag(centred) / n)
    d = len(shift)
    values, vectors = scipy.linalg.eigh(
        centred / np.outer(scale, scale), subset_by_index=(d - k, d - 1), overwrite_a=True, check_finite=False
    )
    matrix = vectors[:, ::-1] / scale[:, None]
    return Model(values[::-1] / (n - 1), matrix.astype(np.float32), (shift @ matrix).astype(np.float32))


def drain(
    units: Sequence[Unit], workers: int, start: Callable[[], Any], fold: Callable[[Any, Unit], None]
) -> list[Any]:
    """Each of ``workers`` threads starts a state and folds units into it until none is left."""
    queue: SimpleQueue[Unit] = SimpleQueue()
    for unit in units:
        queue.put(unit)

    def work() -> Any:
        state = start()
        while True:
            try:
                unit = queue.get_nowait()
            except Empty:
                return state
            fold(state, unit)

    if workers == 1:
        return [work()]
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(workers)]]


def write_part(path: Path, ids: Sequence[pa.Array], features: F32) -> None:
    """One part: id and a fixed-size-list column, zstd."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
    part = pa.table({"id": pa.chunked_array(ids), "features": lists})
    pq.write_table(
        part,
        path,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        row_group_size=len(features),
    )


def fit(data: Input, pivot: F32, k: int, workers: int) -> Model:
    """The first scan."""

    def fold(state: Gram, unit: Unit) -> None:
        for batch in data.decode(unit):
            state.fold(batch)

    first, *others = drain(data.units, workers, lambda: Gram(data.scalar, pivot), fold)
    for other in others:
        first.n += other.n
        first.sum += other.sum
        first.cross += other.cross
    return solve(first.n, first.sum, first.cross, k)


def write(data: Input, pivot: F32, model: Model, workers: int, out: Path) -> None:
    """The second scan."""
    out.mkdir(parents=True)
    tallest = max(unit.rows for unit in data.units)

    def fold(state: Projection, unit: Unit) -> None:
        row, ids = 0, []
        for batch in data.decode(unit, "id"):
            state.fold(batch, row)
            ids.append(batch.column("id"))
            row += batch.num_rows
        write_part(out / f"part-{unit.index:05d}.parquet", ids, state.features[:row])

    def start() -> Projection:
        return Projection(data.scalar, pivot, model.matrix, model.offset, tallest)

    drain(data.units, workers, start, fold)


def run(path: Path, out: Path, *, workers: int = 2, components: int = 50) -> dict[str, Any]:
    """The whole job. Seconds of the fit, of the whole, and the leading variances."""
    with threadpool_limits(1, "blas"):
        began = time.perf_counter()
        data = Input.open(path)
        pivot = data.pivot()
        model = fit(data, pivot, components, workers)
        fitted = time.perf_counter()
        write(data, pivot, model, workers, out)
        ended = time.perf_counter()
    return {"fit": fitted - began, "seconds": ended - began, "variance": model.variance.tolist()}


def main(argv: Sequence[str] | None = None) -> None:
    from benchmarks.measure import temporary

    parser = argparse.ArgumentParser(description="the floor alone")
    parser.add_argument("path", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args(argv)
    for _ in range(args.repeat):
        with temporary() as out:
            result = run(args.path, out / "features", workers=args.workers)
        print(f"fit {result['fit']:.2f} s, whole {result['seconds']:.2f} s")


if __name__ == "__main__":
    main()
