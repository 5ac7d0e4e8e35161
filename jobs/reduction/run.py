"""Run a job: plan, fit, save, write, report. Run again, it verifies; interrupted and run again, it goes on."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eigenmill.jobs.reduction import quality
from eigenmill.jobs.reduction.build import (
    build_dataset,
    build_engine,
    build_estimator,
    build_sink,
    work_directory,
    workplace,
)
from eigenmill.jobs.reduction.config import Job, JobFile
from eigenmill.jobs.reduction.fitted import Fitted, fit_key, found_model, save_fitted
from eigenmill.jobs.reduction.meter import MeasuredScan, Meter, forget_peak, peak_memory, told_of_remade
from eigenmill.jobs.reduction.report import (
    Bytes,
    Digests,
    RunReport,
    ScanRecord,
    Written,
    all_versions,
)
from eigenmill.reduce import Dataset, Manifest, Sink
from eigenmill.reduce.engines.base import Engine, Progress
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.plan import Plan
from eigenmill.reduce.sources import apart, seen
from eigenmill.reduce.storage import exclusive, files, places, secrets
from eigenmill.reduce.storage.artifact import has_model


@dataclass(frozen=True)
class Prepared:
    """A job ready to run: nothing has been read but metadata."""

    source: JobFile
    data: Dataset
    estimator: Estimator
    engine: Engine
    sink: Sink | None
    key: str
    work: str | None

    @property
    def job(self) -> Job:
        return self.source.job

    def plan(self) -> Plan:
        """What the job will do."""
        plan: Plan = self.estimator.plan(
            self.data, engine=self.engine, sink=self.sink, keep_state=self.job.output.state
        )
        return plan


@dataclass(frozen=True)
class Results:
    """What a job has made, or found made.

    Attributes:
        model: fitted. digest: of the saved one. fitted: whether this run did it.
        manifest: of the features.
        known_by: by what the input is known to be that of all these.
    """

    model: Snapshot
    digest: str | None
    fitted: bool
    manifest: Manifest | None
    known_by: seen.Known


def plan_of(source: JobFile, workers: int | None = None) -> Plan:
    """What a job will take, without running it; ``workers``: on a cluster of so many, which need not be there.

    Raises:
        ConfigError: see :func:`prepare`; a number of workers for a job on this machine.
    """
    if workers is None:
        prepared = prepare(source)
        with prepared.engine:
            return prepared.plan()
    refuse_overlap(source)
    spec = source.job.engine
    with source.blame("engine"):
        cluster = Cluster(spec.kind, workers, memory=spec.memory)
    sink = None if source.job.output.features is None else build_sink(source)
    estimator, data = build_estimator(source.job.reduce), build_dataset(source)
    plan: Plan = estimator.plan(data, engine=cluster, sink=sink, keep_state=source.job.output.state)
    return plan


def prepare(source: JobFile, progress: Progress | None = None) -> Prepared:
    """The job's data set, estimator, engine and sink.

    Raises:
        ConfigError: the job contradicts itself.
        DataError: the input is not there, or not what the job says.
    """
    job = source.job
    refuse_overlap(source)
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
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    meter = Meter(progress)
    forget_peak()
    with contextlib.ExitStack() as ending:
        remade = ending.enter_context(told_of_remade())
        with meter.stage("plan"):
            ready = prepare(source, meter)
            ending.enter_context(ready.engine)
            model = found_model(ready.job, ready.data, ready.key)
            plan = ready.plan()
            if model is None:
                plan.refuse("engine.memory")
            _refuse_places(ready, model is not None)
            resumed = _begun(ready.work)
        output, manifest, fitted = ready.job.output, None, model is None
        ending.enter_context(workplace(ready.work))
        if model is None:
            with meter.stage("fit"):
                model = ready.estimator.fit(ready.data, engine=ready.engine, keep_state=output.state, plan=plan)
        digest = model.digest_
        if output.model is not None and fitted:
            with meter.stage("save"):
                digest = _save(ready, model)
        if ready.sink is not None:
            with meter.stage("write"):
                manifest = ready.engine.write(model.transform(ready.data), ready.sink)
        results = Results(model.snapshot(), digest, fitted, manifest, _known_by(ready))
        report = _report(ready, plan, results, meter, started=started, resumed=resumed, remade=remade)
    # The report of the run that did the work is worth more than that of one that found it done.
    path = ready.job.output.report
    if path is not None and not (report.status == "unchanged" and _exists(path)):
        report.save(path)
    return report


def _report(
    ready: Prepared, plan: Plan, results: Results, meter: Meter, *, started: str, resumed: bool, remade: list[str]
) -> RunReport:
    """What the job has done."""
    model, manifest = results.model, results.manifest
    scans = _scan_records(meter.scans)
    written = [s for s in meter.scans if s.name == "write"]
    unchanged = not results.fitted and not any(s.planned for s in written)
    share = sum(min(s.rows / max(plan.rows, 1), 1.0) for s in scans)
    ratio = model.arrays.get("explained_variance_ratio_")
    seconds = {**meter.seconds, "total": sum(meter.seconds.values())}
    echo = ready.job.echo()
    return RunReport(
        status="unchanged" if unchanged else "complete",
        known_by=results.known_by if unchanged else None,
        resumed=resumed or any(0 < s.planned < plan.rows for s in written),
        fitted=results.fitted,
        started=started,
        method=ready.job.reduce.method,
        solver=model.values.get("solver_", plan.solver),
        reason=plan.reason,
        rows=model.quality.rows,
        features=plan.features,
        components=model.values.get("n_components_"),
        files=plan.files,
        fragments=plan.fragments,
        bytes=Bytes(
            input=plan.encoded_bytes,
            read=round(plan.encoded_bytes * share),
            written=manifest.bytes if manifest else 0,
        ),
        scans=scans,
        seconds=seconds,
        rows_per_second=plan.rows / seconds["total"] if seconds["total"] else 0.0,
        peak_memory=peak_memory(),
        memory_limit=plan.memory_limit,
        workers=ready.engine.workers,
        explained_variance_ratio=None if ratio is None else [float(r) for r in ratio],
        explained_variance=None if ratio is None else float(np.sum(ratio)),
        remade=[secrets.masked(each) for each in remade],
        quality=quality.summary(quality.columns(model.quality, model.names), model.quality.rows),
        digests=Digests(
            input=ready.data.source.digest,
            model=results.digest,
            output=None if manifest is None else manifest.digest,
        ),
        output=Written(
            features=echo["output"]["features"],
            model=echo["output"]["model"],
            rows=None if manifest is None else manifest.rows,
            parts=None if manifest is None else sum(len(p.files) for p in manifest.parts),
            names=[] if manifest is None else [(name, kind) for name, kind in manifest.schema],
        ),
        versions=all_versions(),
        job=echo,
    )


def _scan_records(scans: Sequence[MeasuredScan]) -> list[ScanRecord]:
    """The scans that have read something."""
    return [
        ScanRecord(
            name=s.name, rows=s.rows, seconds=s.seconds, rows_per_second=s.rows / s.seconds if s.seconds else 0.0
        )
        for s in scans
        if s.rows
    ]


def _save(ready: Prepared, model: Estimator) -> str:
    """Save the model, and with it which job it belongs to; returns the model's digest."""
    output, spec = ready.job.output, ready.job.input
    filters = spec.model_dump(mode="json")["filters"]
    fitted = Fitted(ready.key, carry=list(spec.carry), weights=spec.weights, filters=filters)
    inputs = seen.absolute_files(ready.data.source)
    return save_fitted(
        model, str(output.model), fitted, state=output.state, overwrite=output.overwrite, seen_files=inputs
    )


def _known_by(ready: Prepared) -> seen.Known:
    """By what the input is known to be the one that model and features were made of."""
    output, marks = ready.job.output, []
    if output.model is not None:
        marks.append(seen.of_model(output.model))
    if output.features is not None:
        fs, directory = places.resolve(output.features)
        marks.append(seen.read(fs, f"{directory}/{seen.NAME}"))
    return seen.weakest(seen.check(ready.data.source, each) for each in marks)


def _begun(work: str | None) -> bool:
    """Whether an earlier run has left something to go on from."""
    if work is None:
        return False
    fs, directory = places.resolve(work)
    return any(name.endswith(".state") for name in files.names(fs, directory))


def _exists(path: str) -> bool:
    fs, target = places.resolve(path)
    return files.exists(fs, target)


def _refuse_places(ready: Prepared, fitted: bool) -> None:
    """Refuse before the fit, and not after it, what cannot be written."""
    output = ready.job.output
    if output.model is not None:
        fs, path = places.resolve(output.model)
        files.check_writable(fs, path)
        if not fitted and has_model(output.model):
            exclusive.require(fs, path, "replace the model in")
    if output.report is not None:
        fs, path = places.resolve(output.report)
        files.check_writable(fs, files.split(path)[0])
    if ready.sink is not None and not fitted:
        other = output.overwrite and output.model is not None and has_model(output.model)
        with ready.source.blame("output"):
            ready.sink.check(ready.data, other=other)


def refuse_overlap(source: JobFile) -> None:
    """Refuse outputs that are inputs or lie in one another, before anything is read."""
    job = source.job
    name, work = source.document.name, job.engine.work
    outputs = {f"output.{each}": getattr(job.output, each) for each in ("features", "model", "report")}
    outputs["engine.work"] = None if work is None else places.below(work, "eigenmill-0")
    with source.blame("output"):
        apart.refuse(
            {"input.path": job.input.path, "the job file": name if os.path.exists(name) else None},
            outputs,
            holds=(*apart.PARTS, "model.json", "eigenmill.state"),
        )


__all__ = ["Prepared", "plan_of", "prepare", "run"]
