"""How a training goes about it: one record, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from eigenmill.compress.core.layers import F32
from eigenmill.compress.core.split import SplitLike
from eigenmill.compress.training.augment import augmentation
from eigenmill.compress.training.constraints import Constraint
from eigenmill.reduce.errors import ConfigError

OPTIMIZERS: dict[str, dict[str, float]] = {
    "gradient_descent": {"lr": 0.5},
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.1, "momentum": 0.9},
    "adam": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999},
}
"""The closed registry of optimizers and their defaults; each also takes ``weight_decay``."""
SCHEDULES = ("constant", "cosine")
Augmentation = Callable[[F32, np.random.Generator], F32]


@dataclass(frozen=True)
class TrainSettings:
    """How a training goes about it; each field is a keyword of :func:`train` as well.

    Attributes:
        label: the column of classes or values.
        optimizer: a name of ``OPTIMIZERS``, or a mapping with ``name`` and its settings.
        epochs: passes over the training rows.
        batch: rows per step; gradient descent takes a whole epoch.
        schedule: of the learning rate: ``"constant"``, or ``"cosine"`` down to 0 after a twentieth of warm-up.
        constraints: what acts during training.
        patience: stop after so many epochs without a better validation loss, and keep the best; None trains on.
        validation: as of :func:`eigenmill.compress.gather`.
        class_weight: ``"balanced"`` counts rare classes as much as frequent ones.
        seed: of the order of the rows.
        augment: changes scaled inputs (b, d) of a batch, given a generator that the seed decides: one of
            ``eigenmill.compress.training.augment``, a mapping with its ``name`` and settings, or a function of your
            own.
        teacher: the column of a teacher's logits to learn from beside the labels; see :func:`eigenmill.compress.teach`.
        temperature: of the teacher's probabilities.
        share: of the loss that is the teacher's, 0 to 1; without a teacher it means nothing.
        forget: share of the categories' values, drawn anew for every row, that count as unseen ones, 0 to below 1.
            It teaches the net what to say of a row whose value is new, such as a month to come.

    Raises:
        ConfigError: one of them is unknown or out of range.
    """

    label: str = "label"
    optimizer: Mapping[str, Any] | str = "adam"
    epochs: int = 20
    batch: int = 128
    schedule: str = "cosine"
    constraints: Sequence[Constraint] = ()
    patience: int | None = None
    validation: SplitLike = 0.1
    class_weight: str | None = None
    seed: int = 0
    augment: Augmentation | Mapping[str, Any] | None = None
    teacher: str | None = None
    temperature: float = 2.0
    share: float = 0.5
    forget: float = 0.0

    def __post_init__(self) -> None:
        self.optimizing()
        if (
            self.epochs < 1
            or self.batch < 1
            or self.schedule not in SCHEDULES
            or self.class_weight not in (None, "balanced")
        ):
            raise ConfigError(
                f"expected epochs and batch of at least 1, schedule among {SCHEDULES} and class_weight balanced or "
                f"none, found {self.epochs}, {self.batch}, {self.schedule!r}, {self.class_weight!r}"
            )
        if not (0 <= self.share <= 1 and 0 < self.temperature < math.inf):
            raise ConfigError(
                f"expected 0 <= share <= 1 and a temperature above 0, found {self.share} and {self.temperature}"
            )
        if not 0 <= self.forget < 1:
            raise ConfigError(f"expected a share forget of at least 0 and below 1, found {self.forget}; 0.05 is usual")
        self.moves()

    def optimizing(self) -> dict[str, Any]:
        """The optimizer's ``name`` and all its settings."""
        given = {"name": self.optimizer} if isinstance(self.optimizer, str) else dict(self.optimizer)
        name = given.get("name")
        if name not in OPTIMIZERS:
            raise ConfigError(f"expected an optimizer among {', '.join(OPTIMIZERS)}, found {name!r}")
        known = {"name", "weight_decay", *OPTIMIZERS[name]}
        if not set(given) <= known:
            raise ConfigError(f"expected settings of {name} among {sorted(known)}, found {sorted(set(given) - known)}")
        settings: dict[str, Any] = {"weight_decay": 0.0, **OPTIMIZERS[name], **given}
        for key, number in settings.items():
            if key != "name" and not (isinstance(number, int | float) and 0 <= number < math.inf):
                raise ConfigError(f"expected {key} of {name} to be a number of at least 0, found {number!r}")
        return settings

    def moves(self) -> Augmentation | None:
        """What changes the inputs of a batch."""
        return augmentation(self.augment) if isinstance(self.augment, Mapping) else self.augment


class TrainKeywords(TypedDict, total=False):
    """The fields of :class:`TrainSettings` as keywords."""

    label: str
    optimizer: Mapping[str, Any] | str
    epochs: int
    batch: int
    schedule: str
    constraints: Sequence[Constraint]
    patience: int | None
    validation: SplitLike
    class_weight: str | None
    seed: int
    augment: Augmentation | Mapping[str, Any] | None
    teacher: str | None
    temperature: float
    share: float
    forget: float


__all__ = ["OPTIMIZERS", "SCHEDULES", "Augmentation", "TrainKeywords", "TrainSettings"]
