"""``eigenmill reduce`` on the session that spark-submit starts: same options, report and exit codes.

::

    spark-submit --master spark://host:7077 --py-files dist/eigenmill.zip jobs/spark_submit.py conf/spark.yaml

The zip (``make dist``) brings this package to driver and executors, whose Python needs its dependencies installed.
``engine.kind`` of the job file does not matter: it is spark here.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run the job file that the arguments name, and leave with the exit code of :mod:`jobs.exits`."""
    # Python puts the directory of a script first, where our modules have short names.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    from jobs.cli import app
    from reduce.engines.spark_session import stop

    try:
        app(["reduce", *arguments, "--engine", "spark"], prog_name="spark-submit ... jobs/spark_submit.py")
    finally:
        stop()


if __name__ == "__main__":
    main(sys.argv[1:])
