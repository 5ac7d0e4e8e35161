"""Other constants than those in use, for tests: small leaves and parts, so that small data have many.

A test that opens its data itself gives it a :class:`~eigenmill.reduce.format.Format`. For what opens data by itself,
such as a command or an estimator that gets an array, the constants in use are replaced here, and nowhere else. Workers
in other processes need nothing: the format travels with the data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eigenmill.compress import format as compact
from eigenmill.reduce import format
from eigenmill.reduce.format import CURRENT, Format


def other(**constants: Any) -> Format:
    """The format in use with other values of these constants."""
    return replace(CURRENT, **constants)


def use(patch: pytest.MonkeyPatch, **constants: Any) -> None:
    """Within a test, open data by :func:`other` constants where none are given."""
    patch.setattr(format, "CURRENT", other(**constants))


def use_compact(patch: pytest.MonkeyPatch, **constants: Any) -> None:
    """Within a test, make compact models by other constants."""
    patch.setattr(compact, "CURRENT", replace(compact.CURRENT, **constants))


def switch(**constants: Any) -> None:
    """The same for the rest of this process, which runs for one test only."""
    format.CURRENT = other(**constants)
