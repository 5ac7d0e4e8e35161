"""A command of eigenmill on the session that spark-submit starts: same options, output and exit codes.

::

    spark-submit --master spark://host:7077 --py-files dist/eigenmill.zip jobs/spark_submit.py conf/spark.yaml
    spark-submit ... jobs/spark_submit.py transform out/model data/new --out out/new-features

A job file alone is reduced. The zip (``make dist``) brings this package to driver and executors, whose Python needs
its dependencies installed. ``engine.kind`` of the job file does not matter: it is spark here.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the directory of a script first, where our rooms have short names.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]

from eigenmill.jobs.cli import app
from eigenmill.reduce.engines.kinds import ENGINES

COMMANDS = ("reduce", "transform", "reconstruct", "update", "predict")
"""Those that take ``--engine``."""


def main(arguments: list[str]) -> None:
    """Run the command or job file that is named, and leave with the exit code of :mod:`eigenmill.jobs.shown.exits`."""
    named = arguments if arguments[:1] and arguments[0] in COMMANDS else ["reduce", *arguments]
    try:
        app([*named, "--engine", "spark"], prog_name="spark-submit ... jobs/spark_submit.py")
    finally:
        ENGINES["spark"].sessions().stop()


if __name__ == "__main__":
    main(sys.argv[1:])
