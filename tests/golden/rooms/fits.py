"""Models, states, checkpoints of scans, and outputs: what the library writes without a job file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from tests.golden.inputs import LONG_D, ROWS, SMALL, D
from tests.golden.library import Counter, Library, stop_before, stopped
from tests.support.tables import vectors

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
    "pca-spark-vectors": ("PCA", {"n_components": 2}, {"vector": "s", "n_features": 2 * D}),
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
    """For each model a directory, in ``work`` what its scans have left, and its features of the first file."""
    for name, (_, _, options) in MODELS.items():
        model = estimator(lib, name).fit(lib.data(**options), engine=lib.engine(work=f"work/{name}"))
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
    stopped(scan, lib, name, work=work, progress=progress)


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
MADE = np.arange(300, dtype=np.float64).reshape(50, D) * 7919 % 101 - 30
OTHERS: dict[str, Callable[[Library], tuple[Any, dict[str, Any]]]] = {
    "array": lambda lib: (made(lib, "from_numpy", MADE, weights=np.arange(50) % 3), {}),
    "csr": lambda lib: (made(lib, "from_numpy", sparse.csr_array(MADE.clip(0))), {}),
    "table": lambda lib: (made(lib, "from_arrow", table().combine_chunks(), carry="name"), {}),
    "list-table": lambda lib: (made(lib, "from_arrow", pa.table({"v": vectors(MADE)}), vector="v"), {}),
    "frame": lambda lib: (made(lib, "from_pandas", table().to_pandas(), columns=["b", "a"], carry=["name"]), {}),
    "hive": lambda lib: (
        fitted(lib, lib.data("days", vector="x", carry=["day", "id"])),
        {"partition_by": "day", "part_bytes": 1},
    ),
    "chained": lambda lib: (fitted(lib, standardized(lib)), {"part_bytes": 1}),
    "back": lambda lib: (back(lib), {"layout": "columns", "part_bytes": 1}),
    "long": lambda lib: (fitted(lib, lib.data("long")), {}),
}
"""Data in memory, a chain of models, hive keys, the original columns; and parts of the usual size."""


def fitted(lib: Library, data: Any) -> Any:
    """The features of a PCA of the data itself."""
    return lib.reduce.PCA(2, scale=True).fit(data, engine=lib.engine()).transform(data)


def made(lib: Library, form: str, rows: Any, **options: Any) -> Any:
    return fitted(lib, getattr(lib.reduce.Dataset, form)(rows, **options))


def table() -> pa.Table:
    columns = dict(zip("abcdef", MADE.T, strict=True))
    return pa.table({"name": [f"row {i}" for i in range(len(MADE))], **columns})


def standardized(lib: Library) -> Any:
    data = lib.data(**COLUMNS, carry=["id"])
    return lib.reduce.StandardScaler().fit(data, engine=lib.engine()).transform(data)


def back(lib: Library) -> Any:
    data = lib.data(**COLUMNS)
    model = lib.reduce.PCA(3, scale=True, whiten=True).fit(data, engine=lib.engine())
    return model.inverse_transform(model.transform(data))


def features(lib: Library, name: str, out: str, progress: Any = None, **options: Any) -> Any:
    """The manifest of an output, most of them of small parts."""
    if name in OTHERS:
        data, sink = OTHERS[name](lib)
    else:
        model, read, sink = OUTPUTS[name]
        data = estimator(lib, model).fit(lib.data(**MODELS[model][2]), engine=lib.engine()).transform(lib.data(**read))
        sink = {"part_bytes": 1, **sink}
    return data.to_parquet(out, engine=lib.engine(progress=progress), **sink, **options)


BEGUN = {"long": (3 << 18) + 1, **dict.fromkeys(["array", "csr", "table", "list-table", "frame"], 1), "hive": 201}
"""Rows that a half-written output has seen: some more than its finished parts hold."""


def begin(lib: Library, name: str, out: str, **options: Any) -> None:
    """Leave an output half-written."""
    stopped(features, lib, name, out, Counter((1, BEGUN.get(name, 2 * ROWS + 1))), **options)


def outputs(lib: Library) -> None:
    """For each one that is whole, one that was stopped in the middle, one without its last file."""
    for name in (*OUTPUTS, *OTHERS):
        features(lib, name, f"{name}/whole/out")
        begin(lib, name, f"{name}/begun/out")
        with stop_before("*/_SUCCESS"):
            stopped(features, lib, name, f"{name}/unmarked/out")
    for ending, last in {"whole": features, "begun": begin}.items():
        out = f"versions/{ending}/out"
        features(lib, "named", out)
        features(lib, "list", out, overwrite=True)
        last(lib, "columns", out, overwrite=True)
