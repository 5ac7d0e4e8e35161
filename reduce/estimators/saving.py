"""Saving fitted estimators: JSON and safetensors, never code; :mod:`eigenmill.reduce.estimators.store` reads them.

What is saved is what the constructor takes, the fitted attributes, the frozen cleaning policy, the data-quality
table, the layout of the input and its fingerprint. Nothing depends on time, place or number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from eigenmill.reduce.engines.base import tree_arrays
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.estimators.record import StateRecord
from eigenmill.reduce.passes.base import to_arrays
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.base import NumberedNames
from eigenmill.reduce.sources.catalog import FileInfo
from eigenmill.reduce.storage.about import versions
from eigenmill.reduce.storage.artifact import Beside, save_model
from eigenmill.reduce.storage.long_lists import Mapped


def save(
    found: Snapshot,
    record: StateRecord | None,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    replacing: str | None = None,
    beside: Beside | None = None,
    seen_files: Iterable[FileInfo] = (),
) -> str:
    """Write a model to the directory ``path``, with ``record`` as its state if given; returns its digest.

    ``overwrite``, ``replacing`` and ``beside`` are those of :func:`eigenmill.reduce.storage.artifact.save_model`. What
    tells the files that the model was fitted to from others is committed with it: those of ``record``, or without one
    ``seen_files``, by their full paths.
    """
    arrays: dict[str, Any] = dict(found.arrays)
    arrays.update({f"quality.{k}": v for k, v in to_arrays(found.quality).items()})
    arrays.update({f"cleaning.{k}": v for k, v in to_arrays(found.cleaning).items()})
    meta = {
        "fitted": found.values,
        "features": names_to_json(found.names),
        "dtype": found.dtype.name,
        "layout": found.layout,
        "input": found.fingerprint,
        "versions": found.versions,
        "has_state": record is not None,
    }
    states, state_meta = None, None
    if record is not None:
        tree, tree_meta = tree_arrays(record.tree)
        states = {"tree": tree, "policy": to_arrays(record.policy)}
        state_meta = {
            "tree": tree_meta,
            "files": Mapped(_row, record.files),
            "rows": record.rows,
            "solver": record.solver,
            "dtype": record.dtype.name,
            "versions": versions(),
        }
        if changes := record.format.changes():
            state_meta["constants"] = changes
    kept = seen.record(seen_files if record is None else record.files)
    return save_model(
        path,
        found.kind,
        found.parameters,
        arrays,
        meta,
        states=states,
        state_meta=state_meta,
        overwrite=overwrite,
        replacing=replacing,
        beside=beside if not kept else lambda digest: {seen.NAME: kept, **({} if beside is None else beside(digest))},
    )


def _row(file: FileInfo) -> list[object]:
    return [file.path, file.size, file.digest, list(file.rows), file.encoded]


def names_to_json(names: Sequence[str]) -> dict[str, str | int] | list[str]:
    """Feature names as a list, or as prefix and count."""
    return {"prefix": names.prefix, "count": len(names)} if isinstance(names, NumberedNames) else list(names)


def names_from_json(value: Any) -> Sequence[str]:
    """The inverse of :func:`names_to_json`."""
    if isinstance(value, dict):
        return NumberedNames(str(value["prefix"]), int(value["count"]))
    return tuple(str(name) for name in value)
