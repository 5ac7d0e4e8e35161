"""What ``eigenmill inspect model.emill`` says: all that is in a packed file, found by reading it; nothing runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from eigenmill.compress.packed.pack import MAGIC, read_content, sections
from eigenmill.jobs.shown.show import facts, grid
from eigenmill.jobs.shown.words import count, number, percent
from eigenmill.reduce.storage.digest import sha256_of


def describe_file(path: str) -> dict[str, Any]:
    """Schema, layers, bits, bytes by section and digest of a packed file, as plain values.

    Raises:
        ArtifactError: there is no such file, or it is damaged or of a newer format.
    """
    content, target = read_content(path)
    net, taken = sections(content, target)
    front = net.front
    layers = []
    for i, layer in enumerate(net.layers):
        n_in, n_out = layer.weights.shape
        most = int(np.abs(layer.weights).max(initial=0))
        layers.append(
            {
                "inputs": n_in,
                "outputs": n_out,
                "relu": layer.relu,
                "nonzero": int(np.count_nonzero(layer.weights)),
                "weight_bits": 1 + most.bit_length(),
                "weight_values": len(np.unique(layer.weights)),
                "result_bits": layer.bits or None,
                "bytes": taken[f"layer {i}"],
            }
        )
    parameters = sum(layer.weights.size + layer.bias.size for layer in net.layers)
    return {
        "path": path,
        "format": content[len(MAGIC) - 1],
        "bytes": len(content),
        "float_bytes": 4 * parameters,
        "sha256": sha256_of([content]),
        "task": net.task,
        "labels": list(net.labels),
        "input": {
            "layout": dict(front.layout),
            "features": front.n_features,
            "bits": front.bits,
            "measured_alike": front.shared,
            "missing": "refused" if (front.fill < 0).all() else "filled" if (front.fill >= 0).all() else "by column",
        },
        "categories": [
            {"name": c.name, "kind": c.kind, "values": len(c.values), "null_has_a_code": c.nulls}
            for c in front.categories
        ],
        "layers": layers,
        "sections": taken,
    }


def tables(found: dict[str, Any]) -> RenderableType:
    """The same as tables."""
    given, labels = found["input"], found["labels"]
    layout = given["layout"]
    columns = layout.get("columns")
    source = ", ".join(columns[:20]) + (" ..." if len(columns) > 20 else "") if columns else layout.get("vector")
    names = ", ".join(map(str, labels[:20])) + (" ..." if len(labels) > 20 else "")
    ratio = number(found["float_bytes"] / found["bytes"])
    about = facts(
        f"Packed model at {found['path']}",
        [
            ("size", f"{count(found['bytes'])} bytes; {ratio} times less than in single precision"),
            ("sha256", found["sha256"]),
            ("predicts", f"{count(len(labels))} labels: {names}" if labels else "a number"),
            ("reads", f"{count(given['features'])} features" + (f": {source}" if source else "")),
            ("input", f"{given['bits']} bits, missing values {given['missing']}"),
            *(
                ("category", f"{c['name']}: {count(c['values'])} values of kind {c['kind']}")
                for c in found["categories"]
            ),
        ],
    )
    layers = grid("layer", "inputs", "outputs", "not 0", "bits", "values", "result bits", "bytes", title="Layers")
    for i, layer in enumerate(found["layers"]):
        share = layer["nonzero"] / max(layer["inputs"] * layer["outputs"], 1)
        bits = "scores" if layer["result_bits"] is None else f"{layer['result_bits']}{' ReLU' if layer['relu'] else ''}"
        counts = [count(layer[name]) for name in ("inputs", "outputs")]
        nonzero = f"{count(layer['nonzero'])} ({percent(share)})"
        values = [str(layer["weight_bits"]), count(layer["weight_values"])]
        layers.add_row(str(i), *counts, nonzero, *values, bits, count(layer["bytes"]))
    parts = grid("section", "bytes", "share", title="Bytes")
    for name, size in found["sections"].items():
        parts.add_row(name, count(size), percent(size / found["bytes"]))
    return Group(about, "", layers, "", parts)


__all__ = ["describe_file", "tables"]
