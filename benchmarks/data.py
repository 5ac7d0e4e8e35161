"""The benchmark's data: n x d float32 in Parquet, low rank plus noise, each column its own mean and scale.

    python -m benchmarks.data --rows 400000 --layout scalar --layout list

Row i is the same, number for number, in every layout, row group size and file size. Rows come in chunks: the 64
latent factors are fresh for each chunk; the noise is a fixed pool, rotated by one more column each time it is used
up, so that 20 GB cost little more than writing them. A complete data set (``_COMPLETE``) is not made again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

CACHE = Path("build/bench")
LAYOUTS = ("scalar", "list", "fixed")
SEED = 20240601
RANK = 64
CHUNK = 5_000
POOL = 50_000

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spec:
    """What to make: ``scalar`` columns f000..., or one column x of type ``list`` or ``fixed``-size list."""

    rows: int = 400_000
    features: int = 512
    layout: str = "scalar"
    row_group: int = 25_000
    groups_per_file: int = 4

    @property
    def name(self) -> str:
        return f"{self.layout}-{self.rows}x{self.features}-g{self.row_group}x{self.groups_per_file}"

    @property
    def nbytes(self) -> int:
        """Decoded bytes of the matrix."""
        return self.rows * self.features * 4

    def schema(self) -> pa.Schema:
        if self.layout == "scalar":
            features = [pa.field(name, pa.float32()) for name in feature_names(self.features)]
        else:
            size = self.features if self.layout == "fixed" else -1
            features = [pa.field("x", pa.list_(pa.float32(), size))]
        return pa.schema([pa.field("id", pa.int64()), *features])


def feature_names(features: int) -> list[str]:
    """Names of the scalar columns."""
    return [f"f{j:03d}" for j in range(features)]


class Rows:
    """The infinite matrix whose first n rows are the data set."""

    def __init__(self, features: int) -> None:
        rng = np.random.default_rng(SEED)
        weights = rng.standard_normal((RANK, features), dtype=np.float32)
        self.loadings = weights / np.sqrt(np.arange(1, RANK + 1, dtype=np.float32))[:, None]
        self.scale = np.exp(rng.uniform(-2, 2, features)).astype(np.float32)
        self.mean = (self.scale * rng.uniform(-5, 5, features)).astype(np.float32)
        self.noise = rng.standard_normal((POOL, features), dtype=np.float32)
        self.noise *= np.float32(0.5)

    def chunk(self, index: int) -> F32:
        """Rows ``index * CHUNK`` to ``(index + 1) * CHUNK``."""
        rng = np.random.default_rng((SEED, index))
        X: F32 = rng.standard_normal((CHUNK, RANK), dtype=np.float32) @ self.loadings
        start, turn = index * CHUNK % POOL, 1 + index * CHUNK // POOL
        X += np.roll(self.noise[start : start + CHUNK], turn, axis=1) if turn > 1 else self.noise[start : start + CHUNK]
        X *= self.scale
        X += self.mean
        return X

    def groups(self, rows: int, height: int) -> Iterator[tuple[int, F32]]:
        """(first row, rows) of consecutive row groups of ``height`` rows, in one reused array."""
        group = np.empty((min(height, rows), len(self.mean)), np.float32)
        index, chunk = -1, np.empty((0, 0), np.float32)
        for start in range(0, rows, height):
            stop = min(start + height, rows)
            at = start
            while at < stop:
                if at // CHUNK != index:
                    index = at // CHUNK
                    chunk = self.chunk(index)
                end = min(stop, (index + 1) * CHUNK)
                group[at - start : end - start] = chunk[at - index * CHUNK : end - index * CHUNK]
                at = end
            yield start, group[: stop - start]


def table(spec: Spec, start: int, X: F32) -> pa.Table:
    """Rows from ``start`` on as a table of the wanted layout."""
    ids = pa.array(np.arange(start, start + len(X), dtype=np.int64))
    if spec.layout == "scalar":
        columns = [pa.array(column) for column in np.ascontiguousarray(X.T)]
    else:
        flat = pa.array(X.reshape(-1))
        if spec.layout == "fixed":
            columns = [pa.FixedSizeListArray.from_arrays(flat, spec.features)]
        else:
            offsets = pa.array(np.arange(len(X) + 1, dtype=np.int32) * np.int32(spec.features))
            columns = [pa.ListArray.from_arrays(offsets, flat)]
    return pa.Table.from_arrays([ids, *columns], schema=spec.schema())


def make(spec: Spec, cache: Path = CACHE) -> Path:
    """The directory with the data set, made if it is not there yet."""
    if spec.layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, found {spec.layout!r}")
    path = cache / spec.name
    if (path / "_COMPLETE").exists():
        return path
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    writer: pq.ParquetWriter | None = None
    for k, (start, X) in enumerate(Rows(spec.features).groups(spec.rows, spec.row_group)):
        if k % spec.groups_per_file == 0:
            if writer is not None:
                writer.close()
            file = path / f"part-{k // spec.groups_per_file:05d}.parquet"
            writer = pq.ParquetWriter(file, spec.schema(), compression="snappy", use_dictionary=False)
        assert writer is not None
        writer.write_table(table(spec, start, X), row_group_size=spec.row_group)
    if writer is not None:
        writer.close()
    (path / "_COMPLETE").touch()
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="make the benchmark's data")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--row-group", type=int, default=25_000)
    parser.add_argument("--groups-per-file", type=int, default=4)
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="default: scalar and list")
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    for layout in args.layout or ["scalar", "list"]:
        spec = Spec(args.rows, args.features, layout, args.row_group, args.groups_per_file)
        print(make(spec, args.cache))


if __name__ == "__main__":
    main()
