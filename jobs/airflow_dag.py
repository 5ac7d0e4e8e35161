"""The day-by-day job as an Airflow 3 DAG: one task per stage, every day once, in order. Put it into the DAGs folder.

Airflow and eigenmill live in environments of their own: nothing of eigenmill is imported here, the tasks call its
interpreter. Where things are is said by the environment of Airflow, or by the parameters of a run:

    EIGENMILL_PYTHON   interpreter of the environment that eigenmill is installed in
    EIGENMILL_CONFIG   the day-by-day job file, such as conf/daily.yaml
    EIGENMILL_HOME     directory that the paths in that file are relative to
    EIGENMILL_START    first day, such as 2026-11-01

A run belongs to a data interval of one day, and its first day is the ``--day`` of every stage. Whatever was missed is
caught up, one day after another. All stages may be retried, and a day cleared and run again: when its files are the
same, no byte changes. A day whose files have not come yet fails, is retried, and then waits to be cleared.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param, chain

# Values reach the shell as variables, never as text of the command: nothing in them is taken for one.
COMMAND = 'exec "$EIGENMILL_PYTHON" -m eigenmill daily {stage} --config "$EIGENMILL_CONFIG" --day "$EIGENMILL_DAY"'
SURROUNDINGS = {
    "EIGENMILL_PYTHON": "{{ params.python }}",
    "EIGENMILL_CONFIG": "{{ params.config }}",
    "EIGENMILL_DAY": "{{ params.day or (data_interval_start | ds) }}",
}
STAGES = {
    "fit": "Go on from the saved state with the day's new files only.",
    "gate": "Compare with the published model: its basis stays frozen until a bound of drift is passed.",
    "project": "Write the features of the day, or of all days again when the gate has opened.",
    "publish": "Move the pointer to what is whole now.",
}

with DAG(
    dag_id="eigenmill_daily",
    description="Reduce each day's new files; publish a new basis only when the data has drifted",
    # Not "@daily" itself: its runs have no interval unless Airflow is configured so.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime.fromisoformat(os.environ.get("EIGENMILL_START", "2026-01-01")).replace(tzinfo=UTC),
    catchup=True,
    max_active_runs=1,
    default_args={
        "owner": "eigenmill",
        "depends_on_past": True,
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
    },
    params={
        "config": Param(
            os.environ.get("EIGENMILL_CONFIG", "conf/daily.yaml"), type="string", title="Day-by-day job file"
        ),
        "python": Param(
            os.environ.get("EIGENMILL_PYTHON", "python3"), type="string", title="Interpreter that has eigenmill"
        ),
        "home": Param(os.environ.get("EIGENMILL_HOME", "."), type="string", title="Directory of relative paths"),
        "day": Param(
            None, type=["null", "string"], format="date", title="Day", description="By default the run's own interval"
        ),
    },
    doc_md=__doc__,
    tags=["eigenmill"],
) as dag:
    chain(
        *(
            BashOperator(
                task_id=stage,
                doc_md=what,
                bash_command=COMMAND.format(stage=stage),
                env=SURROUNDINGS,
                append_env=True,
                cwd="{{ params.home }}",
                do_xcom_push=False,
            )
            for stage, what in STAGES.items()
        )
    )
