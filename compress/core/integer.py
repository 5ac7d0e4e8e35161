"""The integer net: what a packed model *is*. Its arithmetic is exact, so that every backend gives the same scores.

    q      codes of the row (eigenmill.compress.core.front), 0 to 2**bits - 1
    acc    bias + q @ weights                                    whole numbers below 2**47
    a      min(max((acc * multiplier + 2**(shift - 1)) >> shift, low), high)      hidden layers
    score  acc of the last layer; logit or value = score * scale + offset

The first layer of a net with categories adds ``hot * weights[row]`` for each, of the row that its code names.
``>>`` rounds towards minus infinity. ``low`` is 0 after ReLU, else ``-2**(bits - 1)``; ``high`` is ``2**bits - 1``
after ReLU, else ``2**(bits - 1) - 1``. The class is the first largest score. No sum can overflow: :func:`check`
bounds them all before a net is made, packed or loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.front import RUN, Codes, Front, RawLike
from eigenmill.compress.core.layers import (
    I64,
    MAX_LAYERS,
    MAX_WIDTH,
    Activations,
    Dense,
    Label,
    Predicted,
    Task,
    softmax,
)
from eigenmill.compress.format import FORMAT_1
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.storage.digest import tagged

MAX_ACC = 1 << 47
"""Bound of every sum: its product with a multiplier below 2**15 stays below 2**62."""
MAX_PARAMETERS = 1 << 24
MULTIPLIER_BITS = FORMAT_1.multiplier_bits
MAX_SHIFT = 62


@tagged("WholeLayer", "weights bias relu multiplier shift bits")
@dataclass(frozen=True)
class WholeLayer:
    """One layer in whole numbers; ``multiplier``, ``shift`` and ``bits`` are 0 for the last one."""

    weights: I64
    bias: I64
    relu: bool
    multiplier: int
    shift: int
    bits: int

    @property
    def low(self) -> int:
        """Least result."""
        return 0 if self.relu else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest result."""
        return (1 << self.bits) - 1 if self.relu else (1 << (self.bits - 1)) - 1


@tagged("WholeNet", "task labels front layers scale offset")
@dataclass(frozen=True)
class WholeNet:
    """A model in whole numbers.

    Attributes:
        task, labels, front: as of the model.
        layers: the last one gives the scores.
        scale, offset: of a score, in double precision.
    """

    task: Task
    labels: tuple[Label, ...]
    front: Front
    layers: tuple[WholeLayer, ...]
    scale: float
    offset: float

    @cached_property
    def _weights(self) -> list[npt.NDArray[np.floating]]:
        """Floating point adds up whole numbers exactly, in any order and far faster: single precision to 2**24."""
        return [
            layer.weights.astype(np.float32 if max(sums, default=0) <= 1 << 24 else np.float64)
            for layer, sums in zip(self.layers, largest_sums(self), strict=True)
        ]

    def scores(self, X: RawLike) -> I64:
        """Integer scores (n, outputs) of raw rows X, as ``Front.codes`` takes them."""
        return self.scores_of(self.front.codes(X))

    def scores_of(self, codes: Codes) -> I64:
        """Integer scores (n, outputs) of codes (n, d)."""
        if len(codes) <= RUN:
            return self._run(codes)
        return np.concatenate([self._run(codes[a : a + RUN]) for a in range(0, len(codes), RUN)])

    def _run(self, codes: Codes) -> I64:
        # No limit on BLAS threads: exact sums are the same with any number, and to set one takes milliseconds.
        a: Codes | I64 = self.front.inputs(codes)
        for layer, weights in zip(self.layers, self._weights, strict=True):
            acc: I64 = (a.astype(weights.dtype) @ weights).astype(np.int64) + layer.bias
            if layer.bits == 0:
                return acc
            acc *= layer.multiplier
            acc += 1 << (layer.shift - 1)
            acc >>= layer.shift
            a = np.clip(acc, layer.low, layer.high)
        raise AssertionError("the last layer gives the scores")

    def decision(self, X: RawLike) -> F64:
        """Logits, or values of a regression: (n, outputs)."""
        return np.asarray(self.scores(X) * self.scale + self.offset)

    def predict_proba(self, X: RawLike) -> F64:
        """Probabilities (n, classes)."""
        if self.task == "regression":
            raise ConfigError("expected a classifier, found a regression; call predict")
        return softmax(self.decision(X))

    def predict(self, X: RawLike) -> Predicted:
        """Labels (n,), or values of a regression."""
        if self.task == "regression":
            return self.decision(X)[:, 0]
        return np.asarray(np.asarray(self.labels)[self.scores(X).argmax(axis=1)])


def first_sums(weights: I64, front: Front) -> tuple[list[int], list[int]]:
    """For each output of the first layer, the largest and the least sum without its bias, or a part of one."""
    numbers = weights[: front.n_features]
    high = [front.top * int(p) for p in np.maximum(numbers, 0).sum(axis=0)]
    low = [front.top * int(n) for n in np.minimum(numbers, 0).sum(axis=0)]
    for start, stop in front.spans:
        high = [h + front.hot * max(int(w), 0) for h, w in zip(high, weights[start:stop].max(axis=0), strict=True)]
        low = [n + front.hot * min(int(w), 0) for n, w in zip(low, weights[start:stop].min(axis=0), strict=True)]
    return high, low


def largest_sums(net: WholeNet) -> list[list[int]]:
    """For each output of each layer, what no sum of its products exceeds, in whatever order they are added."""
    found, top = [], 0
    for i, layer in enumerate(net.layers):
        sizes = np.abs(layer.weights)
        found.append(first_sums(sizes, net.front)[0] if i == 0 else [int(size) * top for size in sizes.sum(axis=0)])
        top = max(layer.high, -layer.low) if layer.bits else 0
    return found


def bounds(net: WholeNet) -> list[int]:
    """The largest absolute sum of each layer, over all inputs; exact integer arithmetic."""
    found, low, high = [], 0, 0
    for i, layer in enumerate(net.layers):
        if i == 0:
            ups, downs = first_sums(layer.weights, net.front)
        else:
            positive = [int(p) for p in np.maximum(layer.weights, 0).sum(axis=0)]
            negative = [int(n) for n in np.minimum(layer.weights, 0).sum(axis=0)]
            ups = [high * p + low * n for p, n in zip(positive, negative, strict=True)]
            downs = [low * p + high * n for p, n in zip(positive, negative, strict=True)]
        most = max((int(b) + up for b, up in zip(layer.bias, ups, strict=True)), default=0)
        least = min((int(b) + down for b, down in zip(layer.bias, downs, strict=True)), default=0)
        found.append(max(abs(most), abs(least)))
        low, high = layer.low if layer.bits else 0, layer.high if layer.bits else 0
    return found


def check(net: WholeNet) -> None:
    """Proves that no sum overflows and that the layers fit together.

    Raises:
        ConfigError: they do not.
    """
    width = net.front.width
    if not 1 <= len(net.layers) <= MAX_LAYERS or sum(layer.weights.size for layer in net.layers) > MAX_PARAMETERS:
        raise ConfigError(f"expected at most {MAX_LAYERS} layers and {MAX_PARAMETERS} weights, found more")
    for i, layer in enumerate(net.layers):
        last = i + 1 == len(net.layers)
        n_in, n_out = layer.weights.shape
        fits = n_in == width and layer.bias.shape == (n_out,) and 1 <= n_out <= MAX_WIDTH
        sound = (
            (layer.bits, layer.multiplier, layer.shift) == (0, 0, 0)
            if last
            else (
                1 <= layer.bits <= 16 and 0 < layer.multiplier < 1 << MULTIPLIER_BITS and 1 <= layer.shift <= MAX_SHIFT
            )
        )
        if not (fits and sound):
            raise ConfigError(f"expected layer {i} to take {width} numbers, found shape {layer.weights.shape}")
        width = n_out
    outputs = 1 if net.task == "regression" else len(net.labels)
    if width != outputs or (net.task == "classification" and outputs < 2):
        raise ConfigError(f"expected a score for each of {outputs} outputs, found {width}")
    if not (math.isfinite(net.scale) and net.scale > 0 and math.isfinite(net.offset)):
        raise ConfigError(f"expected a finite scale above 0, found {net.scale} and offset {net.offset}")
    worst = max(bounds(net))
    if worst >= MAX_ACC:
        raise ConfigError(f"expected sums below 2**47, found up to {worst}; take fewer bits for inputs or weights")


def whole_layers(
    front: Front, layers: Sequence[Dense], activations: Activations, last: float
) -> tuple[tuple[WholeLayer, ...], float]:
    """Layers on a grid in whole numbers, and what 1 means in the sums of the last one.

    Args:
        front: the input.
        layers: all of them.
        activations: how hidden results are rounded.
        last: step of the scores; their biases are rounded to at most a quarter of it, and not at all if it is 0.

    Raises:
        ConfigError: a bias is larger than sums may be.
    """
    found = list[WholeLayer]()
    unit = 1.0 / front.spread
    for i, layer in enumerate(layers):
        assert layer.step is not None
        unit *= layer.step  # what 1 means in the sums of this layer
        weights = layer.whole()
        whole_bias = np.rint(
            layer.bias / unit - (front.centre * weights[: front.n_features].sum(axis=0) if i == 0 else 0.0)
        )
        ends = i + 1 == len(layers)
        whole_bias = _round_biases(whole_bias, last if ends else activations.steps[i], unit)
        if not np.abs(whole_bias).max() < MAX_ACC:
            raise ConfigError("expected biases of the size of the sums, found larger ones; take fewer bits")
        if ends:
            found.append(WholeLayer(weights, whole_bias.astype(np.int64), False, 0, 0, 0))
            break
        multiplier, shift = ratio(unit / activations.steps[i])
        found.append(WholeLayer(weights, whole_bias.astype(np.int64), layer.relu, multiplier, shift, activations.bits))
        unit = activations.steps[i]
    return tuple(found), unit


def _round_biases(bias: F64, result: float, unit: float) -> F64:
    """Biases as multiples of the power of two that is at most a quarter of one step of the results: short in a file."""
    grain = result / unit / 4
    if not grain >= 2:
        return bias
    power = 2.0 ** math.floor(math.log2(grain))
    return np.asarray(np.rint(bias / power) * power)


def ratio(value: float) -> tuple[int, int]:
    """``value`` as multiplier / 2**shift, the multiplier of 15 bits.

    Raises:
        ConfigError: it is too large or too small for that.
    """
    fraction, exponent = math.frexp(value)
    multiplier, shift = round(fraction * (1 << MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, shift = multiplier >> 1, shift - 1
    while shift > MAX_SHIFT and multiplier > 1:
        multiplier, shift = (multiplier + 1) >> 1, shift - 1
    if not 1 <= shift <= MAX_SHIFT:
        raise ConfigError(f"expected results within 2**{MAX_SHIFT} of the sums' units, found {value}; train again")
    return multiplier, shift


__all__ = ["WholeLayer", "WholeNet", "bounds", "check", "largest_sums", "whole_layers"]
