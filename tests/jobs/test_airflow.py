"""The DAG in a real Airflow, which has an environment of its own and no eigenmill (`make airflow` makes it)."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eigenmill.reduce import load
from tests.jobs.test_daily import DAYS, ROWS, pointer, swapped
from tests.support.trees import tree

ROOT = Path(__file__).parents[2]
DAG = ROOT / "jobs/airflow_dag.py"
FLOW = ROOT / "build/airflow"
STAGES = ["fit", "gate", "project", "publish"]


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """The environment of an Airflow with a database and a DAGs folder of its own; eigenmill is not on its path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTHON", "COV", "EIGENMILL"))}
    (home / "dags").mkdir(parents=True, exist_ok=True)
    (home / "dags/airflow_dag.py").write_text(DAG.read_text())
    return {**kept, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **more}


def call(env: dict[str, str], *command: str, seconds: float = 300) -> str:
    run = subprocess.run(
        [str(FLOW / "bin" / command[0]), *command[1:]],
        env=env,
        cwd=env["AIRFLOW_HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    return run.stdout


def test_the_dag_imports_nothing_of_ours_and_nothing_heavy() -> None:
    modules = set()
    for node in ast.walk(ast.parse(DAG.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module))
    assert {name.partition(".")[0] for name in modules} == {"__future__", "os", "datetime", "airflow"}


def test_every_stage_is_a_command() -> None:
    from eigenmill.jobs.daily.stages import STAGES as FOUND

    assert list(FOUND) == STAGES
    for stage in STAGES:
        assert f'"{stage}": ' in DAG.read_text()


PARSE = """
import json, sys
import pendulum
sys.path.insert(0, "dags")
from airflow_dag import dag
from airflow.serialization.serialized_objects import DagSerialization
kept = DagSerialization.from_dict(DagSerialization.to_dict(dag))
interval = kept.timetable.infer_manual_data_interval(run_after=pendulum.datetime(2026, 11, 2))
print(json.dumps({
    "tasks": list(kept.task_dict),
    "downstream": {t.task_id: sorted(t.downstream_task_ids) for t in kept.tasks},
    "retries": [t.retries for t in kept.tasks],
    "past": [t.depends_on_past for t in kept.tasks],
    "catchup": kept.catchup,
    "active": kept.max_active_runs,
    "start": kept.start_date.isoformat(),
    "interval": [interval.start.isoformat(), interval.end.isoformat()],
    "params": dag.params.dump(),
    "given": [[t.get_env({}).get(name) for name in ("PROXY_OF_OURS", "EIGENMILL_DAY")] for t in dag.tasks],
    "ours": sorted(m for m in sys.modules if m.partition(".")[0] in ("eigenmill", "sklearn", "pyarrow")),
}))
"""


@pytest.mark.skipif(not (FLOW / ".installed").exists(), reason="Airflow's environment: make airflow")
def test_it_parses_and_serializes(tmp_path: Path) -> None:
    env = surroundings(
        tmp_path, EIGENMILL_START="2026-11-01", EIGENMILL_PYTHON="/opt/e/bin/python", PROXY_OF_OURS="http://proxy"
    )
    found: dict[str, Any] = json.loads(call(env, "python", "-W", "ignore", "-c", PARSE).splitlines()[-1])
    assert found["tasks"] == STAGES
    assert found["downstream"] == {"fit": ["gate"], "gate": ["project"], "project": ["publish"], "publish": []}
    assert found["retries"] == [3] * 4
    assert found["past"] == [True] * 4
    assert (found["catchup"], found["active"]) == (True, 1)
    assert found["start"] == "2026-11-01T00:00:00+00:00"
    assert found["interval"] == ["2026-11-01T00:00:00+00:00", "2026-11-02T00:00:00+00:00"]
    assert found["params"] == {"config": "conf/daily.yaml", "python": "/opt/e/bin/python", "home": ".", "day": None}
    # Stages have the environment of Airflow's worker, with its proxies and keys, and their own variables.
    assert found["given"] == [["http://proxy", "{{ params.day or (data_interval_start | ds) }}"]] * 4
    assert found["ours"] == []


@pytest.mark.slow
def test_three_days_twice_in_a_real_airflow_and_the_second_time_changes_no_byte(tmp_path: Path) -> None:
    if not (FLOW / ".installed").exists():
        subprocess.run(["make", "airflow"], cwd=ROOT, check=True)
    swapped(tmp_path)  # the third day drifts
    env = surroundings(
        tmp_path / "airflow",
        EIGENMILL_PYTHON=sys.executable,
        EIGENMILL_CONFIG="daily.yaml",
        EIGENMILL_HOME=str(tmp_path),
        EIGENMILL_START=DAYS[0],
    )
    call(env, "airflow", "db", "migrate")
    # A run on a date is that of the interval which ends there.
    ends = ["2026-11-02", "2026-11-03", "2026-11-04"]
    for day, end in zip(DAYS, ends, strict=True):
        log = call(env, "airflow", "dags", "test", "eigenmill_daily", end)
        assert f"{day} publish: version" in log
        assert "state=success" in log
    assert pointer(tmp_path)["version"] == 2
    assert list(pointer(tmp_path)["days"]) == DAYS
    assert load(tmp_path / "out/published/model").n_samples_ == 3 * ROWS
    assert pq.read_table(tmp_path / "out/published/features").num_rows == 3 * ROWS
    before = tree(tmp_path / "out")
    for day, end in zip(DAYS, ends, strict=True):
        log = call(env, "airflow", "dags", "test", "eigenmill_daily", end)
        assert [f"{day} {stage}: " in log for stage in STAGES] == [True] * 4
        assert log.count("(nothing to do)") == 4
    assert tree(tmp_path / "out") == before
    # By hand: a day of one's own choice, as text that a shell must not take for more.
    chosen = json.dumps({"day": DAYS[0]})
    assert f"{DAYS[0]} fit: " in call(env, "airflow", "dags", "test", "eigenmill_daily", "2026-12-01", "--conf", chosen)
    assert tree(tmp_path / "out") == before
