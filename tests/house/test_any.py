"""``Any`` stays where others force it; each place is counted, so that a new one is seen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPEN = {"dtype", "NDArray", "ndarray", "floating", "integer", "generic", "Pass", "Tree"}
"""Generic types whose argument may be anything: ``np.dtype[Any]`` is an honest type."""
KNOWN = {
    "values of JSON and YAML, in dictionaries by name": {
        "reduce/engines/base.py": 7,
        "reduce/estimators/fitted.py": 5,
        "reduce/estimators/record.py": 1,
        "reduce/estimators/saving.py": 2,
        "reduce/output/directory.py": 2,
        "reduce/output/manifest.py": 7,
        "reduce/scan.py": 1,
        "reduce/sources/base.py": 2,
        "reduce/sources/seen.py": 2,
        "reduce/storage/array_file.py": 6,
        "reduce/storage/artifact.py": 12,
        "reduce/storage/chain.py": 2,
        "reduce/storage/files.py": 4,
        "reduce/storage/long_lists.py": 11,
        "reduce/storage/model_record.py": 4,
        "reduce/storage/plain.py": 7,
        "reduce/storage/secrets.py": 1,
        "reduce/storage/tensors.py": 12,
        "compress/core/data.py": 1,
        "compress/core/split.py": 1,
        "compress/judging/evaluate.py": 8,
        "compress/packed/pack_front.py": 1,
        "compress/search.py": 4,
        "compress/training/augment.py": 1,
        "compress/training/settings.py": 6,
        "jobs/daily/cli.py": 1,
        "jobs/daily/config.py": 1,
        "jobs/daily/drift.py": 3,
        "jobs/daily/records.py": 5,
        "jobs/daily/stages.py": 4,
        "jobs/demo/demo.py": 3,
        "jobs/documents/document.py": 5,
        "jobs/recipes/inspect.py": 2,
        "jobs/recipes/recipe.py": 1,
        "jobs/recipes/steps.py": 4,
        "jobs/reduction/config.py": 9,
        "jobs/reduction/fitted.py": 4,
        "jobs/reduction/quality.py": 2,
        "jobs/reduction/report.py": 5,
        "jobs/reduction/results.py": 2,
        "jobs/saved/apply.py": 4,
        "jobs/shown/console.py": 2,
        "jobs/shown/show.py": 1,
    },
    "arrays and frames of any library, as users give and take them; scipy has no types": {
        "reduce/dataset.py": 15,
        "reduce/engines/local/kept.py": 2,
        "reduce/estimators/linear.py": 6,
        "reduce/estimators/pca.py": 1,
        "reduce/estimators/scaler.py": 2,
        "reduce/rows/blocks.py": 1,
        "reduce/rows/transforms.py": 1,
        "reduce/sources/arrays.py": 1,
        "compress/core/categories.py": 4,
        "compress/core/front.py": 5,
        "compress/core/model.py": 9,
        "compress/imports/nets.py": 7,
        "compress/packed/predict.py": 3,
        "jobs/reduction/texts.py": 1,
    },
    "the interface of scikit-learn, which has no types": {
        "reduce/estimators/base.py": 12,
        "reduce/estimators/inputs.py": 3,
        "compress/estimators.py": 1,
    },
    "pyarrow has no types": {
        "reduce/output/encode.py": 3,
        "reduce/output/sink.py": 7,
        "reduce/sources/filters.py": 4,
    },
    "file systems of pyarrow and fsspec, which have no types": {
        "reduce/storage/places.py": 2,
    },
    "obstore is read as without types": {
        "reduce/storage/exclusive.py": 5,
    },
    "dask has no types": {
        "reduce/engines/collections.py": 2,
        "reduce/engines/dask/collections.py": 22,
        "reduce/engines/dask/engine.py": 18,
    },
    "pyspark is read as without types": {
        "reduce/engines/spark/engine.py": 9,
        "reduce/engines/spark/frames.py": 12,
        "reduce/engines/spark/rows.py": 5,
        "reduce/engines/spark/session.py": 3,
        "reduce/engines/spark/watch.py": 1,
        "reduce/spark_ml.py": 3,
    },
    "onnx and onnxruntime have no types": {
        "compress/exports/onnx.py": 2,
        "compress/imports/onnx.py": 8,
    },
    "torch is read as without types": {
        "compress/training/train.py": 2,
    },
    "pickle: what an object hands over of itself": {
        "reduce/engines/ship.py": 6,
        "reduce/passes/sketch.py": 1,
        "reduce/passes/tsqr.py": 1,
        "reduce/sources/parquet.py": 1,
        "jobs/demo/digits.py": 3,
    },
    "what is imported by name": {
        "reduce/__init__.py": 1,
        "reduce/engines/kinds.py": 1,
        "compress/__init__.py": 1,
    },
    "keywords that are passed on": {
        "reduce/format.py": 1,
        "reduce/plan.py": 3,
        "reduce/sources/layouts.py": 7,
        "reduce/sources/matrix.py": 1,
        "compress/distill.py": 6,
        "jobs/recipes/report.py": 5,
        "jobs/recipes/run.py": 7,
        "jobs/recipes/teach.py": 2,
        "jobs/reduction/build.py": 8,
    },
    "fields of any class, by their names": {
        "reduce/passes/base.py": 1,
        "reduce/storage/digest.py": 8,
    },
    "pydantic's errors and annotations": {
        "jobs/documents/complaints.py": 7,
    },
    "typer's and click's contexts; values of JSON": {
        "jobs/cli.py": 7,
    },
    "tasks of any pass": {
        "reduce/engines/load.py": 1,
    },
}
"""How often each module says ``Any``, by why it must."""


def places(tree: ast.AST) -> Iterator[ast.Name]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Name) and node.id == "Any":
            yield node
        named = node.value if isinstance(node, ast.Subscript) else None
        name = named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else ""
        if name not in OPEN:
            yield from places(node)


def test_any_stands_only_where_it_is_known() -> None:
    known = {module: count for modules in KNOWN.values() for module, count in modules.items()}
    assert len(known) == sum(map(len, KNOWN.values())), "a module stands under one reason"
    found = {}
    for path in sorted(path for folder in ("reduce", "compress", "jobs") for path in (ROOT / folder).rglob("*.py")):
        if count := len(list(places(ast.parse(path.read_text())))):
            found[path.relative_to(ROOT).as_posix()] = count
    assert found == known
