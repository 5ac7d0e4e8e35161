"""What a pass is: fold, merge, finalize. A pass knows no engine; an engine knows no mathematics.

A *state* is a dataclass of arrays, numbers and further such dataclasses. :func:`to_arrays` and
:func:`from_arrays` turn it into named arrays and back: the same form is written to checkpoints, travels between
workers and is what a day-by-day fit goes on from.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Protocol, TypeVar

import numpy as np

from eigenmill.reduce.blocks import Block
from eigenmill.reduce.digest import tag_of
from eigenmill.reduce.errors import ArtifactError

S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class Pass(Protocol[S, R_co]):
    """One scan. Small and picklable; a frozen dataclass, so that equal passes have equal digests."""

    def start(self) -> S:
        """The state of no rows."""

    def fold(self, state: S, block: Block) -> S:
        """The state after ``block``'s rows; may update its own private state in place."""

    def merge(self, a: S, b: S) -> S:
        """The state of a's rows followed by b's. Associative up to rounding; may consume both."""

    def finalize(self, state: S) -> R_co:
        """The statistic. May consume the state."""

    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        """Bytes of (one state, scratch beyond one block of ``height`` rows, the finalization), for ``rows`` in all."""

    def state_type(self) -> type[S]:
        """The dataclass of the states, for :func:`from_arrays`."""


def sparse_height(pass_: Any) -> int | None:
    """Rows of the sparse blocks that the pass wants; None when it makes them dense and takes the usual height."""
    height: int | None = getattr(pass_, "sparse_height", None)
    return height


def carries(pass_: Any) -> bool:
    """Whether the pass reads the carried columns."""
    return bool(getattr(pass_, "carries", False))


def to_arrays(state: Any, prefix: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """The state's arrays and numbers by dotted name, as its class declares them; ``None`` fields are left out."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for attribute, label in tag_of(type(state)).fields:
        value, name = getattr(state, attribute), prefix + label
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            found.update(to_arrays(value, name + "."))
        else:
            found[name] = np.asarray(value)
    return found


def from_arrays(kind: type[S], arrays: typing.Mapping[str, np.ndarray[Any, Any]], prefix: str = "") -> S:
    """The state that :func:`to_arrays` took apart; a missing or strange field is an ArtifactError."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    tag = tag_of(kind)
    for attribute, label in tag.fields:
        name, hint = prefix + label, hints[attribute]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        inner = next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)
        if inner is not None and (type(None) not in options or any(each.startswith(name + ".") for each in arrays)):
            values[attribute] = from_arrays(inner, arrays, name + ".")
        elif name in arrays:
            array = np.array(arrays[name])
            values[attribute] = array.item() if hint in (int, float) and array.ndim == 0 else array
        elif type(None) in options:
            values[attribute] = None
        else:
            raise ArtifactError(f"expected the field {name!r} in a saved {tag.name}, found none; fit again")
    return kind(**values)
