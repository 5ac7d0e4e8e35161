"""Use a saved model: on new data, back to the original columns, and day by day on new files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from eigenmill.jobs.daily.drift import Alignment
from eigenmill.jobs.daily.records import Version
from eigenmill.jobs.reduction.fitted import load_fitted, open_fitted, save_fitted
from eigenmill.jobs.reduction.results import Applied, Reconstruction, Update
from eigenmill.reduce import Dataset, Sink, StandardScaler, load
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ConfigError, DataError, OutputError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.output.sink import read_manifest
from eigenmill.reduce.sources import apart
from eigenmill.reduce.storage import files, places, plain
from eigenmill.reduce.storage.artifact import changing
from eigenmill.reduce.storage.places import Location

PRECISIONS = ("float32", "float64")
ERRORS = "_reconstruction.json"
"""Where a reconstruction keeps its error, in its output; readers of Parquet skip the name."""


def read_input(model: Estimator, path: Location | Sequence[Location], **options: object) -> Dataset:
    """Files in the layout that ``model`` was fitted on; ``options`` as of ``Dataset.from_parquet``."""
    return Dataset.from_parquet(path, **{**model.snapshot().layout, **options})


def transform(
    model_path: str,
    path: Location | Sequence[Location],
    out: str,
    engine: Engine,
    *,
    carry: Sequence[str] | None = None,
    all_rows: bool = False,
    **options: Any,
) -> Applied:
    """Reduce new files with a saved model; they are read as the job that fitted it read its own.

    Args:
        model_path: the model.
        path: the files.
        out: output directory.
        engine: where to run.
        carry: columns that travel along; those of the job by default.
        all_rows: also the rows that the job's filters leave out.
        options: as of :class:`eigenmill.Sink`.
    """
    apart.refuse({"INPUT": path, "MODEL": model_path}, {"--out": out})
    model, fitted = open_fitted(model_path)
    filters = None if all_rows else fitted.reading()["filters"]
    data = read_input(model, path, carry=fitted.carry if carry is None else list(carry), filters=filters)
    named = isinstance(model, StandardScaler) and options.get("layout") == "columns"
    sink = Sink(out, names=list(data.feature_names) if named else None, **options)
    return Applied(engine.write(model.transform(data), sink), str(model.digest_))


def reconstruct(
    model_path: str,
    path: str,
    out: str,
    engine: Engine,
    *,
    against: Location | Sequence[Location] | None = None,
    vector: str | None = None,
    columns: Sequence[str] | None = None,
    carry: Sequence[str] | None = None,
    **options: Any,
) -> Reconstruction:
    """Write features back as the original columns.

    Args:
        model_path: the model that made the features.
        path: the features; of an output of eigenmill the layout is known.
        out: output directory.
        engine: where to run.
        against: the input that the features were made of, to measure the error in one more scan.
        vector: the column of the features, in files that eigenmill has not written ...
        columns: ... or their columns.
        carry: columns that travel along; all others by default.
        options: as of :class:`eigenmill.Sink`.
    """
    apart.refuse({"FEATURES": path, "--against": against, "MODEL": model_path}, {"--out": out})
    model = load(model_path)
    if against is not None and isinstance(model, StandardScaler):
        raise ConfigError("expected a model of method pca or svd for --against, found one that loses nothing")
    layout, carried, aligned = _features_layout(model, model_path, path, vector, columns)
    features = Dataset.from_parquet(path, **layout, carry=carried if carry is None else list(carry))
    if aligned is not None:
        features = features.then(aligned.inverse.transform(features.dtype))
    fitted = model.snapshot()
    if isinstance(fitted.names, tuple):
        options |= {"layout": "columns", "names": list(fitted.names)}
    else:
        options |= {"layout": "list", "column": str(fitted.layout.get("vector", "values"))}
    manifest = engine.write(model.inverse_transform(features), Sink(out, **options))
    errors = None if against is None else _measured(model, against, model_path, engine, out)
    return Reconstruction(manifest, str(fitted.digest), errors)


def _measured(
    model: Estimator, against: Location | Sequence[Location], model_path: str, engine: Engine, out: str
) -> dict[str, Any]:
    fitted = load_fitted(model_path)
    data = read_input(model, against, weights=fitted.weights, filters=fitted.reading()["filters"])
    found = model.reconstruction_error(data, engine=engine)
    names = model.snapshot().names
    errors = {
        "rows": int(found["rows"]),
        "rmse": {names[j]: float(value) for j, value in enumerate(found["rmse"])},
        "rmse_total": float(found["rmse_total"]),
        "unexplained": float(found["unexplained"]),
    }
    fs, directory = places.resolve(out)
    files.write_json(fs, f"{directory}/{ERRORS}", errors)
    return errors


def _features_layout(
    model: Estimator, model_path: str, path: str, vector: str | None, columns: Sequence[str] | None
) -> tuple[dict[str, Any], list[str], Alignment | None]:
    """How to read features, the other columns in them, and how they are aligned to those of an earlier model."""
    if vector is not None or columns is not None:
        return {"columns": list(columns)} if columns is not None else {"vector": vector}, [], None
    try:
        manifest = read_manifest(path)
    except OutputError as error:
        raise ConfigError(
            f"expected an output of eigenmill at {path}, or --vector or --columns to say where its features are; "
            f"found: {error}"
        ) from error
    first, *rest = manifest.transforms
    aligned = _alignment(model_path) if rest else None
    if first not in _digests(model) or (rest and rest not in [[digest] for digest in _aligning(aligned)]):
        raise DataError(
            f"expected features made by this model, found those of another ({manifest.model[:12]}) at {path}; "
            "give the model that belongs to them"
        )
    names = [name for name, _ in manifest.schema]
    width = int(model.n_features_in_ if isinstance(model, StandardScaler) else model.n_components_)
    if manifest.options["layout"] == "list":
        column = str(manifest.options["column"])
        return {"vector": column, "n_features": width}, [name for name in names if name != column], aligned
    return {"columns": names[-width:]}, names[:-width], aligned


def transforms(model: Estimator) -> dict[str, str]:
    """By precision, what outputs of the model name as their transforms: its digest covers more than its arithmetic."""
    return {dtype: plain.digest([digest]) for dtype, digest in zip(PRECISIONS, _digests(model), strict=True)}


def _digests(model: Estimator) -> list[str]:
    """Digests of the model as a transform, in both precisions."""
    return [model.as_transform(dtype).digest for dtype in PRECISIONS]


def _alignment(model_path: str) -> Alignment | None:
    """How a day-by-day job aligned the features of this model; None when it did not."""
    fs, path = places.resolve(model_path)
    record = f"{path.rstrip('/').rpartition('/')[0]}/{Version.name}"
    with contextlib.suppress(FileNotFoundError):
        found = Version.from_json(files.read_json(fs, record), record).alignment
        return None if found is None else Alignment.from_json(found)
    return None


def _aligning(alignment: Alignment | None) -> list[str]:
    """Digests of an alignment as a transform, in both precisions."""
    return [] if alignment is None else [alignment.transform(np.dtype(t)).digest for t in PRECISIONS]


def update(
    model_path: str,
    path: Location | Sequence[Location],
    engine: Engine,
    *,
    verify: Literal["hints", "content"] = "hints",
) -> Update:
    """Go on from a saved state with the files at ``path`` that it has not seen, and save the model with its state.

    Raises:
        ConfigError: the model was saved without its state.
        ChangedInputError: a file that it has seen is not what it was.
        ConflictError: another run has changed the model meanwhile.
        OutputError: the file system cannot tell two runs apart.
    """
    apart.refuse({"INPUT": path}, {"MODEL": model_path})
    with changing(model_path, "update"):
        model, fitted = open_fitted(model_path)
        before = model.snapshot()
        if not before.has_state:
            raise ConfigError(
                f"expected a model saved with its state at {model_path}, found one without; "
                "fit it with output.state: true in the job file"
            )
        files.check_writable(*places.resolve(model_path))
        data = read_input(model, path, weights=fitted.weights, filters=fitted.reading()["filters"], verify=verify)
        model.partial_fit(data, engine=engine)
        seen, had = model.snapshot().fingerprint, before.fingerprint
        changed, digest = seen != had, str(before.digest)
        if changed:
            # The job that fitted the model did so from other input: its key no longer stands for this one.
            digest = save_fitted(model, model_path, replace(fitted, key=""), state=True, replacing=digest)
    files_, rows = seen["files"], seen["rows"]
    return Update(files_ - had["files"], rows - had["rows"], files_, rows, digest, changed)


__all__ = ["read_input", "reconstruct", "transform", "transforms", "update"]
