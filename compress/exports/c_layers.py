"""Layers in exported C: the constants of each, and the function that computes its results.

Weights are stored dense in 8 or 16 bits, or as distances and values of those that are not 0, whichever is smaller; a
cosine transform as its waves. A sum is 32 bits wide where its bound fits, else 64.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eigenmill.compress.core.integer import WholeLayer
from eigenmill.compress.core.layers import I64
from eigenmill.compress.core.transforms import block_of, frequencies, picture_of, waves
from eigenmill.compress.format import FORMAT_1

Waves = tuple[I64, I64, I64]
"""Of a cosine transform its frequencies (n, 2), and the waves down and across."""
LANES = FORMAT_1.lanes
"""Compilers turn a loop into vector instructions at -O2 when its count is a multiple of their width."""
FAR = 255
"""The largest distance that one byte holds."""


# Types


def sum_type(most: int) -> str:
    """The type of a sum that never exceeds ``most``, nor, since every input may be 0, does a part of it."""
    return "int32_t" if most < 1 << 31 else "int64_t"


def code_type(top: int) -> str:
    """The type of a layer's input. 16 bits even for small ones: processors multiply and add pairs of those."""
    return "int16_t" if top < 1 << 15 else "int32_t"


# Constants


def array(kind: str, name: str, values: Iterable[int]) -> str:
    """A constant array of whole numbers."""
    texts = [f"{v}LL" if kind == "int64_t" else str(v) for v in values] or ["0"]
    rows = [", ".join(texts[at : at + 24]) for at in range(0, len(texts), 24)]
    return f"static const {kind} {name}[{len(texts)}] = {{\n    " + ",\n    ".join(rows) + "\n};\n"


def _pairs(weights: I64) -> tuple[list[int], list[int], list[int]]:
    """How many pairs of weights each output has, and of each weight its distance from the one before and its value.

    A distance above ``FAR`` is bridged by weights of 0, and a pair is filled up with one.
    """
    counts: list[int] = []
    gaps: list[int] = []
    values: list[int] = []
    for column in weights.T:
        before = len(gaps)
        at = 0
        for i in np.flatnonzero(column).tolist():
            while i - at > FAR:
                gaps.append(FAR)
                values.append(0)
                at += FAR
            gaps.append(i - at)
            values.append(int(column[i]))
            at = i
        if (len(gaps) - before) % 2:
            gaps.append(0)
            values.append(0)
        counts.append((len(gaps) - before) // 2)
    return counts, gaps, values


def weight_type(layer: WholeLayer) -> tuple[str, int]:
    """The type of a weight, and its bytes."""
    wide = int(np.abs(layer.weights).max(initial=0)) > 127
    return ("int16_t", 2) if wide else ("int8_t", 1)


def _is_sparse(layer: WholeLayer) -> bool:
    """Whether distances and values take fewer bytes than all weights."""
    size, n_out = weight_type(layer)[1], layer.weights.shape[1]
    if (1 + size) * np.count_nonzero(layer.weights) >= size * layer.weights.size:
        return False
    return bool((1 + size) * len(_pairs(layer.weights)[1]) + 4 * n_out < size * layer.weights.size)


def constants(prefix: str, i: int, layer: WholeLayer, acc: str, weight: tuple[str, int], wave: Waves | None) -> str:
    """A layer's biases and weights; ``acc`` is the type of a sum, ``weight`` that of a weight and its bytes."""
    kind = weight[0]
    bias = array(acc, f"{prefix}bias_{i}", layer.bias.tolist())
    if not layer.weights.size:
        return bias
    if wave is not None:
        kept, down, across = wave
        return (
            bias
            + array("int8_t", f"{prefix}down_{i}", down.ravel().tolist())
            + array("int8_t", f"{prefix}across_{i}", across.ravel().tolist())
            + array("uint16_t", f"{prefix}frequencies_{i}", kept.ravel().tolist())
        )
    if not _is_sparse(layer):
        return bias + array(kind, f"{prefix}weights_{i}", layer.weights.T.ravel().tolist())
    counts, gaps, values = _pairs(layer.weights)
    count = "uint16_t" if max(counts) < 1 << 16 else "uint32_t"
    return (
        bias
        + array(count, f"{prefix}counts_{i}", counts)
        + array("uint8_t", f"{prefix}gaps_{i}", gaps)
        + array(kind, f"{prefix}weights_{i}", values)
    )


def waves_of(layer: WholeLayer) -> Waves | None:
    """Of a cosine transform; None if a layer is none."""
    width = picture_of(layer.weights) if layer.bits else None
    if width is None:
        return None
    height, n_out = layer.weights.shape[0] // width, layer.weights.shape[1]
    kept = frequencies(height, width, block_of(layer.weights, width) or 0, n_out)
    down, across = (waves(size, int(kept[:, j].max()) + 1) for j, size in enumerate((height, width)))
    return kept, down, across


# Code


def function(
    prefix: str,
    i: int,
    layer: WholeLayer,
    acc: str,
    code: str,
    out: str,
    weight: tuple[str, int],
    *,
    sums: bool = False,
) -> str:
    """A layer as a function of its input, and with ``sums`` of what its sums begin with instead of the biases."""
    n_in, n_out = layer.weights.shape
    kind = weight[0]
    taken = [*([f"const {code} *in"] if n_in else []), *([f"const {acc} *sums"] if sums else [])]
    lines = [f"static void {prefix}layer_{i}({', '.join(taken)}, {out} *out)", "{"]
    thin = n_in > 0 and _is_sparse(layer)
    if n_in:
        lines.append(f"    const {kind} *w = {prefix}weights_{i};")
    if thin:
        lines.append(f"    const uint8_t *gap = {prefix}gaps_{i};")
    start = "sums[j]" if sums else f"{prefix}bias_{i}[j]"
    lines += ["    int j;", f"    for (j = 0; j < {n_out}; j++) {{", f"        {acc} sum = {start};"]
    if thin:
        lines += [
            f"        const {code} *x = in, *y;",
            f"        uint32_t n = {prefix}counts_{i}[j];",
            "        /* In pairs, a fifth faster: two products do not wait for each other. */",
            "        for (; n > 0; n--) {",
            "            y = x + gap[0];",
            "            x = y + gap[1];",
            f"            sum += ({acc})*y * ({acc})w[0];",
            f"            sum += ({acc})*x * ({acc})w[1];",
            "            gap += 2;",
            "            w += 2;",
            "        }",
        ]
    elif n_in:
        even = n_in - n_in % LANES
        lines.append("        int i;")
        if even:
            lines += [f"        for (i = 0; i < {even}; i++)", f"            sum += ({acc})in[i] * ({acc})w[i];"]
        if even < n_in:
            lines += [f"        for (i = {even}; i < {n_in}; i++)", f"            sum += ({acc})in[i] * ({acc})w[i];"]
        lines.append(f"        w += {n_in};")
    return "\n".join([*lines, *_result(layer, out), "    }", "}"]) + "\n"


def _result(layer: WholeLayer, out: str) -> list[str]:
    """A layer's result of its sum."""
    if layer.bits == 0:
        return ["        out[j] = sum;"]
    return [
        f"        int64_t scaled = (int64_t)sum * {layer.multiplier} + {1 << (layer.shift - 1)}LL;",
        "        /* Towards minus infinity, also where >> of negative numbers is something else. */",
        f"        scaled = scaled >= 0 ? scaled >> {layer.shift} : -1 - ((-1 - scaled) >> {layer.shift});",
        f"        scaled = scaled < {layer.low} ? {layer.low} : scaled > {layer.high} ? {layer.high} : scaled;",
        f"        out[j] = ({out})scaled;",
    ]


def transform(prefix: str, i: int, layer: WholeLayer, wave: Waves, code: str, out: str, top: int) -> str:
    """A cosine transform: of every frequency down one row of sums, then those across."""
    kept, down, across = wave
    (n_down, height), width = down.shape, across.shape[1]
    total = top * np.abs(layer.weights).sum(axis=0) + np.abs(layer.bias)
    part, acc = sum_type(top * int(np.abs(down).sum(axis=1).max())), sum_type(int(total.max()))
    lines = [
        f"static void {prefix}layer_{i}(const {code} *in, {out} *out)",
        "{",
        f"    {part} row[{width}];",
        "    int v, x, y, j;",
        f"    for (v = 0; v < {n_down}; v++) {{",
        f"        for (x = 0; x < {width}; x++)",
        "            row[x] = 0;",
        f"        for (y = 0; y < {height}; y++)",
        f"            for (x = 0; x < {width}; x++)",
        f"                row[x] += ({part})in[y * {width} + x] * ({part}){prefix}down_{i}[v * {height} + y];",
        f"        for (j = 0; j < {len(kept)}; j++) {{",
        f"            const int8_t *w = {prefix}across_{i} + {prefix}frequencies_{i}[2 * j + 1] * {width};",
        f"            {acc} sum = {prefix}bias_{i}[j];",
        f"            if ({prefix}frequencies_{i}[2 * j] != v)",
        "                continue;",
        f"            for (x = 0; x < {width}; x++)",
        f"                sum += ({acc})row[x] * ({acc})w[x];",
        *(f"    {line}" for line in _result(layer, out)),
        "        }",
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


__all__ = ["Waves", "array", "code_type", "constants", "function", "sum_type", "transform", "waves_of", "weight_type"]
