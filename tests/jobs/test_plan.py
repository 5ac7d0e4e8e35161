"""A plan says what a run will do: exact fields are equal, bounded ones hold, memory is the worst case."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.exceptions import ConvergenceWarning

from eigenmill.jobs.reduction.config import JobFile, load_job
from eigenmill.jobs.reduction.report import RunReport
from eigenmill.jobs.reduction.run import plan_of, run
from eigenmill.reduce.errors import ConfigError, DataError
from eigenmill.reduce.output.manifest import read_manifest
from eigenmill.reduce.plan import Plan
from tests.jobs.random_jobs import random_job
from tests.jobs.test_conf import CONF, MAKE, SMALLER


def ran(source: JobFile) -> RunReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few scans are on purpose
        return run(source)


def check(plan: Plan, report: RunReport, source: JobFile, *, memory: bool = False) -> None:
    """The report lies within the plan; the peak of memory too, where nothing else has made it."""
    job, outcome = source.job, report.outcome()
    if not memory:
        outcome = replace(outcome, peak=None)
    assert plan.misses(outcome) == []
    assert (plan.solver, plan.reason) == (report.solver, report.reason)
    assert (plan.features, plan.files, plan.fragments) == (report.features, report.files, report.fragments)
    assert plan.encoded_bytes == report.bytes.input
    names = [scan.name for scan in report.scans]
    assert names == [scan.name for scan in plan.scans for _ in range(_times(plan, scan, names))]
    for scan in report.scans:
        assert scan.rows <= plan.rows
        # A write counts the rows that are left; all others count those that are read.
        if job.input.filters is None and (scan.name != "write" or job.input.missing != "drop"):
            assert scan.rows == plan.rows
    # Once the number of components is known, so is what is written.
    known = plan.with_components(plan.features if report.components is None else report.components)
    assert known.misses(outcome) == []
    if job.output.features is not None:
        assert known.output is not None
        manifest = read_manifest(job.output.features)
        assert known.output.parts.known
        assert known.output.parts.least == len(manifest.parts)
        k = len(manifest.schema) - len(job.input.carry) if job.output.layout == "columns" else known.components.least
        assert known.components.least == k
        assert plan.output is not None
        assert len(manifest.parts) in plan.output.parts
        assert known.output.bytes.least in plan.output.bytes


def _times(plan: Plan, scan: Any, names: list[str]) -> int:
    """How often a scan ran: all others of its name are exact."""
    others = sum(each.times.most for each in plan.scans if each.name == scan.name and each is not scan)
    return names.count(scan.name) - others


@pytest.mark.parametrize("name", sorted(MAKE))
def test_the_jobs_of_conf_keep_to_their_plans(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, make = MAKE[name]
    (tmp_path / place).mkdir(parents=True)
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eigenmill.reduce.engines.ledger.resident", lambda: 300 << 20)
    source = load_job(CONF / f"{name}.yaml", SMALLER.get(name, []))
    check(plan_of(source), ran(source), source)


def one_that_runs(seed: int, folder: Path, **options: Any) -> tuple[Plan, RunReport, JobFile]:
    """A random job of this seed, or of the next try, that its data allow."""
    for attempt in range(20):
        source = random_job(1000 * seed + attempt, folder / str(attempt), **options)
        try:
            plan = plan_of(source)
            return plan, ran(source), source
        except (ConfigError, DataError):
            continue
    raise AssertionError("no job in twenty runs")


@pytest.mark.parametrize("seed", range(40))
def test_a_random_job_keeps_to_its_plan(seed: int, tmp_path: Path) -> None:
    check(*one_that_runs(seed, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 340))
def test_a_larger_random_job_keeps_to_its_plan_and_memory(seed: int, tmp_path: Path) -> None:
    check(*one_that_runs(seed, tmp_path, size=8), memory=True)
