"""From a job to the objects of :mod:`reduce`: a data set, an estimator, an engine, a sink."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.config import Input, Job, JobFile, Output, Reduction
from reduce import PCA, Dataset, Sink, StandardScaler, TruncatedSVD, connect
from reduce.engines.base import Engine, Progress


def layout_of(spec: Input) -> dict[str, Any]:
    """The keywords of ``Dataset.from_parquet`` that choose the features, as far as the job gives them."""
    if spec.sparse is not None:
        return {"sparse": [spec.sparse.indices, spec.sparse.values, spec.sparse.n_features]}
    given = {"vector": spec.vector, "columns": spec.columns, "n_features": spec.n_features, "dtype": spec.dtype}
    return {name: value for name, value in given.items() if value is not None}


def filters_of(conditions: Sequence[Any] | None) -> Any:
    """Conditions as :mod:`reduce.filters` wants them: tuples, in a list or in a list of lists."""
    if conditions is None:
        return None
    if isinstance(conditions[0][0], str):
        return [tuple(condition) for condition in conditions]
    return [[tuple(condition) for condition in group] for group in conditions]


def cleaning_of(spec: Input) -> dict[str, Any]:
    """The keywords of :class:`reduce.Cleaning`."""
    clip = spec.clip
    bounds = {k: tuple(v) for k, v in clip.items()} if isinstance(clip, dict) else None if clip is None else tuple(clip)
    return {"missing": spec.missing, "clip": bounds, "clip_sd": spec.clip_sd}


def build_dataset(source: JobFile, **cleaning: Any) -> Dataset:
    """The input of a job; reads footers only. ``cleaning`` takes the place of the job's own."""
    spec = source.job.input
    with source.blame("input"):
        return Dataset.from_parquet(
            spec.path,
            **layout_of(spec),
            carry=spec.carry,
            weights=spec.weights,
            filters=filters_of(spec.filters),
            **(cleaning or cleaning_of(spec)),
        )


def build_estimator(spec: Reduction) -> Any:
    """The estimator, not yet fitted."""
    if spec.method == "scale":
        return StandardScaler(with_mean=spec.center, with_std=spec.scale is not False)
    shared: dict[str, Any] = {
        "n_components": spec.components,
        "scale": bool(spec.scale),
        "solver": spec.solver,
        "refine": spec.refine,
        "precision": spec.precision,
        "random_state": spec.seed,
    }
    return PCA(whiten=spec.whiten, **shared) if spec.method == "pca" else TruncatedSVD(**shared)


def build_engine(source: JobFile, work: Path | None, progress: Progress | None) -> Engine:
    """The engine; no scan has begun."""
    spec = source.job.engine
    options = {"workers": spec.workers, "memory": spec.memory, "work": work, "save_every": spec.save_every}
    with source.blame("engine"):
        return connect(spec.kind, progress=progress, **options)


def build_sink(source: JobFile, names: Sequence[str] | None = None) -> Sink:
    """The sink of the features. ``names`` are those of the columns, if they are not to be numbered."""
    spec = source.job.output
    if spec.features is None:
        raise ValueError("expected output.features")
    with source.blame("output"):
        return Sink(spec.features, names=names if spec.layout == "columns" else None, **sink_options(spec))


def sink_options(spec: Output) -> dict[str, Any]:
    """The keywords of :class:`reduce.Sink`, the place apart."""
    shared = ("layout", "column", "prefix", "dtype", "partition_by", "part_bytes", "compression", "overwrite")
    return {name: getattr(spec, name) for name in shared}


def work_directory(job: Job, key: str) -> Path | None:
    """Where an interrupted run leaves what it goes on from; None when all output is remote and no place is named."""
    if job.engine.work is not None:
        return Path(job.engine.work) / f"eigenmill-{key[:16]}"
    beside = next((p for p in (job.output.model, job.output.features) if p is not None and "://" not in p), None)
    if beside is None:
        return None
    target = Path(beside).absolute()
    return target.parent / f".{target.name}.work-{key[:16]}"
