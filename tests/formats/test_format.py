"""Each constant of the format, changed, is noticed in what comes out: in a cut, a height, a choice, a file.

Every case runs the program under a format and tells what it has done, in whole numbers or texts that no machine
changes. Under format 1 that is a literal; under the other value of the case it is something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from eigenmill.reduce import PCA, ConfigError, DataError, Dataset, Sink, StandardScaler, connect
from eigenmill.reduce.engines.base import plan_leaves
from eigenmill.reduce.estimators import panels, sketch, spectrum
from eigenmill.reduce.estimators.solver import Shape, choose
from eigenmill.reduce.format import FORMAT_1, Format
from eigenmill.reduce.output import encode, partition
from eigenmill.reduce.passes.gram import GramPass
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.passes.thin import thin_rows
from eigenmill.reduce.rows.blocks import Block, Workspace
from eigenmill.reduce.rows.cleaning import Cleaning
from eigenmill.reduce.rows.transforms import ModelInput, Project, applied
from eigenmill.reduce.sources.catalog import FileInfo, Files, RowGroups
from eigenmill.reduce.sources.discovery import Store
from eigenmill.reduce.sources.layouts import Vector
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.sources.parquet import ParquetSource
from tests.formats.spectrum_cases import (
    after_deflation,
    bounds_by_start,
    bounds_by_trace,
    cholesky,
    kept_blocks,
    left_out,
    left_over,
    parted_again,
    rank,
    refined_svd,
    refined_widths,
    signs,
    single,
    solved,
    starts,
)

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Case:
    """What is told under format 1, and another value under which something else is told."""

    other: int | float
    told: Callable[[Format, Path], Any]
    literal: Any


# Cuts and heights


def unread(format: Format, d: int, rows: int, files: int = 2, group: int = 100_000) -> Matrix:
    """Files of which only the metadata exist."""
    groups = RowGroups.of([group] * (rows // group) + ([rows % group] if rows % group else []))
    infos = Files(FileInfo(f"{i}.parquet", 9, f"{i:032x}", groups, 9) for i in range(files))
    return Dataset(_source(infos, Vector("v", d, F32), format))


def _source(files: Files, layout: Vector, format: Format) -> ParquetSource:
    return ParquetSource(store=Store(None), root="", files=files, layout=layout, carried=pa.schema([]), format=format)


def cut(d: int, rows: int, group: int) -> Callable[[Format, Path], Any]:
    """Rows of an array's fragments, of those of a file of row groups, and of the leaves of two such files."""

    def told(format: Format, place: Path) -> Any:
        array = Dataset.from_numpy(np.broadcast_to(np.float32(0), (rows, d)), format=format)
        data = unread(format, d, rows, group=group)
        file = [f.rows for f in data.fragments if f.file == 0]
        return [f.rows for f in array.fragments], file, [leaf.rows for leaf in plan_leaves(data)]

    return told


def heights(d: int, rows: int) -> Callable[[Format, Path], Any]:
    def told(format: Format, place: Path) -> Any:
        data = Dataset.from_numpy(np.broadcast_to(np.float32(0), (rows, d)), format=format)
        return [b.rows for f in data.fragments for b in data.blocks(f, Workspace())]

    return told


def sparse_heights(format: Format, place: Path) -> Any:
    data = Dataset.from_numpy(sparse.csr_array((20_000, 100_000)), format=format)
    names = data.feature_names
    pass_ = sketch.SketchPass(Intake(names, F64, data.cleaning.resolve(names), format), np.zeros((100_000, 1)))
    return pass_.sparse_height, heights(3, 20_000)(format, place)


def widened(format: Format, place: Path) -> Any:
    """Heights in which a block of 8,192 rows of two columns comes to have 4,096 and 5,000."""
    block, input = Block(np.zeros((8192, 2))), Cleaning().resolve(["a", "b"])

    class Noted(Project):
        def __call__(self, block: Block) -> Block:
            return block

    def step(k: int) -> Noted:
        names = [f"z{j}" for j in range(k)]
        model = ModelInput(["a", "b"], np.dtype(np.float64), input, format)
        return Noted(model, np.zeros(2), np.zeros((2, 1)), names)

    return [[piece.rows for piece in applied(block, [step(k)], format)] for k in (4096, 5000)]


def long_texts(format: Format, place: Path) -> Any:
    """Heights of blocks that carry texts of 100,000 bytes."""
    table = pa.table({"x": np.zeros(1024), "text": pa.array(["a" * 100_000]).take(pa.array(np.zeros(1024, np.int64)))})
    pq.write_table(table, place / "texts.parquet")
    data = Dataset.from_parquet(place / "texts.parquet", columns=["x"], carry=["text"], format=format)
    return [block.rows for block in data.blocks(data.fragments[0], Workspace(), carry=True)]


def table_digest(format: Format, place: Path) -> Any:
    """Whether the digest of a table is that of streams of 65,536 rows."""
    table, h = pa.table({"a": np.arange(70_000.0)}), hashlib.blake2b(digest_size=16)
    for a, b in ((0, 65_536), (65_536, 70_000)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(pa.table({"a": np.arange(float(a), float(b))}))
        h.update(sink.getvalue())
    found: list[Any] = []
    data = Dataset.from_arrow(table, format=format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eigenmill.reduce.sources.tables.digest_of", lambda parts: found.extend(parts) or "")
        assert data.source.digest == ""
    return found[0] == h.hexdigest()


# Blocks and states


def pivot(format: Format, place: Path) -> Any:
    X = np.ones((512, 1))
    X[256:] = 257.0
    return StandardScaler().fit(Dataset.from_numpy(X, format=format)).quality_.pivot.tolist()


def product_of(size: float, dtype: Any) -> Callable[[Format, Path], Any]:
    """The precision of products of deviations of that size."""

    def told(format: Format, place: Path) -> Any:
        X = np.zeros((300, 1), dtype)
        X[299] = size
        intake = Intake(("x",), np.dtype(dtype), Cleaning().resolve(("x",)), format)
        try:
            taken = intake.take(Moments.empty(1), Block(X), squares=False)
        except DataError:
            return "refused"
        assert taken is not None
        return taken.y.dtype.name

    return told


def made_dense(format: Format, place: Path) -> Any:
    """For 1 to 4 entries among 16: whether a pass and a projection take sparse rows as they are."""
    names, told = tuple("abcd"), []
    policy = Cleaning().resolve(names)
    for entries in (1, 2, 3, 4):
        X = sparse.csr_array((np.ones(entries), np.arange(entries), [0] + [entries] * 4), shape=(4, 4))
        block = Block(X)
        project = Project(ModelInput(names, F64, policy, format), np.zeros(4), np.eye(4), names)
        thin = thin_rows(Intake(names, F64, policy, format), Moments.empty(4), block, squares=False) is not None
        told.append((thin, project.takes(block)))
    return told


def packed(format: Format, place: Path) -> Any:
    """Numbers of the lower half of a matrix of 1,100 columns: (512 x 512) + (512 x 1,024) + (76 x 1,100)."""
    names = tuple(map(str, range(1100)))
    return len(GramPass(Intake(names, F64, Cleaning().resolve(names), format)).start().products)


def dual_panels(format: Format, place: Path) -> Any:
    """Panels of columns in which the n x n Gram matrix is summed."""
    slices, real = [], spectrum.column_panels

    def spy(*given: Any) -> Any:
        for each in real(*given):
            slices.append((each.start, each.stop))
            yield each
        raise InterruptedError  # what is computed of them is not the question here

    X = np.zeros((20, 220_000), np.float32)
    X[np.arange(20), np.arange(20)] = 1.0
    data = Dataset.from_numpy(X, format=format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "column_panels", spy)
        with pytest.raises(InterruptedError):
            PCA(1, solver="dual").fit(data)
    return slices


def tall_panels(format: Format, place: Path) -> Any:
    """Panels of a tall matrix of 40,000 rows: the first two groups, how many there are, and how products are moved."""
    seen, moved, real, low_rank = [], [], panels.over_rows, sketch.add_low_rank

    def spy(rows: int, threads: int, work: Any, format: Format) -> Any:
        seen.append(real(rows, 1, lambda panel: (panel.start, panel.stop), format))
        return real(rows, threads, work, format)

    def move(target: Any, left: Any, right: Any, rows: int, *others: Any) -> None:
        moved.append(rows)
        low_rank(target, left, right, rows, *others)

    X = np.zeros((40, 40_000), np.float32)
    X[np.arange(40), np.arange(40)] = np.arange(1, 41)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "over_rows", spy)
        patch.setattr("eigenmill.reduce.passes.sketch.add_low_rank", move)
        PCA(1, solver="sketch", tol=None, max_scans=2).fit(Dataset.from_numpy(X, format=format))
    (first,) = {repr(each) for each in seen}
    groups = next(each for each in seen if repr(each) == first)
    return groups[:2], len(groups), set(moved)


# The choice of a solver


def last_sketch(d: int, k: int, density: float = 1.0) -> Callable[[Format, Path], Any]:
    """The largest number of rows, below 2^24, that are iterated on."""

    def told(format: Format, place: Path) -> Any:
        low, high = d, 1 << 24
        while high - low > 1:
            n = (low + high) // 2
            shape = Shape(n, d, int(n * d * density), density < 1, format)
            low, high = (n, high) if choose("auto", shape, k)[0] == "sketch" else (low, n)
        return low

    return told


def choices(*shapes: tuple[int, int]) -> Callable[[Format, Path], Any]:
    def told(format: Format, place: Path) -> Any:
        return [choose("auto", Shape.of(unread(format, d, n, 1), n), 1)[0] for n, d in shapes]

    return told


def refused_above(format: Format, place: Path) -> Any:
    """Whether all eigenvalues of 20,000 and 20,001 columns are to be had, and how leaves of 30,000 are cut."""
    told = []
    for d in (20_000, 20_001):
        try:
            told.append(choose("auto", Shape(10**6, d, 10**6 * d, False, format), None)[0])
        except ConfigError:
            told.append("refused")
    return told, cut(30_000, 30_000, 5_000)(format, place)


# Files


def parts(d: int, files: int) -> Callable[[Format, Path], Any]:
    """How many parts files of 1,000 rows become, and the rows of the first one."""

    def told(format: Format, place: Path) -> Any:
        found = Sink(place / "out").open(unread(format, d, 1000, files)).parts
        return len(found), found[0].rows

    return told


def groups_of(d: int, rows: int) -> Callable[[Format, Path], Any]:
    """Rows of the row groups of each file that is written."""

    def told(format: Format, place: Path) -> Any:
        X = np.zeros((rows, d), np.float32)
        data = Dataset.from_numpy(X, format=format)
        data.to_parquet(place / "out", engine=connect("local", workers=1), part_bytes=1 << 40)
        files = sorted((place / "out").rglob("*.parquet"))
        footers = [pq.read_metadata(file) for file in files]
        return [[f.row_group(i).num_rows for i in range(f.num_row_groups)] for f in footers]

    return told


def rounds(format: Format, place: Path) -> Any:
    """Rows of the files that a part of 33 blocks of 1,024 x 1,024 numbers in float32 makes, for one value."""
    names = [pa.field("key", pa.string())]
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1024, np.float32)), 1024), "key": ["k"]})
    data = Dataset.from_arrow(table, vector="v", carry="key", format=format)
    job = Sink(place / "out", partition_by="key", compression="none").open(data)
    block = Block(np.broadcast_to(np.float32(0), (1024, 1024)))
    block = replace(block, carried=pa.record_batch([["k"] * 1024], schema=pa.schema(names)))
    out = encode.PartFiles(job.filesystem, job.directory, job.encoding, job.parts[0])
    with partition.partitioned_part(out) as made:
        for _ in range(33):
            made.add(block)
    return [file.rows for file in out.written]


def compressed(format: Format, place: Path) -> Any:
    """Whether features take the bytes that level 1 gives them."""
    X = np.random.default_rng(0).integers(0, 9, (20_000, 4)).astype(np.float32)
    data = Dataset.from_numpy(X, format=format)
    data.to_parquet(place / "out", layout="columns", engine=connect("local", workers=1))
    (file,) = (place / "out").glob("*.parquet")
    written, table = pq.read_metadata(file), pq.read_table(file)
    pq.write_table(
        table, place / "own.parquet", compression="zstd", compression_level=1, use_dictionary=False,
        write_statistics=False, row_group_size=20_000,
    )  # fmt: skip
    own = pq.read_metadata(place / "own.parquet")
    return [
        written.row_group(0).column(j).total_compressed_size == own.row_group(0).column(j).total_compressed_size
        for j in range(4)
    ]


CASES: dict[str, Case] = {
    "version": Case(
        2, lambda format, _: Dataset.from_numpy(np.eye(2), format=format).digest, "39d8ef7a3ef6f567058d2a51b44d54ef"
    ),
    "leaf_bytes": Case(
        32 << 20,
        cut(50, 600_000, 60_000),
        (
            [167772, 167772, 167772, 96684],
            [120000, 120000, 120000, 120000, 120000],
            [240000, 240000, 240000, 240000, 240000],
        ),
    ),
    "leaf_rows_per_column": Case(
        3,
        cut(10_000, 50_000, 5_000),
        ([20000, 20000, 10000], [20000, 20000, 10000], [20000, 20000, 30000, 20000, 10000]),
    ),
    "wide": Case(
        40_000,
        refused_above,
        (
            ["gram", "refused"],
            ([7500] * 4, [5000] * 6, [10000] * 6),
        ),
    ),
    "wide_columns_per_row": Case(
        5, cut(40_000, 30_000, 1_500), ([10000, 10000, 10000], [9000, 9000, 9000, 3000], [18000, 12000, 18000, 12000])
    ),
    "block_bytes": Case(32 << 20, heights(2_000, 5_000), [4096, 98, 806]),
    "widened_bytes": Case(512 << 20, widened, [[8192], [1024] * 8]),
    "max_height": Case(4096, sparse_heights, (8192, [8192, 8192, 3616])),
    "min_height": Case(32, heights(600_000, 40), [16, 16, 8]),
    "digest_rows": Case(1 << 15, table_digest, True),
    "pivot_rows": Case(512, pivot, [1.0]),
    "far_single": Case(2.0**56, product_of(1.5 * 2.0**55, np.float32), "float64"),
    "far_double": Case(2.0**501, product_of(1.5 * 2.0**500, np.float64), "refused"),
    "dense_share": Case(1 / 4, made_dense, [(True, True), (True, True), (False, False), (False, False)]),
    "gram_panel": Case(256, packed, 870_032),
    "dual_bytes": Case(16 << 20, dual_panels, [(0, 209715), (209715, 220000)]),
    "panel_rows": Case(1024, tall_panels, ([[(0, 2048), (2048, 2500)], [(2500, 4548), (4548, 5000)]], 16, {2048})),
    "panel_groups": Case(8, tall_panels, ([[(0, 2048), (2048, 2500)], [(2500, 4548), (4548, 5000)]], 16, {2048})),
    "gram_always": Case(4_000, choices((6_000, 5_000), (6_000, 5_001)), ["gram", "sketch"]),
    "dual_numbers": Case(1 << 27, choices((1 << 12, 1 << 16), ((1 << 12) + 1, 1 << 16)), ["dual", "sketch"]),
    "usual_scans": Case(9, last_sketch(6_000, 60), 44776),
    "sparse_cost": Case(11, last_sketch(6_000, 100, 0.05), 85714),
    "gain": Case(5, last_sketch(6_000, 60), 44776),
    "usual_share": Case(6, last_sketch(6_000, 60), 44776),
    "extra_columns": Case(
        12,
        lambda format, place: (starts(format, place), last_sketch(6_000, 40)(format, place)),
        ([30, 100, 135], 359999),
    ),
    "start_share": Case(5, starts, [30, 100, 135]),
    "kept_share": Case(9, refined_widths(kept_blocks), [132]),
    "singular": Case(1e-5, cholesky, [1.0, -1.0]),
    "deflate": Case(20 * EPS, after_deflation, 1),
    "faint": Case(300, parted_again, [1, 2]),
    "cutoff": Case(5e-9, left_out, "2e+08"),
    "chance": Case(
        1e-9, bounds_by_start, ["1.000000000e+02", "3.000145729e+01", "2.263519308e+01", "7.933639441e+00", "inf"]
    ),
    "spare_columns": Case(
        5, bounds_by_start, ["1.000000000e+02", "3.000145729e+01", "2.263519308e+01", "7.933639441e+00", "inf"]
    ),
    "trace_points": Case(7, bounds_by_trace, "1.556601836e+03"),
    "start_points": Case(
        500, bounds_by_start, ["1.000000000e+02", "3.000145729e+01", "2.263519308e+01", "7.933639441e+00", "inf"]
    ),
    "noise": Case(9.0, rank([1.0, 17 * EPS, 15 * EPS, 0.0]), 2),
    "gross_noise": Case(5.0, rank([1.0, 1.2e-10, 1.0e-10, 0.0], 1e6), 2),
    "sum_noise": Case(5.0, left_over, [True, False]),
    "single_noise": Case(5.0, single, "0x1.0000000000000p-21"),
    "tie": Case(1e-7, signs, [1.0, -1.0]),
    "subset_share": Case(2, solved, [33, 100]),
    "refine_above": Case(2e4, refined_widths(refined_svd), [2, 4]),
    "part_least": Case(4 << 20, parts(100, 100), (5, 21000)),
    "part_most": Case(64 << 20, parts(1_000, 2_200), (65, 34000)),
    "parts": Case(32, parts(1_000, 1_000), (63, 16000)),
    "group_bytes": Case(4 << 20, groups_of(512, 5_000), [[4096, 904]]),
    "carried_bytes": Case(32 << 20, long_texts, [704, 320]),
    "group_rows": Case(1 << 19, groups_of(1, 1_000_100), [[1_000_000, 100]]),
    "partition_bytes": Case(64 << 20, rounds, [32768, 1024]),
    "zstd_level": Case(9, compressed, [True] * 4),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Format)])
def test_each_constant_is_noticed(name: str, tmp_path: Path) -> None:
    case = CASES[name]  # a new constant needs one
    assert case.other != getattr(FORMAT_1, name)
    (tmp_path / "first").mkdir()
    (tmp_path / "other").mkdir()
    assert case.told(FORMAT_1, tmp_path / "first") == case.literal
    assert case.told(replace(FORMAT_1, **{name: case.other}), tmp_path / "other") != case.literal


def test_every_constant_has_a_case() -> None:
    assert list(CASES) == [field.name for field in fields(Format)]
