"""C: a packed model as one file of C99, from the raw row to integer scores, a class and probabilities.

The file allocates nothing, keeps no state, and needs of the C library ``exp`` only, for probabilities. Its scores are
those of ``eigenmill.compress.core.integer`` on every row, because it does the same whole-number arithmetic: sums are 32
bits wide where ``bounds`` proves that they fit, else 64. Weights are stored dense in 8 or 16 bits, or as distances and
values of those that are not 0, whichever is smaller.

Labels and names of columns are data: they appear in string literals only, every byte that is not a plain letter or
digit as an octal escape, so that neither quotes, trigraphs nor ends of comments mean anything.

A category comes in as its code, and any number that is no code counts as code 0; functions look up the code of a text,
a whole number, or null. The rows of the first layer that codes choose are added up before the rest of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.integer import WholeNet, bounds
from eigenmill.compress.core.model import Model
from eigenmill.compress.exports.c_layers import (
    array,
    code_type,
    constants,
    function,
    sum_type,
    transform,
    waves_of,
    weight_type,
)
from eigenmill.compress.exports.c_names import lookups, names, struct
from eigenmill.compress.packed.pack import net_of
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.storage import files, places

Number = Literal["double", "float"]
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
    fs, target = places.resolve(path)
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
    mine, accs, found = f"{name}_", [sum_type(m) for m in most], [waves_of(layer) for layer in layers]
    weights = [weight_type(layer) for layer in net.layers]
    each = list(enumerate(zip(layers, accs, weights, found, strict=True)))
    parts += [constants(mine, i, *given) for i, given in each]
    if net.front.categories:
        parts.append(_rows(net, name, accs[0]))
    if d:
        parts.append(_codes(net, name, number, code_type(tops[0])))
    for i, (layer, acc, weight, wave) in each:
        code, out = code_type(tops[i]), score if layer.bits == 0 else code_type(tops[i + 1])
        if wave is not None:
            parts.append(transform(mine, i, layer, wave, code, out, tops[i] + 1))
        else:
            sums = i == 0 and bool(net.front.categories)
            parts.append(function(mine, i, layer, acc, code, out, weight, sums=sums))
    parts += [_scores(net, name, number, score, accs[0], tops), _answers(net, name, score)]
    parts += [lookups(net, name), names(net, name)]
    return "\n".join(part for part in parts if part)


def score_type(net: WholeNet) -> str:
    """The type of a score in C."""
    return sum_type(bounds(net)[-1])


# Constants


def _floats(name: str, values: npt.NDArray[np.float32]) -> str:
    texts = [_float(float(v)) for v in values]
    rows = [", ".join(texts[at : at + 8]) for at in range(0, len(texts), 8)]
    return f"static const float {name}[{len(texts)}] = {{\n    " + ",\n    ".join(rows) + "\n};\n"


def _float(value: float) -> str:
    """A number of single precision, exactly: C99's hexadecimal constants."""
    return float(value).hex() + "F"


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
        data += array("int32_t", f"{name}_fill", front.fill.tolist())
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
        *(f"    {code_type(tops[i])} in_{i}[{width}];" for i, width in enumerate(widths) if width),
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
    kind, n_out, d = weight_type(layer)[0], layer.weights.shape[1], front.n_features
    data = array(kind, f"{name}_category_weights", layer.weights[d:].ravel().tolist())
    data += array("int32_t", f"{name}_widths", [category.width for category in front.categories])
    data += array("int32_t", f"{name}_starts", [start - d for start, _ in front.spans])
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


__all__ = ["Number", "score_type", "source", "to_c"]
