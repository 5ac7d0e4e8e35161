"""Quantization: shared weights by k-means, whole multiples of a step, and rounded activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.data import Labelled, samples_of
from eigenmill.compress.core.layers import Activations, Dense
from eigenmill.compress.core.model import Model, whole_net
from eigenmill.compress.format import current
from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.rows.blocks import F64


def share_weights(model: Model, bits: int = 5, *, rounds: int = 50) -> Model:
    """Let the weights of each layer share ``2**bits - 1`` values and 0, found by k-means (Han, Mao and Dally 2016).

    The values start evenly between the extremes, which keeps the few large weights (their section 3.2). Pruned weights
    stay 0. Training afterwards trains the values.

    Raises:
        ConfigError: ``bits`` is not 1 to 12, or the model is not trained.
    """
    if not 1 <= bits <= 12:
        raise ConfigError(f"expected 1 to 12 bits, found {bits!r}")
    layers = [layer if layer.frozen else _share_layer(layer, bits, rounds) for layer in model.trained().layers]
    return replace(model, layers=tuple(layers), activations=None)


def _share_layer(layer: Dense, bits: int, rounds: int) -> Dense:
    alive = layer.weights != 0
    values = layer.weights[alive].astype(np.float64)
    if not values.size:
        return replace(layer, codes=np.zeros(layer.weights.shape, np.uint16), codebook=np.zeros(1, np.float32))
    centres = np.unique(values)
    count = (1 << bits) - 1
    if len(centres) > count:
        centres = np.linspace(values.min(), values.max(), count)
        order = np.sort(values)
        sums = np.concatenate([[0.0], np.cumsum(order)])
        for _ in range(rounds):
            # Of sorted values and centres, clusters are intervals between the midpoints.
            cuts = np.searchsorted(order, (centres[1:] + centres[:-1]) / 2, side="right")
            ends = np.concatenate([[0], cuts, [len(order)]])
            sizes = np.diff(ends)
            means = np.divide(np.diff(sums[ends]), sizes, out=centres.copy(), where=sizes > 0)
            if np.array_equal(means, centres):
                break
            centres = means
    codes = np.zeros(layer.weights.shape, np.uint16)
    codes[alive] = np.searchsorted((centres[1:] + centres[:-1]) / 2, values, side="left") + 1
    book = np.concatenate([[0.0], centres]).astype(np.float32)
    return replace(
        layer,
        weights=book[codes],
        codes=codes,
        codebook=book,
        step=None,
        mask=alive if layer.mask is not None else None,
    )


def quantize(
    model: Model,
    data: Labelled,
    bits: int | Sequence[int] = 8,
    *,
    activations: int = 8,
    label: str = "label",
    rows: int = 4096,
) -> Model:
    """Round weights and activations; the model then predicts in whole numbers, exactly as its file will.

    Weights become whole multiples of one step per layer, chosen to lose least; weights on a grid that fits into
    ``bits``, and those of a declared transform, are kept as they are. Zero stays zero. Hidden results are calibrated
    on a sample of the data.

    Args:
        model: trained.
        data: as of :func:`eigenmill.compress.train`; only ``rows`` training rows of it are used.
        bits: 2 to 16 for the weights, of all layers or one number each.
        activations: 2 to 16 bits for hidden results.
        label: the label's column in ``data``.
        rows: of the sample.

    Raises:
        ConfigError: a number of bits is out of range, or sums could overflow 2**47.
    """
    given = [bits] * len(model.trained().layers) if isinstance(bits, int) else list(bits)
    if len(given) != len(model.layers) or not all(2 <= b <= 16 for b in [*given, activations]):
        raise ConfigError(
            f"expected 2 to 16 bits for each of {len(model.layers)} layers and for activations, found {bits!r} and "
            f"{activations!r}"
        )
    layers = tuple(_round_layer(layer, b) for layer, b in zip(model.layers, given, strict=True))
    rounded = replace(model, layers=layers, activations=None)
    samples = samples_of(rounded, data, label)
    with one_blas_thread():
        results = rounded.forward(samples.front.scaled_inputs(samples.sample(rows)[0]))
    steps = []
    for layer, result in zip(layers[:-1], results[:-1], strict=True):
        high = float(np.quantile(np.abs(result), current().quantile))
        most = (1 << activations) - 1 if layer.relu else (1 << (activations - 1)) - 1
        steps.append(high / most if high > 0 else 1.0)
    model = replace(rounded, activations=Activations(tuple(steps), activations))
    whole_net(model)
    return model


def _round_layer(layer: Dense, bits: int) -> Dense:
    """The layer with weights on a grid of ``bits``."""
    most = (1 << (bits - 1)) - 1
    if layer.frozen or (layer.step is not None and np.abs(layer.whole()).max(initial=0) <= most):
        return layer
    if layer.codes is not None and layer.codebook is not None:
        # How often a value is used decides how much its rounding costs.
        counts = np.bincount(layer.codes.ravel(), minlength=len(layer.codebook)).astype(np.float64)
        step = best_step(layer.codebook.astype(np.float64), counts, most)
        book = _round_weights(layer.codebook, step, most)
        return replace(layer, weights=book[layer.codes], codebook=book, step=step, most=most)
    flat = layer.weights.ravel().astype(np.float64)
    step = best_step(flat[flat != 0], None, most)
    return replace(layer, weights=_round_weights(layer.weights, step, most), step=step, most=most)


def _round_weights(weights: npt.NDArray[np.float32], step: float, most: int) -> npt.NDArray[np.float32]:
    return np.asarray(np.clip(np.rint(weights.astype(np.float64) / step), -most, most) * step, dtype=np.float32)


def best_step(values: F64, counts: F64 | None, most: int) -> float:
    """The step, of those tried, whose multiples up to ``most`` are nearest to ``values`` in the mean square."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return 1.0
    best, least = largest / most, np.inf
    for share in np.linspace(1.0, 0.2, current().grid):
        step = float(largest * share / most)
        error = np.square(np.clip(np.rint(values / step), -most, most) * step - values)
        loss = float(error.sum() if counts is None else error @ counts)
        if loss < least:
            best, least = step, loss
    return best


__all__ = ["best_step", "quantize", "share_weights"]
