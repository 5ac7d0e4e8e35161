"""What a pass is: fold, merge, finalize. A pass knows no engine; an engine knows no mathematics.

A *state* is a dataclass of arrays, numbers and further such dataclasses. :func:`to_arrays` and
:func:`from_arrays` turn it into named arrays and back: the same form is written to checkpoints, travels between
workers and is what a day-by-day fit goes on from.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.rows.blocks import Array, Block
from eigenmill.reduce.storage.digest import tag_of

S = TypeVar("S")
R = TypeVar("R")


class Pass(ABC, Generic[S, R]):
    """One scan. Small and picklable; a frozen dataclass, so that equal passes have equal digests.

    It and its state declare the names by which digests and files know them:
    :func:`eigenmill.reduce.storage.digest.tagged`.

    Attributes:
        carries: whether it reads the carried columns.
    """

    carries: ClassVar[bool] = False

    @property
    def sparse_height(self) -> int | None:
        """Rows of the sparse blocks that it wants; None when it makes them dense and takes the usual height."""
        return None

    @abstractmethod
    def start(self) -> S:
        """The state of no rows."""

    @abstractmethod
    def fold(self, state: S, block: Block) -> S:
        """The state after ``block``'s rows; may update its own private state in place."""

    @abstractmethod
    def merge(self, a: S, b: S) -> S:
        """The state of a's rows followed by b's. Associative up to rounding; may consume both."""

    @abstractmethod
    def finalize(self, state: S) -> R:
        """The statistic. May consume the state."""

    @abstractmethod
    def sizes(self, height: int, rows: int) -> tuple[int, int, int]:
        """Bytes of (one state, scratch beyond one block of ``height`` rows, the finalization), for ``rows`` in all."""

    @abstractmethod
    def state_type(self) -> type[S]:
        """The dataclass of the states, for :func:`from_arrays`."""


def to_arrays(state: object, prefix: str = "") -> dict[str, Array]:
    """The state's arrays and numbers by dotted name, as its class declares them; ``None`` fields are left out."""
    found: dict[str, Array] = {}
    for attribute, label in tag_of(type(state)).fields:
        value, name = getattr(state, attribute), prefix + label
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            found.update(to_arrays(value, name + "."))
        else:
            found[name] = np.asarray(value)
    return found


def from_arrays(kind: type[S], arrays: typing.Mapping[str, Array], prefix: str = "") -> S:
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
