"""Every error that eigenmill raises on purpose.

::

    EigenmillError
    ├── ConfigError          (ValueError)   a parameter or a configuration value is wrong
    ├── DataError            (ValueError)   the input is not what it should be
    │   ├── SchemaError                     files, columns or types disagree with what was asked
    │   ├── MissingValueError               a missing or non-finite value under the policy "error"
    │   └── ChangedInputError               a file is not the one that was planned or recorded
    ├── DoesNotFitError      (MemoryError)  the plan needs more memory than the budget allows
    ├── EngineError          (RuntimeError) a cluster is gone, or its workers are not what they should be
    ├── OutputError          (OSError)      an output exists, belongs to another job, or cannot be written
    └── ArtifactError        (ValueError)   a saved model or state is damaged or of another kind

A message says three things: what was expected, what was found (file, row group, column, row), what to do.
"""

from __future__ import annotations


class EigenmillError(Exception):
    """Base of all errors raised by eigenmill on purpose."""


class ConfigError(EigenmillError, ValueError):
    """A parameter or a configuration value is wrong."""


class DataError(EigenmillError, ValueError):
    """The input is not what it should be."""


class SchemaError(DataError):
    """Files, columns or types disagree with what was asked for."""


class MissingValueError(DataError):
    """A missing or non-finite value was found where the policy is ``"error"``."""


class ChangedInputError(DataError):
    """An input file is not the one that was planned, or not the one that a state has recorded."""


class DoesNotFitError(EigenmillError, MemoryError):
    """The plan needs more memory than the budget allows; raised before any data is read."""


class EngineError(EigenmillError, RuntimeError):
    """A cluster does not answer, or its workers are not what they should be."""


class OutputError(EigenmillError, OSError):
    """An output exists already, belongs to another job, or cannot be written."""


class ArtifactError(EigenmillError, ValueError):
    """A saved model or state is damaged, of another kind, or of a newer format."""


REMADE = {"remade": True}
"""``extra`` of what is logged when something of our own is damaged and made again, for the report of a run."""
