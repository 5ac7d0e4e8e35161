"""One value of every class whose names are in digests or files, by any version of the program.

``python tests/formats/made.py``, where ba05dba is installed, prints what ``digests.json`` holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Get = Callable[[str, str], Any]
"""The class that ba05dba has in a module under a name."""
NAMES = ("a", "b")
A, B = np.arange(2.0), np.array([1.5, -2.0])
SQUARE = np.array([[1.0, 2.0], [3.0, 4.0]])
WHOLE = np.array([3, 4], dtype=np.int64)
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def of_reduce(get: Get) -> dict[str, Any]:
    """Values of ``reduce``; ``get(module, name)`` finds a class."""
    resolved = get("reduce.cleaning", "Resolved")(np.array([2, 3], dtype=np.int8), A, None, B)
    intake = get("reduce.passes.moments", "Intake")(NAMES, F32, resolved)
    pending = get("reduce.passes.moments", "Pending")(3.0, A, B)
    moments = get("reduce.passes.moments", "Moments")(3, 2.5, A, B, A, B, A, B, WHOLE, WHOLE, pending)
    input_ = get("reduce.transforms", "Input")(NAMES, F64, resolved)
    project = get("reduce.transforms", "Project")(input_, A, SQUARE, ("p0", "p1"))
    file = get("reduce.manifest", "FileRecord")("part-00000.parquet", 3, 70, "00ff")
    part = get("reduce.manifest", "PartRecord")(0, 3, (file,), ((0, 0, 2),))
    manifest = ("key", "model", ("t",), {"layout": "list"}, {"rows": 3}, (("x", "float"),), 3, (part,), {"numpy": "2"})
    return {
        "Cleaning": get("reduce.cleaning", "Cleaning")({"a": "mean", "*": 0.5}, (-1.0, 2.0), 3.0),
        "Resolved": resolved,
        "FileInfo": get("reduce.catalog", "FileInfo")("a.parquet", 70, "00ff", (3, 4), 50, 6),
        "Scalars": get("reduce.layouts", "Scalars")(NAMES, F32, True),
        "Vector": get("reduce.layouts", "Vector")("v", 2, F64),
        "SparkVector": get("reduce.layouts", "SparkVector")("v", 2, F64, True),
        "SparsePair": get("reduce.layouts", "SparsePair")("i", "x", 2, F32),
        "Intake": intake,
        "Pending": pending,
        "Moments": moments,
        "MomentsPass": get("reduce.passes.moments", "MomentsPass")(intake),
        "Gram": get("reduce.passes.gram", "Gram")(moments, 2.5, A, B, SQUARE, A, 9, 2),
        "GramState": get("reduce.passes.gram", "GramState")(moments, 2.5, 3, 1, A, B, A, B, SQUARE, SQUARE, None),
        "GramPass": get("reduce.passes.gram", "GramPass")(intake),
        "RowsState": get("reduce.passes.rows", "RowsState")(moments, A, SQUARE, B, SQUARE > 2),
        "RowsPass": get("reduce.passes.rows", "RowsPass")(intake),
        "Sketch": get("reduce.passes.sketch", "Sketch")(None, 2.5, A, B, SQUARE, SQUARE, 9),
        "SketchState": get("reduce.passes.sketch", "SketchState")(moments, 2.5, 3, 1, A, B, A, SQUARE),
        "SketchPass": get("reduce.passes.sketch", "SketchPass")(intake, SQUARE, A, None),
        "TsqrState": get("reduce.passes.tsqr", "TsqrState")(SQUARE),
        "TsqrPass": get("reduce.passes.tsqr", "TsqrPass")(intake, A, B, SQUARE),
        "Input": input_,
        "Standardize": get("reduce.transforms", "Standardize")(input_, A, None),
        "Unscale": get("reduce.transforms", "Unscale")(NAMES, A, B, F32),
        "Project": project,
        "Align": get("reduce.transforms", "Align")(WHOLE - 3, np.array([1.0, -1.0]), NAMES, F32),
        "Reconstruct": get("reduce.transforms", "Reconstruct")(SQUARE, A, NAMES, F64),
        "Residual": get("reduce.transforms", "Residual")(project, SQUARE),
        "LogLikelihood": get("reduce.transforms", "LogLikelihood")(input_, A, None, SQUARE, B, 0.5, -2.0),
        "FileRecord": file,
        "PartRecord": part,
        "Manifest": get("reduce.manifest", "Manifest")(*manifest),
    }


def of_compress(get: Get) -> dict[str, Any]:
    """Values of ``compress``."""
    category = get("compress.categories", "Category")("month(day)", "whole", (1, 2), True)
    low, step = A.astype(np.float32), B.astype(np.float32)
    front = get("compress.front", "Front")({"vector": "v"}, 2, 8, low, step, WHOLE, 1.0, 2.0, (category,))
    layer = get("compress.integer", "WholeLayer")(WHOLE[:, None], WHOLE, True, 5, 6, 7)
    split = get("compress.split", "Validation")(0.25, "id")
    candidate = get("compress.search", "Candidate")((8, 4), 5, 1e-6)
    dense = SQUARE.astype(np.float32)
    return {
        "Category": category,
        "Counted": get("compress.categories", "Counted")(WHOLE.astype(np.uint8), WHOLE, WHOLE),
        "VocabularyPass": get("compress.categories", "VocabularyPass")(("c",), ("text",), 10, 2, 99, split),
        "Front": front,
        "Dense": get("compress.model", "Dense")(dense, low, True, SQUARE > 1, None, None, 0.5, 100, True),
        "Activations": get("compress.model", "Activations")((0.5, 0.25), 8),
        "WholeLayer": layer,
        "WholeNet": get("compress.integer", "WholeNet")("classification", ("x", "y"), front, (layer,), 0.5, -1.0),
        "Validation": split,
        "Affine": get("compress.augment", "Affine")(28, 20, 1.0, 2.0, 0.1, 3.0),
        "Magnitude": get("compress.constraints", "Magnitude")(0.5, "cubic", 0.5, "layer"),
        "LearnedStep": get("compress.constraints", "LearnedStep")(5, 0.4),
        "EntropyPenalty": get("compress.constraints", "EntropyPenalty")(1e-4),
        "Target": get("compress.search", "Target")(4000, 0.1, None, "c", 2, 0.9),
        "Candidate": candidate,
        "Trial": get("compress.search", "Trial")(candidate, 4000, 0.05, None, -0.5, 1.5),
    }


def of_jobs(get: Get) -> dict[str, Any]:
    """What a job notes beside its model, and the records of a day-by-day job as the JSON that they write."""
    records = {
        "Settings": ({"reduce": {"components": 5}},),
        "Fit": ("2026-11-01", [["a.parquet", 70, "00ff"]], 3, "m"),
        "Gate": ("2026-11-01", "m", None, 1, {"drift": 0.5}),
        "Project": ("2026-11-01", "m", 1, ["t"], {"2026-11-01": "00ff"}),
        "Publish": ("2026-11-01", "m", 1),
        "Version": (1, "2026-11-01", "m", "00ff", None, {"signs": [1.0]}),
        "Pointer": (1, "versions/v0001/model", "00ff", "versions/v0001/features", {"2026-11-01": "00ff"}),
    }
    fitted = get("jobs.fitted", "Fitted")("key", "model", ["id"], "w", [["a", "<", 3]])
    return {"Fitted": fitted} | {
        f"daily {name}": of_first_version(get("jobs.daily_records", name)(*values).as_json())
        for name, values in records.items()
    }


def of_first_version(record: dict[str, Any]) -> dict[str, Any]:
    """A record as ba05dba writes it: without a digest of its own."""
    return {name: value for name, value in record.items() if name != "digest"} | {"version_of_format": 1}


STATES = ("Moments", "GramState", "RowsState", "SketchState", "TsqrState", "Counted", "Resolved")
TEXTS = ("Cleaning", "Validation", "Affine")


def values(get: Get) -> dict[str, Any]:
    """All of them, by the names that their classes have in ba05dba."""
    return {**of_reduce(get), **of_compress(get), **of_jobs(get)}


def described() -> dict[str, Any]:
    """Digests of values and of states as arrays, texts of values and names of arrays, by ba05dba."""
    digest_of, to_arrays = import_module("reduce.digest").digest_of, import_module("reduce.passes.base").to_arrays
    found = values(lambda module, name: getattr(import_module(module), name))
    arrays = {name: to_arrays(found[name]) for name in STATES}
    return {
        "values": {name: digest_of(value) for name, value in found.items()},
        "texts": {name: repr(found[name]) for name in TEXTS},
        "arrays": {name: digest_of(each) for name, each in arrays.items()},
        "names": {name: sorted(each) for name, each in arrays.items()},
    }


if __name__ == "__main__":
    print(json.dumps(described(), indent=1))
