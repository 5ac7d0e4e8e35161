"""What acts on the weights while a model is trained: gradual pruning, learned steps, a price for bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.storage.digest import tagged


@tagged("Magnitude", "sparsity schedule until scope")
@dataclass(frozen=True)
class Magnitude:
    """Gradual pruning of the smallest weights (Zhu and Gupta 2017, equation 1).

    Args:
        sparsity: share of the weights that are 0 at the end, over all layers together or in each.
        schedule: ``"cubic"`` from 0 to ``sparsity`` over the first ``until`` of the epochs, or ``"at once"``.
        until: share of the training after which the masks are fixed.
        scope: ``"global"`` or ``"layer"``.
    """

    sparsity: float
    schedule: str = "cubic"
    until: float = 0.6
    scope: str = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1 or not 0 < self.until <= 1:
            raise ConfigError(f"expected 0 <= sparsity < 1 and 0 < until <= 1, found {self}")
        if self.schedule not in ("cubic", "at once") or self.scope not in ("global", "layer"):
            raise ConfigError(f"expected schedule cubic or 'at once' and scope global or layer, found {self}")

    def at(self, progress: float) -> float:
        """The sparsity after a share ``progress`` of the training."""
        if self.schedule == "at once" or progress >= self.until:
            return self.sparsity
        return self.sparsity * (1 - (1 - progress / self.until) ** 3)


@tagged("LearnedStep", "bits start")
@dataclass(frozen=True)
class LearnedStep:
    """Weights are whole multiples of a step that is trained with them (Esser et al. 2020, LSQ).

    Args:
        bits: multiples lie between -(2**(bits - 1) - 1) and the same above 0.
        start: first step of each layer, in standard deviations of its weights; steps that the model has are kept.
            A start above 1 begins with mostly zeros, which is what an entropy penalty wants.
    """

    bits: int = 4
    start: float = 0.3

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16 or not self.start > 0:
            raise ConfigError(f"expected 2 to 16 bits and a start above 0, found {self}")


@tagged("EntropyPenalty", "weight")
@dataclass(frozen=True)
class EntropyPenalty:
    """A price for the bits that weights take once packed (after Oktay et al. 2020); with :class:`LearnedStep`.

    Each multiple costs its ideal code length under the frequencies of some steps before, between two multiples in
    proportion.

    Args:
        weight: loss per bit.
    """

    weight: float = 1e-5

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"expected a weight of at least 0, found {self}")


Constraint = Magnitude | LearnedStep | EntropyPenalty


def smallest(sizes: Sequence[npt.NDArray[np.floating]], sparsity: float, scope: str) -> list[npt.NDArray[np.bool_]]:
    """Masks that drop the share ``sparsity`` of the smallest entries, of all arrays together or of each.

    Of equal entries the first ones go, so that the share is exact.
    """
    if scope == "layer":
        return [smallest([size], sparsity, "global")[0] for size in sizes]
    flat = np.concatenate([size.ravel() for size in sizes]) if sizes else np.zeros(0)
    mask = np.ones(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = False
    parts = np.split(mask, np.cumsum([size.size for size in sizes])[:-1])
    return [part.reshape(size.shape) for part, size in zip(parts, sizes, strict=True)]


__all__ = ["Constraint", "EntropyPenalty", "LearnedStep", "Magnitude", "smallest"]
