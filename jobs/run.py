"""Run a job: plan, fit, save, write, report. Run again, it verifies; interrupted and run again, it goes on."""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from eigenmill.jobs import quality
from eigenmill.jobs.build import build_dataset, build_engine, build_estimator, build_sink, work_directory, workplace
from eigenmill.jobs.config import Job, JobFile
from eigenmill.jobs.fitted import Fitted, fit_key, found_model, save_fitted
from eigenmill.jobs.meter import Meter, forget_peak, peak_memory
from eigenmill.jobs.report import Bytes, Digests, RunReport, Written, all_versions, scan_records, stage_seconds
from eigenmill.reduce import Dataset, Manifest, Sink, files, places
from eigenmill.reduce.discovery import MAGIC
from eigenmill.reduce.engines.base import Engine, Progress
from eigenmill.reduce.engines.costs import Cluster
from eigenmill.reduce.errors import ConfigError, DoesNotFitError, OutputError
from eigenmill.reduce.plan import Plan, explain
from eigenmill.reduce.sink import read_manifest


@dataclass(frozen=True)
class Prepared:
    """A job ready to run: nothing has been read but metadata."""

    source: JobFile
    data: Dataset
    estimator: Any
    engine: Engine
    sink: Sink | None
    key: str
    work: str | None

    @property
    def job(self) -> Job:
        return self.source.job

    def plan(self) -> Plan:
        """What the job will take."""
        return explain(self.estimator, self.data, self.engine, self.sink)


def explained(source: JobFile, workers: int | None = None) -> Plan:
    """What a job will take, without running it; ``workers``: on a cluster of so many, which need not be there.

    Raises:
        ConfigError: see :func:`prepare`; a number of workers for a job on this machine.
    """
    if workers is None:
        prepared = prepare(source)
        with prepared.engine:
            return prepared.plan()
    spec = source.job.engine
    with source.blame("engine"):
        cluster = Cluster(spec.kind, workers, memory=spec.memory)
    sink = None if source.job.output.features is None else build_sink(source)
    return explain(build_estimator(source.job.reduce), build_dataset(source), cluster, sink)


def prepare(source: JobFile, progress: Progress | None = None) -> Prepared:
    """The job's data set, estimator, engine and sink.

    Raises:
        ConfigError: the job contradicts itself.
        DataError: the input is not there, or not what the job says.
    """
    job = source.job
    with source.blame("output"):
        _refuse_overlap(job)
    data = build_dataset(source)
    estimator = build_estimator(job.reduce)
    key = fit_key(job, data)
    work = work_directory(job, key)
    # A scaler keeps the columns and so their names.
    named = job.reduce.method == "scale" and "prefix" not in job.output.model_fields_set
    sink = None if job.output.features is None else build_sink(source, list(data.feature_names) if named else None)
    return Prepared(source, data, estimator, build_engine(source, work, progress), sink, key, work)


def run(source: JobFile, progress: Progress | None = None) -> RunReport:
    """Run a job to its end.

    A run that was killed or interrupted goes on where it stopped when the same job is run again; a job that is
    complete is verified and not repeated.

    Raises:
        EigenmillError: see :mod:`eigenmill.reduce.errors`. What is finished stays, and running again goes on from it.
    """
    with contextlib.ExitStack() as ending:
        return _run(source, Meter(progress), ending)


def _run(source: JobFile, meter: Meter, ending: contextlib.ExitStack) -> RunReport:
    """The run; what must be closed after it goes to ``ending``."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    forget_peak()
    with meter.stage("plan"):
        ready = prepare(source, meter)
        ending.enter_context(ready.engine)
        output = ready.job.output
        model = found_model(ready.job, ready.data, ready.key)
        fitted = model is None
        plan = ready.plan()
        if fitted and not plan.fits:
            raise DoesNotFitError(f"expected a plan within engine.memory, found that {plan.advice}")
        _refuse_other_features(ready)
        resumed = _begun(ready.work)
    manifest: Manifest | None = None
    with workplace(ready.work):
        if model is None:
            with meter.stage("fit"):
                model = ready.estimator.fit(ready.data, engine=ready.engine, keep_state=output.state)
        digest = model.digest_
        if output.model is not None and fitted:
            with meter.stage("save"):
                digest = _save(ready, model)
        if ready.sink is not None:
            with meter.stage("write"):
                manifest = ready.engine.write(model.transform(ready.data), ready.sink)
    scans = scan_records(meter.scans)
    written = [s for s in meter.scans if s.name == "write"]
    resumed |= any(0 < s.planned < ready.data.n_rows for s in written)
    unchanged = not fitted and not any(s.planned for s in written)
    encoded = sum(f.encoded for f in ready.data.source.files)
    share = sum(min(s.rows / max(ready.data.n_rows, 1), 1.0) for s in scans)
    made = model.snapshot()
    table = quality.columns(made.quality, made.names)
    ratio = made.arrays.get("explained_variance_ratio_")
    seconds = stage_seconds(meter)
    report = RunReport(
        status="unchanged" if unchanged else "complete",
        resumed=resumed,
        fitted=fitted,
        started=started,
        method=ready.job.reduce.method,
        solver=made.values.get("solver_", plan.solver),
        reason=plan.reason,
        rows=made.quality.rows,
        features=ready.data.n_features,
        components=made.values.get("n_components_"),
        files=plan.files,
        fragments=plan.fragments,
        bytes=Bytes(input=encoded, read=round(encoded * share), written=manifest.bytes if manifest else 0),
        scans=scans,
        seconds=seconds,
        rows_per_second=ready.data.n_rows / seconds["total"] if seconds["total"] else 0.0,
        peak_memory=peak_memory(),
        memory_limit=ready.engine.memory_limit(),
        workers=getattr(ready.engine, "workers", None),
        explained_variance_ratio=None if ratio is None else [float(r) for r in ratio],
        explained_variance=None if ratio is None else float(np.sum(ratio)),
        quality=quality.summary(table, made.quality.rows),
        digests=Digests(
            input=ready.data.source.digest,
            model=digest,
            output=None if manifest is None else manifest.digest,
        ),
        output=Written(
            features=ready.job.echo()["output"]["features"],
            model=ready.job.echo()["output"]["model"],
            rows=None if manifest is None else manifest.rows,
            parts=None if manifest is None else sum(len(p.files) for p in manifest.parts),
            names=[] if manifest is None else [(name, kind) for name, kind in manifest.schema],
        ),
        versions=all_versions(),
        job=ready.job.echo(),
    )
    # The report of the run that did the work is worth more than that of one that found it done.
    if output.report is not None and not (unchanged and _exists(output.report)):
        report.save(output.report)
    return report


def _save(ready: Prepared, model: Any) -> str:
    """Save the model and, after it, which job it belongs to; returns the model's digest."""
    output, spec = ready.job.output, ready.job.input
    path = str(output.model)
    digest: str = model.save(path, state=output.state, overwrite=output.overwrite)
    filters = spec.model_dump(mode="json")["filters"]
    save_fitted(path, Fitted(ready.key, digest, list(spec.carry), spec.weights, filters))
    return digest


def _begun(work: str | None) -> bool:
    """Whether an earlier run has left something to go on from."""
    if work is None:
        return False
    fs, directory = places.resolve(work)
    return any(name.endswith(".state") for name in files.names(fs, directory))


def _exists(path: str) -> bool:
    fs, target = places.resolve(path)
    return files.exists(fs, target)


def _refuse_other_features(ready: Prepared) -> None:
    """Refuse an output that the write would refuse, before the fit and not after it."""
    if ready.sink is None or ready.job.output.overwrite:
        return
    fs, path = places.resolve(ready.sink.path)
    names = files.names(fs, path) if files.exists(fs, path) else []
    if "_manifest.json" in names:
        found = read_manifest(ready.sink.path)
        if found.input.get("digest") != ready.data.source.digest:
            raise OutputError(
                f"expected output.features to be absent or written by this same job, found features of another input "
                f"({found.rows} rows) at {path}; choose another path, or set output.overwrite: true"
            )
    elif "_job.json" not in names and (foreign := files.visible_files(fs, path)):
        raise OutputError(
            f"expected output.features to be absent or empty, found files such as {next(iter(foreign))} at {path}; "
            "choose another path"
        )


def _refuse_overlap(job: Job) -> None:
    """Refuse outputs that lie in one another or in a directory of the input, where a later run would read them."""
    paths = [job.input.path] if isinstance(job.input.path, str) else job.input.path
    outputs: list[tuple[str, str | None]] = [("input.path", path) for path in paths if not MAGIC.search(path)]
    outputs += [("output.features", job.output.features), ("output.model", job.output.model)]
    found = [(name, places.resolve(path)[1].rstrip("/") + "/") for name, path in outputs if path is not None]
    for name, path in found:
        for other, outer in found:
            if name == other or not path.startswith(outer):
                continue
            # A model under a name that readers skip may lie in the features.
            if path == outer or not path.removeprefix(outer).startswith(("_", ".")):
                raise ConfigError(
                    f"expected {name} apart from {other}, found {path} in {outer}; choose another directory"
                )


__all__ = ["Prepared", "explained", "prepare", "run"]
