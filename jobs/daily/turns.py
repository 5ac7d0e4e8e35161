"""Turns: of two runs that change one day-by-day job at once, one waits, or one is told.

A run reads the number of the job's newest generation (:mod:`eigenmill.reduce.storage.chain`) before it reads any
record. Before each thing that it changes it takes the next number. When that is taken already, another run has changed
something since, so that what was read may no longer hold: the run ends there, and everything it has finished stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import fs as pafs

from eigenmill.reduce.storage import chain, exclusive, places


@dataclass
class Turn:
    """The right to change what is below ``directory``, as long as nobody else has since ``number``."""

    fs: pafs.FileSystem
    directory: str
    number: int

    def step(self) -> None:
        """Take the next number, before something is changed.

        The record's attempt, drawn at random, tells it from that of another run: on a store equal bytes would count as
        one request that came twice.

        Raises:
            ConflictError: another run has taken it.
        """
        self.number = chain.Attempt(self.fs, self.directory, chain.Generation(self.number)).commit({}).number


@contextlib.contextmanager
def turn(root: str) -> Iterator[Turn]:
    """Wait for other runs on this machine, and begin a turn.

    Raises:
        OutputError: the file system cannot tell two runs apart.
    """
    fs, directory = places.resolve(root)
    exclusive.require(fs, directory, "go on with the days in")
    with chain.turn(fs, directory):
        yield Turn(fs, directory, chain.newest(fs, directory))


__all__ = ["Turn", "turn"]
