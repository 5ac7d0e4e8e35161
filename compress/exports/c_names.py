"""Names in exported C: labels, columns, and the vocabularies of categories with the functions that search them.

All of them are data: nothing of a name is ever code.
"""

from __future__ import annotations

from collections.abc import Sequence

from eigenmill.compress.core.categories import Value
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.layers import Label
from eigenmill.reduce.errors import ConfigError


def struct(net: WholeNet, name: str) -> str:
    """The type of a text, if there is one."""
    labels, front = net.labels, net.front
    if front.layout.get("columns") or front.categories or (labels and isinstance(labels[0], str)):
        return f"struct {name}_text {{\n    const char *text;\n    size_t bytes;\n}};\n"
    return ""


def names(net: WholeNet, name: str) -> str:
    """Labels, columns and categories, as far as they have names."""
    columns, labels = net.front.layout.get("columns"), net.labels
    parts = []
    if labels and all(isinstance(label, str) for label in labels):
        parts.append(_texts(name, "labels", [str(label) for label in labels]))
    elif labels:
        table = f"const int64_t {name}_labels[{len(labels)}]"
        parts.append(f"extern {table};\n{table} = {{ {', '.join(map(_whole, labels))} }};\n")
    if columns:
        parts.append(_texts(name, "columns", [str(column) for column in columns]))
    if net.front.categories:
        parts.append(_texts(name, "categories", [category.name for category in net.front.categories]))
    return "".join(parts)


def lookups(net: WholeNet, name: str) -> str:
    """The vocabularies, and functions that search them."""
    categories = net.front.categories
    if not categories:
        return ""
    known: list[tuple[str, tuple[Value, ...]]] = []
    data, texts, wholes, nulls = [""] * len(categories), [""] * len(categories), [""] * len(categories), ""
    for i, category in enumerate(categories):
        vocabulary = (category.kind, category.values)
        known.append(vocabulary)
        table = f"{name}_values_{known.index(vocabulary)}"
        nulls += f"    case {i}:\n        return {category.null};\n"
        if not category.values:
            continue
        here = f"    case {i}:\n        values = {table};\n        high = {len(category.values)};\n        break;\n"
        if category.kind == "text":
            texts[i] = here
            rows = ",\n".join(f"    {{ {literal(str(v))}, {len(str(v).encode())} }}" for v in category.values)
            data[i] = f"static const struct {name}_text {table}[{len(category.values)}] = {{\n{rows}\n}};\n"
        else:
            wholes[i] = here
            rows = ",\n".join(f"    {_int64(int(v))}" for v in category.values)
            data[i] = f"static const int64_t {table}[{len(category.values)}] = {{\n{rows}\n}};\n"
        if known.index(vocabulary) < i:
            data[i] = ""
    order = f"""
static int {name}_order_of(const char *text, size_t bytes, const struct {name}_text *value)
{{
    size_t i;
    for (i = 0; i < bytes && i < value->bytes; i++)
        if (text[i] != value->text[i])
            return (unsigned char)text[i] < (unsigned char)value->text[i] ? -1 : 1;
    return bytes < value->bytes ? -1 : bytes > value->bytes;
}}
"""
    search = _SEARCH.replace("NAME", name)
    text, whole = "".join(texts), "".join(wholes)
    in_text = search.replace("KIND", f"const struct {name}_text").replace("CASES", text)
    in_text = in_text.replace("ORDER", f"{name}_order_of(text, bytes, values + middle)")
    in_whole = search.replace("KIND", "const int64_t").replace("CASES", whole)
    in_whole = in_whole.replace("ORDER", "value < values[middle] ? -1 : value > values[middle]")
    heads = [
        f"int32_t {name}_text_code(int category, const char *text, size_t bytes)",
        f"int32_t {name}_whole_code(int category, int64_t value)",
        f"int32_t {name}_null_code(int category)",
    ]
    bodies = [
        in_text if text else "{\n    (void)category;\n    (void)text;\n    (void)bytes;\n    return 0;\n}\n",
        in_whole if whole else "{\n    (void)category;\n    (void)value;\n    return 0;\n}\n",
        f"{{\n    switch (category) {{\n{nulls}    default:\n        return 0;\n    }}\n}}\n",
    ]
    functions = [f"{head};\n{head}\n{body}" for head, body in zip(heads, bodies, strict=True)]
    return "".join([*data, order if text else "", *functions])


_SEARCH = """{
    KIND *values = NULL;
    int32_t low = 0, high = 0;
    switch (category) {
CASES    default:
        break;
    }
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        const int order = ORDER;
        if (order == 0)
            return middle + 1;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return 0;
}
"""
"""Looks a value up among those of one category, which ascend."""


def literal(text: str) -> str:
    """A string literal of C with these bytes in UTF-8. Octal escapes have three digits, so that none runs on."""
    raw = text.encode("utf-8", "surrogatepass")
    safe = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,:;+"
    return '"' + "".join(chr(b) if b in safe else f"\\{b:03o}" for b in raw) + '"'


def _texts(name: str, what: str, texts: Sequence[str]) -> str:
    rows = [f"    {{ {literal(t)}, {len(t.encode('utf-8', 'surrogatepass'))} }}" for t in texts]
    table = f"const struct {name}_text {name}_{what}[{len(rows)}]"
    return f"extern {table};\n{table} = {{\n" + ",\n".join(rows) + "\n};\n"


def _whole(label: Label) -> str:
    value = int(label)
    if not -(1 << 62) <= value <= 1 << 62:
        raise ConfigError(f"expected labels of at most 2**62, found {value}; train on smaller ones")
    return f"{value}LL"


def _int64(value: int) -> str:
    """A constant of 64 bits; the least one is no literal in C."""
    return f"{value}LL" if value > -(1 << 63) else f"({value + 1}LL - 1)"


__all__ = ["literal", "lookups", "names", "struct"]
