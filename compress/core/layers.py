"""Layers: one dense layer of a net and what is known of its weights, and the words that all modules have for nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.storage.digest import tagged

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

Task = Literal["classification", "regression"]
Label = bool | int | str
Predicted = npt.NDArray[np.generic]
"""(n,) labels, or values of a regression."""
MAX_WIDTH, MAX_LAYERS = 1 << 16, 32


@tagged("Dense", "weights bias relu mask codes codebook step most frozen")
@dataclass(frozen=True)
class Dense:
    """One layer: ``y = x @ weights + bias``, then ReLU.

    Attributes:
        weights: (n_in, n_out) float32, as they act: masked, shared and on their grid.
        bias: (n_out,) float32.
        relu: whether negative results become 0.
        mask: (n_in, n_out) False where a weight is pruned; None when none is.
        codes: (n_in, n_out) which entry of ``codebook`` a weight is; None when weights are their own.
        codebook: (levels,) float32; entry 0 is 0 and stays it.
        step: weights are whole multiples of it; None when they are free.
        most: the largest multiple.
        frozen: the layer is a declared transform, such as :func:`eigenmill.compress.core.transforms.pooling`: no step
        changes it.
    """

    weights: F32
    bias: F32
    relu: bool
    mask: npt.NDArray[np.bool_] | None = None
    codes: npt.NDArray[np.uint16] | None = None
    codebook: F32 | None = None
    step: float | None = None
    most: int = 127
    frozen: bool = False

    @property
    def n_in(self) -> int:
        return int(self.weights.shape[0])

    @property
    def n_out(self) -> int:
        return int(self.weights.shape[1])

    @property
    def sparsity(self) -> float:
        """Share of the weights that are 0."""
        return float(np.mean(self.weights == 0)) if self.weights.size else 0.0

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays that it has, by the names that files have for them."""
        named = {
            "weights": self.weights,
            "bias": self.bias,
            "mask": self.mask,
            "codes": self.codes,
            "codebook": self.codebook,
        }
        return {name: array for name, array in named.items() if array is not None}

    def whole(self) -> I64:
        """(n_in, n_out) the weights in steps."""
        if self.step is None:
            raise ConfigError("expected weights on a grid, found free ones; quantize the model first")
        return np.rint(self.weights.astype(np.float64) / self.step).astype(np.int64)


@tagged("Activations", "steps bits")
@dataclass(frozen=True)
class Activations:
    """How hidden results are rounded: ``steps`` one per hidden layer, ``bits`` of the whole numbers."""

    steps: tuple[float, ...]
    bits: int


def softmax(scores: F64) -> F64:
    """Probabilities (n, classes) of logits (n, classes)."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


__all__ = ["F32", "I64", "MAX_LAYERS", "MAX_WIDTH", "Activations", "Dense", "Label", "Predicted", "Task", "softmax"]
