"""References: what the eigenmill of commit ba05dba writes, made by a kept wheel of it.

``make goldens`` at the top of the repository, which is ``python -P tests/golden/make.py``, makes all of them again::

    ba05dba/eigenmill-0.1.0-py3-none-any.whl   kept; its packages are the top-level `reduce`, `compress` and `jobs`
    ba05dba/inputs/                            kept: sizes and digests of input files are part of keys
    ba05dba/ROOM.tar.xz                        the references of one room: a function below
    ba05dba/versions.json                      for each room, what its bytes depend on: see :func:`versions`

Without a change of machine or versions the same files come out, to the byte. ``make.py inputs`` makes the inputs
again; all references must follow. ``make.py ROOM DIRECTORY`` runs in a process that imports the unpacked wheel
(``PYTHONPATH``), and fills a directory with a room: tests call it where this machine's versions are others.

A room is written by the public interface only, so that today's code can be asked to write it as well, and runs in its
directory, in which ``inputs`` is a link. A saved state holds full paths of input files: under ``HERE`` they are the
same everywhere.
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

KEPT = Path(__file__).parent / "ba05dba"
WHEEL = KEPT / "eigenmill-0.1.0-py3-none-any.whl"
INPUTS = KEPT / "inputs"
HERE = "/proc/self/cwd"
"""The working directory as an absolute path that is the same for everybody."""


# Inputs

D, ROWS, SMALL = 6, 60, "abcde"
"""Columns, rows of each of the small files, and their names."""
LONG_D, LONG_GROUP, LONG_ROWS = 16, 1 << 18, 7 << 18
"""The long files have three and a half leaves of 64 MiB, and compress well."""


def inputs() -> None:
    """The input files, from seeds."""
    shutil.rmtree(INPUTS, ignore_errors=True)
    for name in ("small", "long"):
        (INPUTS / name).mkdir(parents=True)
    for number, name in enumerate(SMALL):
        pq.write_table(small(number), INPUTS / f"small/{name}.parquet", row_group_size=ROWS // 2, compression="zstd")
    for number, (name, groups) in enumerate({"a": range(5), "b": range(5, 7)}.items()):
        table = pa.concat_tables([long(group) for group in groups])
        path = INPUTS / f"long/{name}.parquet"
        pq.write_table(table, path, row_group_size=LONG_GROUP, compression="zstd", write_statistics=bool(number))


def small(number: int) -> pa.Table:
    """Columns c*, the same with gaps g*, a list v, sparse pairs i and x, weights w, and columns to carry."""
    rng = np.random.default_rng([13, number])
    X = rng.standard_normal((ROWS, D)) @ rng.standard_normal((D, D)) * np.arange(1, D + 1) + 100 * number
    gaps = np.where(rng.random(X.shape) < 0.1, np.nan, X)
    S = np.where(rng.random((ROWS, 2 * D)) < 0.3, rng.integers(1, 9, (ROWS, 2 * D)), 0)
    index = [np.flatnonzero(row) for row in S]
    vector = pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float32).ravel()), D)
    return pa.table(
        {
            "id": np.arange(ROWS) + ROWS * number,
            "kind": pa.array(np.array(["ant", "bee", "cat"])[rng.integers(0, 3, ROWS)]),
            **{f"c{j}": X[:, j] for j in range(D)},
            **{f"g{j}": pa.array(gaps[:, j], from_pandas=True) for j in range(D)},
            "v": vector,
            "i": pa.array(index, pa.list_(pa.int32())),
            "x": pa.array([row[at].astype(float) for row, at in zip(S, index, strict=True)], pa.list_(pa.float64())),
            "w": rng.integers(0, 4, ROWS),
        }
    )


def long(group: int) -> pa.Table:
    """A row group of small numbers that repeat; none is like another."""
    few = np.random.default_rng([31, group]).integers(0, 16, (61, LONG_D), dtype=np.uint8)
    X = np.resize(few, (LONG_GROUP, LONG_D))
    return pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), LONG_D)})


# What rooms share


class StoppedError(Exception):
    """Stands for whatever stops a run."""


class Counter:
    """A progress that counts rows by scan, and stops a run at will.

    Args:
        stop: (scan, rows): stop in the scan with that number, from 1, as soon as it has seen so many rows.
    """

    def __init__(self, stop: tuple[int, int] | None = None) -> None:
        self.scans: list[tuple[str, int]] = []
        self.stop = stop

    def begin(self, stage: str, rows: int, size: int) -> None:
        self.scans.append((stage, 0))

    def advance(self, rows: int) -> None:
        stage, before = self.scans[-1]
        self.scans[-1] = (stage, before + rows)
        if self.stop is not None and self.stop[0] == len(self.scans) and before + rows >= self.stop[1]:
            raise StoppedError

    def end(self) -> None: ...


class Library:
    """The packages under test: ``prefix`` is empty for the kept wheel, ``eigenmill.`` for today's code."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.reduce = self.module("reduce")

    def module(self, name: str) -> Any:
        return importlib.import_module(self.prefix + name)

    def data(self, path: Any = "small", **options: Any) -> Any:
        """The files of one of the inputs; ``path`` may be a list of files below them."""
        paths = [path] if isinstance(path, str) else path
        found = [f"{HERE}/inputs/{each}" for each in paths]
        return self.reduce.Dataset.from_parquet(found[0] if isinstance(path, str) else found, **options)

    def engine(self, **options: Any) -> Any:
        return self.reduce.connect("local", **{"workers": 1, **options})


def stopped(run: Callable[[], Any]) -> None:
    """``run``, which must not come to its end."""
    try:
        run()
    except StoppedError:
        return
    raise AssertionError("expected the run to be stopped, found it finished")


COLUMNS = {"columns": [f"c{j}" for j in range(D)]}
GAPS = {"columns": [f"g{j}" for j in range(D)]}
PAIRS = {"sparse": ["i", "x", 2 * D]}

# Models: fitted, saved, and what they make of rows

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "scaler": ("StandardScaler", {}, COLUMNS),
    "scaler-weighted-keep": ("StandardScaler", {"with_mean": False}, {**GAPS, "weights": "w", "missing": "keep"}),
    "pca": ("PCA", {"n_components": 3}, COLUMNS),
    "pca-scale-mean": ("PCA", {"n_components": 0.9, "scale": True, "whiten": True}, {**GAPS, "missing": "mean"}),
    "pca-policies": (
        "PCA",
        {"n_components": 2, "scale": True},
        {**GAPS, "missing": {"g0": "mean", "g1": 0.5, "*": "drop"}, "clip": {"g2": (-50, 350)}, "clip_sd": 2.5},
    ),
    "pca-weighted-mle": ("PCA", {"n_components": "mle"}, {**COLUMNS, "weights": "w"}),
    "pca-denoise": ("PCA", {"n_components": "denoise"}, COLUMNS),
    "pca-refine": ("PCA", {"n_components": 4, "refine": True}, COLUMNS),
    "pca-dual": ("PCA", {"n_components": 3, "solver": "dual", "scale": True}, COLUMNS),
    "pca-sketch": ("PCA", {"n_components": 2, "solver": "sketch", "random_state": 7}, COLUMNS),
    "pca-list": ("PCA", {"n_components": 3, "scale": True}, {"vector": "v"}),
    "pca-list-float64": ("PCA", {"n_components": 3, "precision": "float64"}, {"vector": "v"}),
    "pca-sparse": ("PCA", {"n_components": 3, "scale": True, "random_state": 1}, PAIRS),
    "pca-filtered": ("PCA", {"n_components": 2}, {**COLUMNS, "filters": [("kind", "!=", "ant"), ("id", "<", 270)]}),
    "svd": ("TruncatedSVD", {"n_components": 3}, COLUMNS),
    "svd-sparse": ("TruncatedSVD", {"n_components": 3, "scale": True}, PAIRS),
    "svd-sparse-sketch": (
        "TruncatedSVD",
        {"n_components": 2, "solver": "sketch", "tol": None, "max_scans": 3, "random_state": 3},
        PAIRS,
    ),
    "svd-sketch-once": (
        "TruncatedSVD",
        {"n_components": 2, "solver": "sketch", "max_scans": 1, "block_size": 4, "random_state": 3},
        {"vector": "v"},
    ),
    "svd-dual-mean": ("TruncatedSVD", {"n_components": 3, "solver": "dual"}, {**GAPS, "missing": "mean"}),
}


def estimator(lib: Library, name: str) -> Any:
    kind, parameters, _ = MODELS[name]
    return getattr(lib.reduce, kind)(**parameters)


def models(lib: Library) -> None:
    """For each model a directory, and its features of the first file beside it."""
    for name, (_, _, options) in MODELS.items():
        data = lib.data(**options)
        model = estimator(lib, name).fit(data, engine=lib.engine())
        model.save(name)
        np.save(f"{name}.npy", model.transform(lib.data("small/a.parquet", **options)).to_numpy())


# States: day by day

STATES = (
    *("scaler", "scaler-weighted-keep", "pca", "pca-scale-mean", "pca-weighted-mle", "pca-dual", "pca-list"),
    *("pca-sparse", "pca-filtered", "svd", "svd-sparse", "svd-dual-mean"),
)


def states(lib: Library) -> None:
    """For each model those after one file, after three, and of the full fit; ``long`` holds nodes of a tree."""
    for name in STATES:
        options = MODELS[name][2]
        for ending, files in {"1": "a", "3": "abc", "whole": SMALL}.items():
            data = lib.data([f"small/{file}.parquet" for file in files], **options)
            model = estimator(lib, name).fit(data, engine=lib.engine(), keep_state=True)
            model.save(f"{name}/{ending}", state=True)
    for ending, files in {"1": ["long/a.parquet"], "whole": ["long/a.parquet", "long/b.parquet"]}.items():
        model = lib.reduce.PCA(3, scale=True).fit(lib.data(files), engine=lib.engine(), keep_state=True)
        model.save(f"long/{ending}", state=True)


# Scans: stopped in the middle

LEAF = (64 << 20) // (8 * LONG_D)
SCANS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "moments": ("StandardScaler", {}, {}, 1),
    "gram": ("PCA", {"n_components": 3, "scale": True}, {}, 1),
    "clipped": ("TruncatedSVD", {"n_components": 3}, {"clip_sd": 1.5}, 2),
    "refined": ("PCA", {"n_components": 3, "refine": True}, {}, 2),
    "sketch": (
        "PCA",
        {"n_components": 2, "solver": "sketch", "tol": None, "max_scans": 3, "block_size": 3, "random_state": 5},
        {},
        2,
    ),
}
"""Kind, parameters, how the files are read, and the scan that is stopped, in its third leaf."""


def scan(lib: Library, name: str, **options: Any) -> Any:
    """The model of a scan's fit, on an engine with these options."""
    kind, parameters, read, _ = SCANS[name]
    return getattr(lib.reduce, kind)(**parameters).fit(lib.data("long", **read), engine=lib.engine(**options))


def scans(lib: Library) -> None:
    """For each the work directory of a fit that was stopped, and the model of one that was not."""
    for name in SCANS:
        stop_scan(lib, name, f"{name}/work")
        scan(lib, name).save(f"{name}/model")


def stop_scan(lib: Library, name: str, work: str) -> None:
    """Leave the checkpoints of a fit that was stopped in the third leaf of its last scan but those that follow."""
    progress = Counter((SCANS[name][-1], 2 * LEAF + 1))
    stopped(lambda: scan(lib, name, work=work, progress=progress))


# Outputs: whole, half-written, overwritten

OUTPUTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "list": ("pca-list", {"vector": "v", "carry": ["id", "kind"]}, {}),
    "columns": ("pca", {**COLUMNS, "carry": ["id"]}, {"layout": "columns", "dtype": "float32", "prefix": "f"}),
    "named": ("svd", COLUMNS, {"layout": "columns", "names": ["x", "y", "z"], "compression": "snappy"}),
    "partitioned": ("pca", {**COLUMNS, "carry": ["kind", "id", "x"]}, {"partition_by": "kind"}),
    "dropped": ("pca-policies", {**GAPS, "carry": ["id"]}, {"column": "z"}),
    "sparse": ("svd-sparse", {**PAIRS, "carry": ["id"]}, {"compression": "none"}),
    "filtered": (
        "pca-filtered",
        {**COLUMNS, "carry": ["id"], "filters": [[("kind", "in", ["ant", "bee"])], [("id", ">=", 150)]]},
        {},
    ),
    "expression": ("pca", {**COLUMNS, "carry": ["id"], "filters": pc.field("w") > pc.scalar(1)}, {}),
    "weighted": ("pca-weighted-mle", {**COLUMNS, "weights": "w"}, {}),
}
"""Which of the models, how the input is read, options of the sink."""
BEGUN = 2 * ROWS + 1
"""Rows that a half-written output has seen: some more than its finished parts hold."""


def features(lib: Library, name: str, out: str, progress: Any = None, **options: Any) -> Any:
    """The manifest of an output of small parts."""
    model, read, sink = OUTPUTS[name]
    data = lib.data(**read)
    fitted = estimator(lib, model).fit(lib.data(**MODELS[model][2]), engine=lib.engine())
    sink = {"part_bytes": 1, **sink, **options}
    return fitted.transform(data).to_parquet(out, engine=lib.engine(progress=progress), **sink)


def outputs(lib: Library) -> None:
    """For each one that is whole, one that was stopped in the middle, one without its last file."""
    for name in OUTPUTS:
        features(lib, name, f"{name}/whole/out")
        begun = Counter((1, BEGUN))
        stopped(lambda name=name, begun=begun: features(lib, name, f"{name}/begun/out", begun))  # type: ignore[misc]
        unmarked(lambda name=name: features(lib, name, f"{name}/unmarked/out"))  # type: ignore[misc]
    for ending in ("whole", "begun"):
        out = f"versions/{ending}/out"
        features(lib, "named", out)
        features(lib, "list", out, overwrite=True)
        if ending == "whole":
            features(lib, "columns", out, overwrite=True)
        else:
            begun = Counter((1, BEGUN))
            stopped(lambda out=out, begun=begun: features(lib, "columns", out, begun, overwrite=True))  # type: ignore[misc]


def unmarked(run: Callable[[], Any]) -> None:
    """``run``, stopped before ``_SUCCESS`` appears."""
    replace = os.replace

    def refuse(source: Any, target: Any, **options: Any) -> None:
        if os.fspath(target).endswith("_SUCCESS"):
            raise StoppedError
        replace(source, target, **options)

    os.replace = refuse  # type: ignore[assignment]
    try:
        stopped(run)
    finally:
        os.replace = replace


ROOMS: dict[str, Callable[[Library], None]] = {"models": models, "states": states, "scans": scans, "outputs": outputs}


# Making and unpacking


def versions(room: str) -> dict[str, Any]:
    """What a room's bytes depend on, of this process."""
    from scipy import linalg  # noqa: F401 - brings a BLAS of its own
    from threadpoolctl import threadpool_info

    blas = {
        f"{i['internal_api']} {i['version']} {i['architecture']}" for i in threadpool_info() if i["user_api"] == "blas"
    }
    packages = ["numpy", "scipy", "pyarrow"]
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "libc": " ".join(platform.libc_ver()),
        "blas": sorted(blas),
        "simd": np.show_config("dicts")["SIMD Extensions"]["found"],  # type: ignore[call-overload]
        **{name: version(name) for name in packages},
    }


def in_directory(lib: Library, room: str, directory: Path) -> None:
    """Write a room into a directory, as the working directory of this process."""
    directory.mkdir(parents=True, exist_ok=True)
    before = os.getcwd()
    os.chdir(directory)
    os.symlink(INPUTS, "inputs")
    try:
        ROOMS[room](lib)
    finally:
        os.unlink("inputs")
        os.chdir(before)


def by_the_wheel(room: str, directory: Path) -> None:
    """Write a room by the kept wheel, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(WHEEL) as wheel:
            wheel.extractall(temporary)
        # Coverage is of today's code: in the child it would measure packages that are gone afterwards.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        environment |= {"PYTHONPATH": temporary, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-P", "-W", "ignore", __file__, room, str(directory)]
        subprocess.run(command, cwd=temporary, env=environment, check=True)


def pack(directory: Path, archive: Path) -> None:
    """A directory as an archive of the same bytes wherever and whenever it is made."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    def members(path: Path) -> Iterator[Path]:
        for child in sorted(path.iterdir()):
            yield child
            if child.is_dir() and not child.is_symlink():
                yield from members(child)

    with lzma.open(archive, "wb", preset=9) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in members(directory):
            tar.add(path, str(path.relative_to(directory)), recursive=False, filter=plain)


def unpack(room: str, directory: Path) -> Path:
    """A room's references in a directory: the kept ones where this machine's versions are theirs."""
    kept = json.loads((KEPT / "versions.json").read_text())
    if kept[room] != versions(room):
        by_the_wheel(room, directory)
    else:
        with tarfile.open(KEPT / f"{room}.tar.xz") as tar:
            tar.extractall(directory, filter="data")
    return directory


def main(arguments: list[str]) -> None:
    if arguments == ["inputs"]:
        inputs()
    elif len(arguments) == 2:
        in_directory(Library(""), arguments[0], Path(arguments[1]))
    else:
        for room in arguments or ROOMS:
            with tempfile.TemporaryDirectory() as temporary:
                by_the_wheel(room, Path(temporary) / room)
                pack(Path(temporary) / room, KEPT / f"{room}.tar.xz")
        found = {room: versions(room) for room in ROOMS}
        (KEPT / "versions.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
