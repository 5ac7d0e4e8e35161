"""From a job to the objects of :mod:`reduce`: a data set, an estimator, an engine, a sink."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from eigenmill.jobs.reduction.config import Input, Job, JobFile, Output, Reduction
from eigenmill.reduce import PCA, Dataset, Sink, StandardScaler, TruncatedSVD, connect
from eigenmill.reduce.engines import ENGINES
from eigenmill.reduce.engines.base import Engine, Progress
from eigenmill.reduce.errors import ConfigError, OutputError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.storage import files, places


def layout_of(spec: Input) -> dict[str, Any]:
    """The keywords of ``Dataset.from_parquet`` that choose the features, as far as the job gives them."""
    if spec.sparse is not None:
        return {"sparse": [spec.sparse.indices, spec.sparse.values, spec.sparse.n_features]}
    given = {"vector": spec.vector, "columns": spec.columns, "n_features": spec.n_features, "dtype": spec.dtype}
    return {name: value for name, value in given.items() if value is not None}


def filters_of(conditions: Sequence[Any] | None) -> Any:
    """Conditions as :mod:`eigenmill.reduce.sources.filters` wants them: tuples, in a list or in a list of lists."""
    if conditions is None:
        return None
    if isinstance(conditions[0][0], str):
        return [tuple(condition) for condition in conditions]
    return [[tuple(condition) for condition in group] for group in conditions]


def cleaning_of(spec: Input) -> dict[str, Any]:
    """The keywords of :class:`eigenmill.Cleaning`."""
    clip = spec.clip
    bounds = {k: tuple(v) for k, v in clip.items()} if isinstance(clip, dict) else None if clip is None else tuple(clip)
    return {"missing": spec.missing, "clip": bounds, "clip_sd": spec.clip_sd}


def build_dataset(source: JobFile, **cleaning: object) -> Dataset:
    """The input of a job; reads footers only. ``cleaning`` takes the place of the job's own."""
    spec = source.job.input
    with source.blame("input"):
        return Dataset.from_parquet(
            spec.path,
            **layout_of(spec),
            carry=spec.carry,
            weights=spec.weights,
            filters=filters_of(spec.filters),
            verify=spec.verify,
            **(cleaning or cleaning_of(spec)),
        )


def build_estimator(spec: Reduction) -> Estimator:
    """The estimator, not yet fitted."""
    if spec.method == "scale":
        return StandardScaler(with_mean=spec.center, with_std=spec.scale is not False)
    shared: dict[str, Any] = {
        "n_components": spec.components,
        "scale": bool(spec.scale),
        "solver": spec.solver,
        "refine": spec.refine,
        "precision": spec.precision,
        "tol": spec.tol,
        "max_scans": spec.max_scans,
        "max_components": spec.max_components,
        "block_size": spec.block_size,
        "random_state": spec.seed,
    }
    return PCA(whiten=spec.whiten, **shared) if spec.method == "pca" else TruncatedSVD(**shared)


def build_engine(source: JobFile, work: str | None, progress: Progress | None) -> Engine:
    """The engine, which has opened nothing yet.

    Raises:
        ConfigError: an option is wrong, or no cluster is named.
        EngineError: there is no Spark session to be had.
    """
    spec = source.job.engine
    options: dict[str, Any] = {"memory": spec.memory, "work": work, "progress": progress}
    with source.blame("engine"):
        if spec.kind == "dask":
            return connect("dask", _scheduler(spec.address), **options)
        if spec.kind == "spark":
            return connect("spark", _session(spec.master, spec.remote), **options)
        return connect("local", workers=spec.workers, save_every=spec.save_every, disk=spec.disk, **options)


@contextlib.contextmanager
def command_engine(
    kind: str, out: str, *, workers: int | None = None, memory: str | None = None, progress: Progress | None = None
) -> Iterator[Engine]:
    """The engine of a command that has no job file; what a cluster's workers share lies hidden beside ``out``.

    Raises:
        ConfigError: there is no such engine, no cluster is named, or a cluster is given a number of workers.
        EngineError: the cluster does not answer.
    """
    if kind not in ENGINES or ENGINES[kind].client is None:
        yield connect(kind, workers=workers, memory=memory, progress=progress)
        return
    if workers is not None:
        raise ConfigError(f"expected no --workers with --engine {kind}, found {workers}; a cluster has its own workers")
    client = _scheduler(None) if kind == "dask" else _session(None, None)
    work = _hidden(out, "")
    with (
        workplace(work),
        connect(kind, client, memory=memory, work=work, progress=progress) as engine,
    ):
        yield engine


def _scheduler(address: str | None) -> str:
    """The address of the Dask scheduler."""
    found = address or os.environ.get("DASK_SCHEDULER_ADDRESS")
    if not found:
        raise ConfigError(
            "expected the scheduler of a Dask cluster, found none; "
            "set engine.address=tcp://host:8786, or DASK_SCHEDULER_ADDRESS"
        )
    return found


def _session(master: str | None, remote: str | None) -> Any:
    """The Spark session of this process, started if there is none."""
    try:
        sessions = ENGINES["spark"].sessions()
    except ModuleNotFoundError as error:
        raise ConfigError(f"expected the extra for 'spark': pip install 'eigenmill[spark]' ({error})") from error
    return sessions.session(master=master, remote=remote)


def build_sink(source: JobFile, names: Sequence[str] | None = None) -> Sink:
    """The sink of the features. ``names`` are those of the columns, if they are not to be numbered."""
    spec = source.job.output
    if spec.features is None:
        raise ValueError("expected output.features")
    with source.blame("output"):
        return Sink(spec.features, names=names if spec.layout == "columns" else None, **sink_options(spec))


def sink_options(spec: Output) -> dict[str, Any]:
    """The keywords of :class:`eigenmill.Sink`, the place apart."""
    shared = ("layout", "column", "prefix", "dtype", "partition_by", "part_bytes", "compression", "overwrite")
    return {name: getattr(spec, name) for name in shared}


def work_directory(job: Job, key: str) -> str | None:
    """Where an interrupted run leaves what it goes on from: hidden beside the output, if no place is named.

    None for a local engine whose output is remote: a cluster's workers see the remote place, and use it.
    """
    if job.engine.work is not None:
        return places.below(job.engine.work, f"eigenmill-{key[:16]}")
    outputs = [path for path in (job.output.model, job.output.features) if path is not None]
    beside = next((p for p in outputs if "://" not in places.absolute(p)), None)
    if job.engine.kind != "local":
        beside = outputs[0]
    if beside is None:
        return None
    return _hidden(beside, f"-{key[:16]}")


@contextlib.contextmanager
def workplace(work: str | None) -> Iterator[None]:
    """The directory of checkpoints, there while the job runs and left there when it does not end well."""
    if work is None:
        yield
        return
    fs, directory = places.resolve(work)
    files.make_directory(fs, directory)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if places.is_local(fs):
                os.rmdir(directory)  # an empty one is of no use, whatever happened
    with contextlib.suppress(OutputError):
        files.remove(fs, directory, "directory")


def _hidden(output: str, ending: str) -> str:
    """A directory beside an output, under a name that readers skip."""
    return places.beside(output, ".", f".work{ending}")
