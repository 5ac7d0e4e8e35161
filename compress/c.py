"""C: a packed model as one file of C99, from the raw row to integer scores, a class and probabilities.

The file allocates nothing, keeps no state, and needs of the C library ``exp`` only, for probabilities. Its scores are
those of ``compress.integer`` on every row, because it does the same whole-number arithmetic: sums are 32 bits wide
where ``bounds`` proves that they fit, else 64. Weights are stored dense in 8 or 16 bits, or as distances and values
of those that are not 0, whichever is smaller.

Labels and names of columns are data: they appear in string literals only, every byte that is not a plain letter or
digit as an octal escape, so that neither quotes, trigraphs nor ends of comments mean anything.

A category comes in as its code, and any number that is no code counts as code 0; functions look up the code of a text,
a whole number, or null. The rows of the first layer that codes choose are added up before the rest of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from compress.c_names import lookups, names, struct
from compress.integer import I64, WholeLayer, WholeNet, bounds
from compress.model import Model
from compress.pack import net_of
from compress.transforms import block_of, frequencies, picture_of, waves
from reduce import files
from reduce.errors import ConfigError

Number = Literal["double", "float"]
LANES = 16
"""Compilers turn a loop into vector instructions at -O2 when its count is a multiple of their width."""
FAR = 255
"""The largest distance that one byte holds."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")


def to_c(
    model: Model | WholeNet | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str = "model",
    number: Number = "double",
) -> int:
    """Write a quantized model as one file of C99; compile it, or include it. Its first lines say how to call it.

    Args:
        model: quantized, or the path of a packed file.
        path: a local path or URI.
        name: what all its names begin with, those that stay inside too, so that several models fit into one
            translation unit as well as into one program.
        number: type of a raw value, ``"double"`` or ``"float"``.

    Returns:
        Bytes of the file.

    Raises:
        ConfigError: the model is not quantized, or ``name`` is no name in C.
        OutputError: it cannot be written.
    """
    content = source(net_of(model), name=name, number=number).encode("ascii")
    fs, target = files.resolve(path)
    files.write_bytes(fs, target, content)
    return len(content)


def source(net: WholeNet, *, name: str = "model", number: Number = "double") -> str:
    """The text of the file that :func:`to_c` writes."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected at most 31 letters, digits and _ after a letter, found {name!r}; choose such one")
    if number not in ("double", "float"):
        raise ConfigError(f"expected numbers of type 'double' or 'float', found {number!r}; choose one of them")
    most = bounds(net)
    score = score_type(net)
    tops = [net.front.top, *(layer.high for layer in net.layers[:-1])]
    parts = [_head(net, name, number, score), struct(net, name)]
    first, d = net.layers[0], net.front.n_features
    layers = [replace(first, weights=first.weights[:d]), *net.layers[1:]]
    mine = f"{name}_"
    parts += [
        _layer_data(mine, i, layer, _int(m), _weight(net.layers[i]))
        for i, (layer, m) in enumerate(_pairs(layers, most))
    ]
    if net.front.categories:
        parts.append(_rows(net, name, _int(most[0])))
    if d:
        parts.append(_codes(net, name, number, _code(tops[0])))
    for i, (layer, m) in enumerate(_pairs(layers, most)):
        out = score if layer.bits == 0 else _code(tops[i + 1])
        sums = i == 0 and bool(net.front.categories)
        wave = _waves(layer)
        if wave is not None:
            parts.append(_transform(mine, i, layer, wave, _code(tops[i]), out, tops[i] + 1))
        else:
            parts.append(_layer(mine, i, layer, _int(m), _code(tops[i]), out, _weight(net.layers[i]), sums=sums))
    parts += [_scores(net, name, number, score, _int(most[0]), tops), _answers(net, name, score)]
    parts += [lookups(net, name), names(net, name)]
    return "\n".join(part for part in parts if part)


def _pairs(layers: Sequence[WholeLayer], most: Sequence[int]) -> Iterable[tuple[WholeLayer, int]]:
    return zip(layers, most, strict=True)


def score_type(net: WholeNet) -> str:
    """The type of a score in C."""
    return _int(bounds(net)[-1])


# Types


def _int(most: int) -> str:
    """The type of a sum that never exceeds ``most``, nor, since every input may be 0, does a part of it."""
    return "int32_t" if most < 1 << 31 else "int64_t"


def _code(top: int) -> str:
    """The type of a layer's input. 16 bits even for small ones: processors multiply and add pairs of those."""
    return "int16_t" if top < 1 << 15 else "int32_t"


# Constants


def _array(kind: str, name: str, values: Iterable[int]) -> str:
    texts = [f"{v}LL" if kind == "int64_t" else str(v) for v in values] or ["0"]
    rows = [", ".join(texts[at : at + 24]) for at in range(0, len(texts), 24)]
    return f"static const {kind} {name}[{len(texts)}] = {{\n    " + ",\n    ".join(rows) + "\n};\n"


def _floats(name: str, values: npt.NDArray[np.float32]) -> str:
    texts = [_float(float(v)) for v in values]
    rows = [", ".join(texts[at : at + 8]) for at in range(0, len(texts), 8)]
    return f"static const float {name}[{len(texts)}] = {{\n    " + ",\n    ".join(rows) + "\n};\n"


def _float(value: float) -> str:
    """A number of single precision, exactly: C99's hexadecimal constants."""
    return float(value).hex() + "F"


def sparse(weights: I64) -> tuple[list[int], list[int], list[int]]:
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


def _weight(layer: WholeLayer) -> tuple[str, int]:
    wide = int(np.abs(layer.weights).max(initial=0)) > 127
    return ("int16_t", 2) if wide else ("int8_t", 1)


def is_sparse(layer: WholeLayer) -> bool:
    """Whether distances and values take fewer bytes than all weights."""
    size, n_out = _weight(layer)[1], layer.weights.shape[1]
    if (1 + size) * np.count_nonzero(layer.weights) >= size * layer.weights.size:
        return False
    return bool((1 + size) * len(sparse(layer.weights)[1]) + 4 * n_out < size * layer.weights.size)


def _layer_data(prefix: str, i: int, layer: WholeLayer, acc: str, weight: tuple[str, int]) -> str:
    kind = weight[0]
    bias = _array(acc, f"{prefix}bias_{i}", layer.bias.tolist())
    if not layer.weights.size:
        return bias
    wave = _waves(layer)
    if wave is not None:
        kept, down, across = wave
        return (
            bias
            + _array("int8_t", f"{prefix}down_{i}", down.ravel().tolist())
            + _array("int8_t", f"{prefix}across_{i}", across.ravel().tolist())
            + _array("uint16_t", f"{prefix}frequencies_{i}", kept.ravel().tolist())
        )
    if not is_sparse(layer):
        return bias + _array(kind, f"{prefix}weights_{i}", layer.weights.T.ravel().tolist())
    counts, gaps, values = sparse(layer.weights)
    count = "uint16_t" if max(counts) < 1 << 16 else "uint32_t"
    return (
        bias
        + _array(count, f"{prefix}counts_{i}", counts)
        + _array("uint8_t", f"{prefix}gaps_{i}", gaps)
        + _array(kind, f"{prefix}weights_{i}", values)
    )


def _waves(layer: WholeLayer) -> tuple[I64, I64, I64] | None:
    """Of a cosine transform its frequencies (n, 2), and the waves down and across; None if a layer is none."""
    width = picture_of(layer.weights) if layer.bits else None
    if width is None:
        return None
    height, n_out = layer.weights.shape[0] // width, layer.weights.shape[1]
    kept = frequencies(height, width, block_of(layer.weights, width) or 0, n_out)
    down, across = (waves(size, int(kept[:, j].max()) + 1) for j, size in enumerate((height, width)))
    return kept, down, across


# Code


def _head(net: WholeNet, name: str, number: str, score: str) -> str:
    d, outputs = net.front.n_features, net.layers[-1].weights.shape[1]
    categories = net.front.categories
    lines = [
        f" * int {name}_scores({_given(net, number)}, {score} scores[{outputs}]);",
        " *     0, or 1 + the place of a value that is NaN or infinite and must not be; scores are then not set.",
    ]
    if net.task == "classification":
        lines += [
            f" * int {name}_class(const {score} scores[{outputs}]);",
            " *     The place of the first largest score.",
            f" * void {name}_probabilities(const {score} scores[{outputs}], double probabilities[{outputs}]);",
            " *     The only one to use the C library: exp of -lm.",
        ]
    else:
        lines.append(f" * double {name}_value(const {score} scores[1]);")
    if net.task == "classification" and isinstance(net.labels[0], str):
        lines.append(
            f" * const struct {name}_text {name}_labels[{outputs}];     bytes in UTF-8; text ends with 0 as well"
        )
    elif net.task == "classification":
        lines.append(f" * const int64_t {name}_labels[{outputs}];")
    if "columns" in net.front.layout and d:
        lines.append(f" * const struct {name}_text {name}_columns[{d}];")
    if categories:
        lines += [
            f" * const struct {name}_text {name}_categories[{len(categories)}];",
            f" * int32_t {name}_text_code(int category, const char *text, size_t bytes);",
            f" * int32_t {name}_whole_code(int category, int64_t value);     booleans are 0 and 1",
            f" * int32_t {name}_null_code(int category);",
            " *     Codes of a category's values; 0 for one that the model does not know.",
        ]
    return (
        "/* A model in whole numbers, C99. Nothing is allocated, nothing is kept between calls.\n *\n"
        + "\n".join(lines)
        + "\n */\n#include <float.h>\n#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n\n"
        "#if defined __FAST_MATH__ || FLT_EVAL_METHOD < 0 || (FLT_EVAL_METHOD > 1 && FLT_EVAL_METHOD != 16)\n"
        '#error "rows are read in double precision: compile without -ffast-math, and with -msse2 on an old PC"\n'
        "#endif\n"
    )


def _codes(net: WholeNet, name: str, number: str, code: str) -> str:
    """The front: a raw row to codes, in double precision as the reference does it."""
    front = net.front
    shared = len(front.low) == 1
    data = ""
    if shared:
        low, step = float(front.low[0]), float(front.step[0])
    else:
        data += _floats(f"{name}_low", front.low) + _floats(f"{name}_step", front.step)
    one_fill = len(front.fill) == 1
    if not one_fill:
        data += _array("int32_t", f"{name}_fill", front.fill.tolist())
    value = "(double)row[i]" if number == "float" else "row[i]"
    # x - 0 and x / 1 are x to the last bit.
    if shared:
        less = value if low == 0 else f"({value} - ({low.hex()}))"
        scaled = less if step == 1 else f"{less} / {step.hex()}"
    else:
        scaled = f"({value} - (double){name}_low[i]) / (double){name}_step[i]"
    refuses = bool((front.fill < 0).any())
    missing: list[str]
    if one_fill:
        missing = ["            return i + 1;"] if refuses else [f"            codes[i] = {int(front.fill[0])};"]
    else:
        missing = [f"            if ({name}_fill[i] < 0)", "                return i + 1;"] if refuses else []
        missing.append(f"            codes[i] = ({code}){name}_fill[i];")
    kept = [
        f"            const double x = {scaled} + 0.5;",
        f"            codes[i] = ({code})(x >= {front.top}.0 ? {front.top}.0 : x > 0.0 ? x : 0.0);",
    ]
    biggest = "FLT_MAX" if number == "float" else "DBL_MAX"
    body = [
        f"static int {name}_codes_of(const {number} *row, {code} *codes)",
        "{",
        "    int i;",
        f"    for (i = 0; i < {front.n_features}; i++) {{",
        f"        if (row[i] >= -{biggest} && row[i] <= {biggest}) {{",
        *kept,
        "        } else {",
        *missing,
        "        }",
        "    }",
        "    return 0;",
        "}",
    ]
    return data + "\n".join(body) + "\n"


def _layer(
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
    n_in, n_out = layer.weights.shape
    kind = weight[0]
    taken = [*([f"const {code} *in"] if n_in else []), *([f"const {acc} *sums"] if sums else [])]
    lines = [f"static void {prefix}layer_{i}({', '.join(taken)}, {out} *out)", "{"]
    thin = n_in > 0 and is_sparse(layer)
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


def _transform(
    prefix: str, i: int, layer: WholeLayer, wave: tuple[I64, I64, I64], code: str, out: str, top: int
) -> str:
    """A cosine transform: of every frequency down one row of sums, then those across."""
    kept, down, across = wave
    (n_down, height), width = down.shape, across.shape[1]
    total = top * np.abs(layer.weights).sum(axis=0) + np.abs(layer.bias)
    part, acc = _int(top * int(np.abs(down).sum(axis=1).max())), _int(int(total.max()))
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


def _given(net: WholeNet, number: str) -> str:
    """What a row is in C."""
    d, c = net.front.n_features, len(net.front.categories)
    return ", ".join([*([f"const {number} row[{d}]"] if d else []), *([f"const int32_t categories[{c}]"] if c else [])])


def _scores(net: WholeNet, name: str, number: str, score: str, acc: str, tops: Sequence[int]) -> str:
    widths = [net.front.n_features, *(layer.weights.shape[1] for layer in net.layers[:-1])]
    outputs, last = net.layers[-1].weights.shape[1], len(net.layers) - 1
    head = f"int {name}_scores({_given(net, number)}, {score} scores[{outputs}])"
    d, named = net.front.n_features, bool(net.front.categories)
    results = ["scores" if i == last else f"in_{i + 1}" for i in range(last + 1)]
    first = ", ".join([*(["in_0"] if d else []), *(["sums"] if named else []), results[0]])
    lines = [
        f"{head};",
        head,
        "{",
        *(f"    {_code(tops[i])} in_{i}[{width}];" for i, width in enumerate(widths) if width),
        *([f"    {acc} sums[{net.layers[0].weights.shape[1]}];"] if named else []),
        *([f"    const int refused = {name}_codes_of(row, in_0);"] if d else []),
        *(["    if (refused)", "        return refused;"] if d else []),
        *([f"    {name}_rows_of(categories, sums);"] if named else []),
        f"    {name}_layer_0({first});",
        *(f"    {name}_layer_{i}(in_{i}, {results[i]});" for i in range(1, last + 1)),
        "    return 0;",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _answers(net: WholeNet, name: str, score: str) -> str:
    outputs = net.layers[-1].weights.shape[1]
    logit = f"(double)scores[{{}}] * {net.scale.hex()} + ({net.offset.hex()})"
    if net.task == "regression":
        head = f"double {name}_value(const {score} scores[1])"
        return f"{head};\n{head}\n{{\n    return {logit.format(0)};\n}}\n"
    first = f"int {name}_class(const {score} scores[{outputs}])"
    second = f"void {name}_probabilities(const {score} scores[{outputs}], double probabilities[{outputs}])"
    return f"""{first};
{first}
{{
    int best = 0, k;
    for (k = 1; k < {outputs}; k++)
        if (scores[k] > scores[best])
            best = k;
    return best;
}}

{second};
{second}
{{
    const int best = {name}_class(scores);
    const double top = {logit.format("best")};
    double sum = 0.0;
    int k;
    for (k = 0; k < {outputs}; k++) {{
        probabilities[k] = exp({logit.format("k")} - top);
        sum += probabilities[k];
    }}
    for (k = 0; k < {outputs}; k++)
        probabilities[k] /= sum;
}}
"""


def _rows(net: WholeNet, name: str, acc: str) -> str:
    """The sums of the first layer that categories make, its biases included."""
    front, layer = net.front, net.layers[0]
    kind, n_out, d = _weight(layer)[0], layer.weights.shape[1], front.n_features
    data = _array(kind, f"{name}_category_weights", layer.weights[d:].ravel().tolist())
    data += _array("int32_t", f"{name}_widths", [category.width for category in front.categories])
    data += _array("int32_t", f"{name}_starts", [start - d for start, _ in front.spans])
    return (
        data
        + f"""
static void {name}_rows_of(const int32_t *categories, {acc} *sums)
{{
    int i, j;
    for (j = 0; j < {n_out}; j++)
        sums[j] = {name}_bias_0[j];
    for (i = 0; i < {len(front.categories)}; i++) {{
        const int32_t code = categories[i] > 0 && categories[i] < {name}_widths[i] ? categories[i] : 0;
        const {kind} *w = {name}_category_weights + ({name}_starts[i] + code) * {n_out};
        for (j = 0; j < {n_out}; j++)
            sums[j] += ({acc}){front.hot} * ({acc})w[j];
    }}
}}
"""
    )


__all__ = ["Number", "is_sparse", "score_type", "source", "sparse", "to_c"]
