"""Pruning: single weights by magnitude, whole neurons with shapes that shrink, and growing back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.data import Labelled, Targets, samples_of
from eigenmill.compress.core.front import Scaled
from eigenmill.compress.core.layers import F32, Dense, softmax
from eigenmill.compress.core.model import Model
from eigenmill.compress.training.constraints import smallest
from eigenmill.reduce.errors import ConfigError


def prune(model: Model, sparsity: float, *, scope: str = "global") -> Model:
    """Set the smallest weights to 0 and keep them there (Han et al. 2015).

    Args:
        model: trained.
        sparsity: share of all weights that are 0 afterwards, 0 to below 1; what is pruned already counts.
        scope: ``"global"`` compares the weights of all layers, ``"layer"`` prunes each to the same share.

    Raises:
        ConfigError: an argument is out of range, or weights are shared: prune before.
    """
    if not 0 <= sparsity < 1 or scope not in ("global", "layer"):
        raise ConfigError(f"expected 0 <= sparsity < 1 and scope global or layer, found {sparsity!r} and {scope!r}")
    if any(layer.codes is not None for layer in model.trained().layers):
        raise ConfigError("expected weights that are not shared, found shared ones; prune before sharing")
    masks = iter(smallest([np.abs(layer.weights) for layer in model.layers if not layer.frozen], sparsity, scope))
    layers = [layer if layer.frozen else _mask_layer(layer, next(masks)) for layer in model.layers]
    return replace(model, layers=tuple(layers), activations=None)


def regrow(model: Model, data: Labelled, share: float = 0.1, *, label: str = "label", rows: int = 4096) -> Model:
    """Open masks again where the loss asks for it most (Evci et al. 2020, RigL): the only step that does.

    Of all pruned weights, those with the largest gradients of the loss over a sample are no longer held at 0; they
    start there. Train afterwards, and prune again to the sparsity wanted.

    Args:
        model: trained and pruned.
        data: as of :func:`eigenmill.compress.train`; only ``rows`` rows of it are used.
        share: of the pruned weights, above 0 to 1.
        label: the label's column in ``data``.
        rows: of the sample.

    Raises:
        ConfigError: ``share`` is out of range, weights are shared, or none are pruned.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"expected a share of the pruned weights above 0 and at most 1, found {share!r}")
    held = [layer for layer in model.trained().layers if layer.mask is not None]
    if not held or any(layer.codes is not None for layer in held):
        raise ConfigError("expected a pruned model without shared weights, found another; prune it first")
    samples = samples_of(model, data, label)
    codes, targets = samples.sample(rows)
    slopes = _gradients(model, samples.front.scaled_inputs(codes), targets)
    closed = [
        np.where(layer.mask, -np.inf, np.abs(slope)) if layer.mask is not None else np.full(slope.shape, -np.inf)
        for layer, slope in zip(model.layers, slopes, strict=True)
    ]
    flat = np.concatenate([values.ravel() for values in closed])
    opened = np.zeros(flat.size, bool)
    opened[np.argsort(-flat, kind="stable")[: round(share * int(np.isfinite(flat).sum()))]] = True
    layers, at = [], 0
    for layer in model.layers:
        mine = opened[at : at + layer.weights.size].reshape(layer.weights.shape)
        at += layer.weights.size
        layers.append(layer if layer.mask is None else replace(layer, mask=layer.mask | mine))
    return replace(model, layers=tuple(layers), activations=None)


def _gradients(model: Model, z: Scaled, targets: Targets) -> list[F32]:
    """Gradients of the mean loss by the weights of each layer."""
    results = model.forward(z)
    if model.task == "classification":
        slope = softmax(results[-1].astype(np.float64))
        slope[np.arange(len(targets)), targets] -= 1
    else:
        slope = 2 * (results[-1].astype(np.float64) - targets[:, None])
    slope /= len(targets)
    found: list[F32] = []
    for i in range(len(model.layers) - 1, -1, -1):
        found.append(((results[i - 1] if i else z).T @ slope).astype(np.float32))
        slope = slope @ model.layers[i].weights.T.astype(np.float64)
        if i and model.layers[i - 1].relu:
            slope *= results[i - 1] > 0
    return found[::-1]


def prune_neurons(
    model: Model, data: Labelled | None = None, keep: float = 0.5, *, label: str = "label", rows: int = 4096
) -> Model:
    """Take out the hidden neurons that matter least; the layers become narrower.

    A neuron matters by the variance of what it passes on: the variance of its result over a sample of the data, times
    the squares of its outgoing weights; without data by the norms of its incoming and outgoing weights. What a
    neuron passes on at its mean goes into the biases of the next layer, so that little is lost before retraining.

    Args:
        model: trained; projections are left as they are.
        data: as of :func:`eigenmill.compress.train`; only ``rows`` rows of it are used.
        keep: share of each hidden layer's neurons, above 0 to 1.
        label: the label's column in ``data``.
        rows: of the sample.

    Raises:
        ConfigError: ``keep`` is out of range, or weights are shared.
    """
    if not 0 < keep <= 1:
        raise ConfigError(f"expected a share of neurons to keep above 0 and at most 1, found {keep!r}")
    if any(layer.codes is not None for layer in model.trained().layers):
        raise ConfigError("expected weights that are not shared, found shared ones; prune before sharing")
    results = None
    if data is not None:
        samples = samples_of(model, data, label)
        results = model.forward(samples.front.scaled_inputs(samples.sample(rows)[0]))
    layers = list(model.layers)
    for i in range(len(layers) - 1):
        if not layers[i].relu or layers[i].frozen:
            continue
        out = np.square(layers[i + 1].weights).sum(axis=1)
        if results is None:
            worth, mean = np.square(layers[i].weights).sum(axis=0) * out, np.zeros(layers[i].n_out, np.float32)
        else:
            worth, mean = results[i].var(axis=0) * out, results[i].mean(axis=0)
        kept = np.sort(np.argsort(-worth, kind="stable")[: max(1, round(keep * layers[i].n_out))])
        gone = np.setdiff1d(np.arange(layers[i].n_out), kept)
        bias = layers[i + 1].bias + mean[gone] @ layers[i + 1].weights[gone]
        layers[i] = _take_neurons(layers[i], (slice(None), kept), layers[i].bias[kept])
        layers[i + 1] = _take_neurons(layers[i + 1], (kept, slice(None)), bias.astype(np.float32))
    hidden = tuple(layer.n_out for layer in layers[:-1] if layer.relu and not layer.frozen)
    return replace(model, layers=tuple(layers), hidden=hidden, activations=None)


def _mask_layer(layer: Dense, mask: npt.NDArray[np.bool_]) -> Dense:
    return replace(layer, weights=layer.weights * mask, mask=mask if layer.mask is None else mask & layer.mask)


def _take_neurons(layer: Dense, index: tuple[slice | npt.NDArray[np.intp], ...], bias: F32) -> Dense:
    weights = np.ascontiguousarray(layer.weights[index])
    mask = None if layer.mask is None else np.ascontiguousarray(layer.mask[index])
    return replace(layer, weights=weights, bias=bias, mask=mask)


__all__ = ["prune", "prune_neurons", "regrow"]
