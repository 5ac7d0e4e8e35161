"""Loading saved estimators: a closed registry of kinds, JSON and safetensors, never code."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from eigenmill.reduce.engines.base import Tree, restore_tree
from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.estimators.pca import PCA
from eigenmill.reduce.estimators.record import StateRecord
from eigenmill.reduce.estimators.saving import names_from_json
from eigenmill.reduce.estimators.scaler import StandardScaler
from eigenmill.reduce.estimators.solver import PASSES
from eigenmill.reduce.estimators.svd import TruncatedSVD
from eigenmill.reduce.format import Format
from eigenmill.reduce.passes.base import from_arrays
from eigenmill.reduce.passes.intake import Intake, Moments
from eigenmill.reduce.rows.cleaning import Resolved
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.catalog import FileInfo, Files
from eigenmill.reduce.storage.about import versions
from eigenmill.reduce.storage.artifact import Loaded, load_model, load_state

log = logging.getLogger("eigenmill")
STRANGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""What values of an unexpected kind lead to."""
KINDS: dict[str, type[Estimator]] = {each.kind: each for each in (PCA, TruncatedSVD, StandardScaler)}
"""The closed registry of what a model file may ask for."""


def load(path: str | os.PathLike[str]) -> Estimator:
    """The estimator saved at ``path``: its class is one of PCA, TruncatedSVD and StandardScaler.

    Raises:
        ArtifactError: the files are damaged, incomplete, of another kind or of a newer format.
    """
    loaded = load_model(path)
    try:
        return _restore(loaded, path)
    except STRANGE as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"expected a whole {loaded.kind} model at {path}, found {error!r}; save it again"
        ) from error


def _restore(loaded: Loaded, path: str | os.PathLike[str]) -> Estimator:
    kind = KINDS.get(loaded.kind)
    if kind is None:
        raise ArtifactError(f"expected a model among {', '.join(KINDS)}, found {loaded.kind!r} at {path}")
    known = inspect.signature(kind.__init__).parameters
    unknown = [name for name in loaded.parameters if name not in known]
    if unknown:
        raise ArtifactError(f"expected parameters of {loaded.kind}, found {unknown[0]!r}; update eigenmill")
    found = _snapshot(loaded, kind.fitted_attributes)
    _check_shapes(found, path)
    # A state may be large, and only partial_fit needs it.
    state = functools.partial(_restore_record, path, found.names) if found.has_state else None
    return kind.from_snapshot(found, state)


def _snapshot(loaded: Loaded, fitted: Sequence[str]) -> Snapshot:
    meta, arrays = loaded.meta, loaded.arrays
    return Snapshot(
        kind=loaded.kind,
        parameters=loaded.parameters,
        arrays={name: arrays[name] for name in fitted if name in arrays},
        values={name: meta["fitted"][name] for name in fitted if name not in arrays},
        names=names_from_json(meta["features"]),
        cleaning=from_arrays(Resolved, arrays, "cleaning."),
        quality=from_arrays(Moments, arrays, "quality."),
        layout=dict(meta["layout"]),
        dtype=np.dtype(meta["dtype"]),
        fingerprint=dict(meta["input"]),
        has_state=bool(meta["has_state"]),
        versions=dict(meta["versions"]),
        digest=loaded.digest,
    )


def _check_shapes(found: Snapshot, path: str | os.PathLike[str]) -> None:
    d, held = len(found.names), {**found.values, **found.arrays}
    expected: dict[str, tuple[int, ...]] = {"mean_": (d,), "scale_": (d,), "var_": (d,)}
    if "components_" in held:
        k = int(held["n_components_"])
        expected |= {"components_": (k, d), "explained_variance_": (k,), "explained_variance_ratio_": (k,)}
        expected |= {"singular_values_": (k,), "error_bounds_": (k,), "residual_bounds_": (k,)}
    for name, shape in expected.items():
        value = held.get(name)
        if value is not None and (not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != "f"):
            seen = getattr(value, "shape", type(value).__name__)
            raise ArtifactError(f"expected {name} of shape {shape}, found {seen} at {path}; save the model again")
    for value in (found.cleaning.code, found.cleaning.fill, found.quality.count, found.quality.m2):
        if value.shape != (d,):
            raise ArtifactError(f"expected a cleaning policy for {d} columns, found {value.shape} at {path}")


def _restore_record(path: str | os.PathLike[str], names: Sequence[str]) -> StateRecord:
    loaded = load_state(path)
    try:
        meta, arrays = loaded.meta, loaded.states
        mine, theirs = versions(), meta["versions"]
        other = [f"{name} {theirs.get(name)} (now {mine[name]})" for name in mine if theirs.get(name) != mine[name]]
        if other:
            log.warning(
                "the state at %s was made with %s: the result may differ in its last digits", path, ", ".join(other)
            )
        policy = from_arrays(Resolved, arrays["policy"])
        dtype = np.dtype(meta["dtype"])
        listed = (FileInfo(p, int(s), g, tuple(map(int, rows)), int(e)) for p, s, g, rows, e in meta["files"])
        files = Files(seen.marked(listed, seen.of_model(path)))
        format = Format.of(meta.get("constants", {}))
        pass_ = PASSES[meta["solver"]](Intake(names, dtype, policy, format))
        tree: Tree[Any] = Tree()
        restore_tree(arrays["tree"], meta["tree"], pass_.state_type(), tree)
        return StateRecord(tree, files, int(meta["rows"]), meta["solver"], policy, dtype, format)
    except STRANGE as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"expected a whole state at {path}, found {error!r}; fit again") from error
