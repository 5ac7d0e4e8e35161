"""Low rank: a layer as two thinner ones, and two layers without ReLU between them as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eigenmill.compress.core.layers import Dense
from eigenmill.compress.core.model import Model
from eigenmill.reduce.errors import ConfigError


def factorize(model: Model, *, rank: int | None = None, energy: float = 0.9, only: int | None = None) -> Model:
    """Replace layers by their truncated singular value decomposition, wherever that takes fewer weights.

    ``W = U S V^T`` becomes a layer ``U sqrt(S)`` without ReLU and a layer ``sqrt(S) V^T`` with the old bias and ReLU
    (Denton et al. 2014, section 3.1): the best approximation of W of its rank in the Frobenius norm. Train afterwards.

    Args:
        model: trained; layers that are pruned, shared or frozen stay as they are.
        rank: of every layer that is replaced; by default the least that keeps ``energy``.
        energy: share of the squared singular values that is kept, above 0 to 1.
        only: the index of one layer; by default all are looked at.

    Raises:
        ConfigError: an argument is out of range, or the layer named by ``only`` is pruned, shared or frozen.
    """
    layers = model.trained().layers
    if (rank is not None and rank < 1) or not 0 < energy <= 1 or (only is not None and not 0 <= only < len(layers)):
        raise ConfigError(
            f"expected a rank of at least 1, 0 < energy <= 1 and a layer from 0 to {len(layers) - 1}, found {rank}, "
            f"{energy} and {only}"
        )
    if only is not None and not _free(layers[only]):
        raise ConfigError(
            f"expected a layer {only} of free weights, found a pruned, shared or frozen one; factorize first"
        )
    found: list[Dense] = []
    for i, layer in enumerate(layers):
        chosen = _free(layer) and only in (None, i)
        found += _halves(layer, rank, energy) if chosen else [layer]
    return replace(model, layers=tuple(found), activations=None)


def fold_projection(model: Model, *, always: bool = False) -> Model:
    """Multiply layers without ReLU into the layer after them, wherever that takes fewer weights.

    A PCA of k components before h neurons takes d k + k h weights, folded d h: fewer when h is at most about k. The
    scores stay the same up to rounding; train afterwards to make use of the freedom.

    Args:
        model: trained; layers that are pruned, shared or frozen stay as they are.
        always: also where the folded layer is larger.
    """
    layers = list(model.trained().layers)
    i = 0
    while i + 1 < len(layers):
        first, second = layers[i], layers[i + 1]
        smaller = first.n_in * second.n_out < first.weights.size + second.weights.size
        if not first.relu and _free(first) and _free(second) and (smaller or always):
            layers[i : i + 2] = [
                Dense(
                    (first.weights.astype(np.float64) @ second.weights).astype(np.float32),
                    (first.bias.astype(np.float64) @ second.weights + second.bias).astype(np.float32),
                    second.relu,
                )
            ]
        else:
            i += 1
    return replace(model, layers=tuple(layers), activations=None)


def _free(layer: Dense) -> bool:
    return layer.mask is None and layer.codes is None and not layer.frozen


def _halves(layer: Dense, rank: int | None, energy: float) -> list[Dense]:
    """Two thin layers, or the layer itself if they are no smaller."""
    u, s, vt = np.linalg.svd(layer.weights.astype(np.float64), full_matrices=False)
    kept = np.cumsum(s**2) / max(float(np.sum(s**2)), np.finfo(float).tiny)
    r = min(rank if rank is not None else int(np.searchsorted(kept, energy - 1e-12)) + 1, len(s))
    if r * (layer.n_in + layer.n_out) >= layer.weights.size:
        return [layer]
    root = np.sqrt(s[:r])
    first = Dense((u[:, :r] * root).astype(np.float32), np.zeros(r, np.float32), relu=False)
    return [first, Dense((root[:, None] * vt[:r]).astype(np.float32), layer.bias, layer.relu)]


__all__ = ["factorize", "fold_projection"]
