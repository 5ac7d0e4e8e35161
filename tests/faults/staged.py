"""A job in a process of its own that prints a line for each stage that begins."""

from __future__ import annotations

import subprocess
import time


class Staged:
    """The job.

    Attributes:
        process: it; its standard output is a pipe.
        printed: the lines read so far, one for each stage that has begun.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed: list[str] = []

    def told(self) -> str:
        """What it has logged, for the message when a stage never comes."""
        raise NotImplementedError

    def until(self, stage: str, count: int = 1) -> float:
        """Wait for a stage to begin, for the ``count``-th time; when it did."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line.strip())
            count -= line.strip() == stage
            if not count:
                return time.monotonic()
        raise AssertionError("\n".join([*self.printed, self.told()]))
