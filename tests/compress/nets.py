"""Nets made from random numbers that take every way through the integer arithmetic, and rows that do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from eigenmill.compress.core.front import Front
from eigenmill.compress.core.integer import WholeLayer, WholeNet, check
from eigenmill.compress.core.transforms import dct


def front(d: int = 5, bits: int = 12, *, alike: bool = False, refuse: bool = False, seed: int = 0) -> Front:
    """An input of d columns, alike or each of its own; missing values are filled, or some are refused."""
    rng = np.random.default_rng([seed, 1])
    ends = 1 if alike else d
    fill = rng.integers(-1 if refuse else 0, 1 << bits, ends)
    if refuse:
        fill[0] = -1
    low = np.float32(rng.normal(0, 3, ends))
    return Front({"vector": "x", "n_features": d}, d, bits, low, np.float32(rng.exponential(0.1, ends)), fill, 0.0, 1.0)


def layer(n_in: int, n_out: int, most: int, *, zero: float = 0.0, relu: bool = True, bits: int = 8) -> WholeLayer:
    """A layer with weights up to ``most``, the share ``zero`` of them 0; ``bits`` 0 for the last one."""
    rng = np.random.default_rng([n_in, n_out])
    weights = rng.integers(-most, most + 1, (n_in, n_out)) * (rng.random((n_in, n_out)) >= zero)
    bias = rng.integers(-(most**2) - 9, most**2 + 10, n_out)
    return WholeLayer(weights, bias, relu and bits > 0, 0, 0, bits)


def cosine(height: int, width: int, block: int | None = None, count: int | None = None, *, bits: int = 8) -> WholeLayer:
    """A cosine transform of pictures."""
    weights = dct(height, width, block, count=count).whole()
    return WholeLayer(weights, np.zeros(weights.shape[1], np.int64), False, 0, 0, bits)


def net(front: Front, *layers: WholeLayer, **changes: Any) -> WholeNet:
    """A classifier (a regression when the last layer has one output); some results of every layer saturate."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, front.top + 1, (500, front.n_features)).astype(np.float64)
    scaled = []
    for made in layers:
        acc = a @ made.weights + made.bias
        if made.bits:
            shift = int(np.clip(np.log2((np.abs(acc).mean() + 1) / (made.high + 1)) + 15, 1, 62))
            made = replace(made, multiplier=int(rng.integers(16384, 32768)), shift=shift)
            a = np.clip(np.floor(acc * made.multiplier / 2**shift + 0.5), made.low, made.high)
        scaled.append(made)
    outputs = layers[-1].weights.shape[1]
    task: Any = "regression" if outputs == 1 else "classification"
    labels = tuple(range(outputs)) if outputs > 1 else ()
    given: dict[str, Any] = {
        "task": task,
        "labels": labels,
        "scale": 2 / float(np.ptp(acc) + 1),
        "offset": 0.25,
    } | changes
    found = WholeNet(front=front, layers=tuple(scaled), **given)
    check(found)
    return found


NETS = {
    "linear": net(front(3), layer(3, 2, 100, bits=0)),
    "pixels": net(front(67, 8, alike=True), layer(67, 20, 7, zero=0.5), layer(20, 10, 127, bits=0)),
    "thin": net(front(900, 8), layer(900, 9, 90, zero=0.995), layer(9, 30, 60, zero=0.9), layer(30, 3, 99, bits=0)),
    "projection": net(
        front(40, refuse=True), layer(40, 6, 127, relu=False), layer(6, 4, 30000), layer(4, 3, 5, bits=0)
    ),
    "wide sums": net(
        front(900, 16), layer(900, 8, 32767, bits=16), layer(8, 5, 32767, bits=16), layer(5, 4, 9, bits=0)
    ),
    "wide scores": net(front(31, 16), layer(31, 8, 32767, relu=False, bits=16), layer(8, 3, 32767, zero=0.7, bits=0)),
    "no weights": net(front(20), layer(20, 33, 1, zero=1.0), layer(33, 2, 1, zero=1.0, bits=0)),
    "one bit": net(front(9, 1, alike=True), layer(9, 7, 3, bits=1), layer(7, 3, 3, bits=0)),
    "block": net(front(64, 8, alike=True), cosine(8, 8, 5), layer(25, 6, 30), layer(6, 3, 9, bits=0)),
    "zigzag": net(front(54, 16), cosine(6, 9, count=20, bits=12), layer(20, 6, 30), layer(6, 3, 9, bits=0)),
    "number": net(front(6, refuse=True), layer(6, 18, 90), layer(18, 1, 90, bits=0)),
}


def rows(front: Front, count: int = 300, *, dtype: Any = np.float64, seed: int = 0) -> Any:
    """Rows (count, d): within, at and beyond the ends of the codes, on their edges, NaN and infinite."""
    rng = np.random.default_rng([seed, 2])
    d = front.n_features
    codes = rng.uniform(-0.2, 1.2, (count, d)) * front.top
    codes[: count // 2] = np.rint(codes[: count // 2]) + rng.choice([0.0, 0.5, -0.5], (count // 2, d))
    X = (front.low.astype(np.float64) + front.step.astype(np.float64) * codes).astype(dtype)
    odd = rng.random((count, d)) < 0.1
    most = np.finfo(dtype)
    X[odd] = rng.choice(
        np.array([0, -0.0, 1e30, -1e30, most.max, most.min, most.tiny, most.smallest_subnormal]), odd.sum()
    )
    odd = rng.random((count, d)) < 0.3 / d
    X[odd] = rng.choice([np.nan, np.inf, -np.inf], odd.sum())
    return X


def refusals(front: Front, X: Any) -> Any:
    """(n,) 0, or 1 + the first column whose value is missing and has no code."""
    refused = ~np.isfinite(X) & (front.fill < 0)
    return np.where(refused.any(axis=1), refused.argmax(axis=1) + 1, 0)
