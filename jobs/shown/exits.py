"""Exit codes, so that a scheduler can tell what went wrong without reading the message."""

from __future__ import annotations

from eigenmill.reduce.errors import ArtifactError, ConfigError, DataError, DoesNotFitError, EngineError, OutputError
from eigenmill.reduce.storage import secrets

OK = 0
FAILED = 1
BAD_USAGE = 2
BAD_DATA = 3
DOES_NOT_FIT = 4
BAD_OUTPUT = 5
DAMAGED = 6
NO_CLUSTER = 7
INTERRUPTED = 130

MEANINGS = {
    OK: "done, or everything was there already",
    FAILED: "failed unexpectedly",
    BAD_USAGE: "wrong option or job file",
    BAD_DATA: "the input is not there, or not what it should be",
    DOES_NOT_FIT: "the plan does not fit in the memory allowed",
    BAD_OUTPUT: "an output exists already, or cannot be written",
    DAMAGED: "a saved model or state is damaged, or none",
    NO_CLUSTER: "the cluster does not answer, or its workers are not what they should be",
    INTERRUPTED: "interrupted (Ctrl-C, SIGTERM); the same command goes on from there",
}

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ConfigError, BAD_USAGE),
    (DataError, BAD_DATA),
    (DoesNotFitError, DOES_NOT_FIT),
    (MemoryError, DOES_NOT_FIT),
    (OutputError, BAD_OUTPUT),
    (ArtifactError, DAMAGED),
    (EngineError, NO_CLUSTER),
    (KeyboardInterrupt, INTERRUPTED),
)


def code_of(error: BaseException) -> int:
    """The exit code that stands for ``error``."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def as_json(error: BaseException) -> dict[str, dict[str, str | int]]:
    """``error`` for machines; credentials in its message are masked."""
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else secrets.masked(str(error))
    message = message or type(error).__name__
    return {"error": {"kind": type(error).__name__, "message": message, "exit_code": code_of(error)}}


__all__ = [
    "BAD_DATA",
    "BAD_OUTPUT",
    "BAD_USAGE",
    "DAMAGED",
    "DOES_NOT_FIT",
    "FAILED",
    "INTERRUPTED",
    "MEANINGS",
    "NO_CLUSTER",
    "OK",
    "as_json",
    "code_of",
]
