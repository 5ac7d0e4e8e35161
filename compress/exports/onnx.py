"""ONNX: a packed model as one graph of standard operators, from raw columns to labels and probabilities.

Input ``X`` (rows, d) float32 in the order of the model's columns, if it has any that are numbers; and for each category
``C0``, ``C1`` ... (rows,), of text or of int64 (booleans are 0 and 1), in which an empty text and -2**63 stand for
null. Outputs ``label`` (rows,) and ``probabilities`` (rows, classes) float32, or ``value`` (rows,) float64 of a
regression. Where the integer net refuses a row, because a value is missing that must not be, a graph cannot: its
probabilities or value are NaN, and its label means nothing.

The graph computes with whole numbers held in floating point: in single precision where no sum of a layer, in
whatever order, can exceed 2**24, else in double precision, which holds 2**53; a product that could exceed that is
made in 64-bit integers. So its scores are those of ``eigenmill.compress.core.integer``, and probabilities differ by the
rounding to single precision only. Values become codes by a LabelEncoder of ai.onnx.ml, and codes take rows of the first
weights.

Labels are elements of a tensor; names of columns are a JSON list under ``columns`` in the metadata, those of categories
with their kinds one under ``categories``: neither names anything in the graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eigenmill.compress.core.categories import Value, as_rows, category_values, column_of, is_table
from eigenmill.compress.core.front import RawLike, RawRows
from eigenmill.compress.core.integer import WholeLayer, WholeNet, bounds, largest_sums
from eigenmill.compress.core.layers import I64, Predicted
from eigenmill.compress.core.model import Model
from eigenmill.compress.packed.pack import net_of
from eigenmill.reduce.errors import ConfigError, SchemaError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.storage import files, places

OPSET, IR_VERSION = 17, 8
"""Of ONNX 1.12: what runtimes from 2022 on read."""
SINGLE, DOUBLE = 1 << 24, 1 << 53
Proto = Any
"""A message of protobuf, which has no types."""
Element = type[np.generic] | np.dtype[np.generic]
NULLS: dict[str, str | int] = {"text": "", "whole": -(1 << 63), "boolean": -(1 << 63)}
"""What stands for null, since tensors have none; a vocabulary that has such a value keeps its code."""
MARGIN = 1e-5
"""Rows whose two largest probabilities differ by more have one class, whoever computes them."""


def to_onnx(model: Model | WholeNet | str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Write a quantized model as one ONNX file, whole or not at all.

    Args:
        model: quantized, or the path of a packed file.
        path: a local path or URI.

    Returns:
        Bytes of the file.

    Raises:
        ConfigError: the model is not quantized, or a label is no text in UTF-8.
        OutputError: it cannot be written.
    """
    content: bytes = graph(net_of(model)).SerializeToString(deterministic=True)
    fs, target = places.resolve(path)
    files.write_bytes(fs, target, content)
    return len(content)


@dataclass(frozen=True)
class _Graph:
    """Nodes and constants in the making; they are named by numbers, so that no data names anything."""

    nodes: list[Proto] = field(default_factory=list)
    constants: list[Proto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """The name of what a node gives."""
        return self.put(f"t{len(self.nodes)}", operator, *inputs, **attributes)

    def put(self, name: str, operator: str, *inputs: str, **attributes: object) -> str:
        """The same with a name chosen."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def cast(self, name: str, dtype: Element) -> str:
        return self.add("Cast", name, to=_type(dtype))

    def constant(self, values: npt.ArrayLike) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def texts(self, values: Sequence[str]) -> str:
        from onnx import TensorProto

        try:
            raw = [value.encode() for value in values]
        except UnicodeEncodeError as error:
            raise ConfigError(f"expected labels that are text in UTF-8, found another: {error}; rename it") from error
        # Not by helper.make_tensor, which drops NUL characters at the end.
        name = f"c{len(self.constants)}"
        self.constants.append(TensorProto(name=name, data_type=TensorProto.STRING, dims=[len(raw)], string_data=raw))
        return str(self.constants[-1].name)


def _type(dtype: Element) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def graph(net: WholeNet) -> Proto:
    """The ``onnx.ModelProto`` that :func:`to_onnx` writes."""
    from onnx import TensorProto, checker, helper

    made = _Graph()
    front, most = net.front, bounds(net)
    codes, refused = _codes(made, net) if front.n_features else ("", None)
    for i, (layer, largest, sums) in enumerate(zip(net.layers, most, largest_sums(net), strict=True)):
        single = all(total + abs(int(bias)) <= SINGLE for total, bias in zip(sums, layer.bias, strict=True))
        dtype = np.float32 if single else np.float64
        acc = _first(made, net, codes, dtype) if i == 0 and front.categories else _product(made, codes, layer, dtype)
        codes = _layer(made, acc, layer, largest)
    outputs = net.layers[-1].weights.shape[1]
    logits = made.add("Mul", made.cast(codes, np.float64), made.constant(np.float64(net.scale)))
    if net.task == "regression":
        value = made.add("Add", logits, made.constant(np.float64(net.offset)))
        value = value if refused is None else made.add("Add", value, refused)
        made.put("value", "Reshape", value, made.constant(np.array([-1])))
        given = [helper.make_tensor_value_info("value", TensorProto.DOUBLE, ["rows"])]
    else:
        chances = made.add("Softmax", logits, axis=1)
        chances = chances if refused is None else made.add("Add", chances, refused)
        made.put("probabilities", "Cast", chances, to=TensorProto.FLOAT)
        kind = _label(made, net, codes)
        given = [
            helper.make_tensor_value_info("label", kind, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", outputs]),
        ]
    taken = []
    if front.n_features:
        taken.append(helper.make_tensor_value_info("X", TensorProto.FLOAT, ["rows", front.n_features]))
    for j, category in enumerate(front.categories):
        type_ = TensorProto.STRING if category.kind == "text" else TensorProto.INT64
        taken.append(helper.make_tensor_value_info(f"C{j}", type_, ["rows"]))
    whole = helper.make_graph(made.nodes, "model", taken, given, made.constants)
    sets = [helper.make_opsetid("", OPSET), *([helper.make_opsetid("ai.onnx.ml", 2)] if front.categories else [])]
    model = helper.make_model(
        whole,
        opset_imports=sets,
        ir_version=IR_VERSION,
        producer_name="eigenmill",
    )
    known = {"columns": json.dumps(front.names)} if "columns" in front.layout or front.categories else {}
    if front.categories:
        known["categories"] = json.dumps([[category.name, category.kind] for category in front.categories])
    if known:
        helper.set_model_props(model, known)
    checker.check_model(model, full_check=True)
    return model


def _codes(made: _Graph, net: WholeNet) -> tuple[str, str | None]:
    """The codes (rows, d) in double precision, and (rows, 1) of 0, or NaN where a row is refused."""
    front = net.front
    x = made.cast("X", np.float64)
    refuses = front.fill < 0
    gone = made.add("Sub", x, x)  # 0, or NaN where x is not finite
    refused = None
    if refuses.any():
        part = gone
        if not refuses.all():
            part = made.add("Where", made.constant(refuses[None]), gone, made.constant(np.float64(0)))
        refused = made.add("ReduceSum", part, made.constant(np.array([1])), keepdims=1)
    q = x
    if (front.low != 0).any():
        q = made.add("Sub", q, made.constant(front.low.astype(np.float64)))
    if (front.step != 1).any():
        q = made.add("Div", q, made.constant(front.step.astype(np.float64)))
    q = made.add("Add", q, made.constant(np.float64(0.5)))
    q = made.add("Clip", q, made.constant(np.float64(0)), made.constant(np.float64(front.top)))
    q = made.add("Floor", q)
    if not refuses.all():
        q = made.add("Where", made.add("IsNaN", gone), made.constant(np.maximum(front.fill, 0).astype(np.float64)), q)
    return q, refused


def _product(made: _Graph, codes: str, layer: WholeLayer, dtype: Element) -> str:
    """The sums of a layer."""
    weights = made.cast(made.constant(_small(layer.weights)), dtype)
    return made.add("Gemm", made.cast(codes, dtype), weights, made.constant(layer.bias.astype(dtype)))


def _first(made: _Graph, net: WholeNet, codes: str, dtype: Element) -> str:
    """The sums of a first layer with categories."""
    front, layer = net.front, net.layers[0]
    d = front.n_features
    rows = made.cast(made.constant(_small(layer.weights[d:])), dtype)
    total = ""
    for j, (category, (start, _)) in enumerate(zip(front.categories, front.spans, strict=True)):
        values: list[Value] = list(category.values) if category.kind == "text" else [int(v) for v in category.values]
        places = list(range(1, len(values) + 1))
        if category.nulls and NULLS[category.kind] not in values:
            values, places = [*values, NULLS[category.kind]], [*places, category.null]
        if values:
            keys = {"keys_strings": values} if category.kind == "text" else {"keys_int64s": values}
            given = {**keys, "values_int64s": places, "default_int64": 0}
            place = made.add("LabelEncoder", f"C{j}", domain="ai.onnx.ml", **given)
        else:  # an empty vocabulary gives every row code 0, so only the number of rows matters
            shape = made.add("Shape", f"C{j}")
            place = made.add("Expand", made.constant(np.array([0])), shape)
        row = made.add("Gather", rows, made.add("Add", place, made.constant(np.int64(start - d))))
        total = made.add("Add", total, row) if total else row
    total = made.add("Mul", total, made.constant(np.array(front.hot, dtype)))
    if d:
        return made.add("Add", total, _product(made, codes, replace(layer, weights=layer.weights[:d]), dtype))
    return made.add("Add", total, made.constant(layer.bias.astype(dtype)))


def _small(weights: I64) -> npt.NDArray[np.signedinteger]:
    return weights.astype(np.int8 if np.abs(weights).max(initial=0) < 128 else np.int16)


def _layer(made: _Graph, acc: str, layer: WholeLayer, largest: int) -> str:
    """Of sums those of the last layer, or the results of another one."""
    if layer.bits == 0:
        return acc
    half = 1 << (layer.shift - 1)
    if largest * layer.multiplier + half < DOUBLE:
        scaled = made.add(
            "Mul", made.cast(acc, np.float64), made.constant(np.float64(layer.multiplier / 2**layer.shift))
        )
        scaled = made.add("Floor", made.add("Add", scaled, made.constant(np.float64(0.5))))
    else:
        product = made.add("Mul", made.cast(acc, np.int64), made.constant(np.int64(layer.multiplier)))
        product = made.add("Add", product, made.constant(np.int64(half)))
        unit = made.constant(np.int64(1 << layer.shift))
        # Division of integers is towards 0: without the remainder, which has the divisor's sign, it is exact.
        product = made.add("Sub", product, made.add("Mod", product, unit))
        scaled = made.cast(made.add("Div", product, unit), np.float64)
    return made.add("Clip", scaled, made.constant(np.float64(layer.low)), made.constant(np.float64(layer.high)))


def _label(made: _Graph, net: WholeNet, scores: str) -> Proto:
    """Adds the output ``label`` and gives its type."""
    from onnx import TensorProto

    if net.labels == tuple(range(len(net.labels))) and not isinstance(net.labels[0], bool):
        made.put("label", "ArgMax", scores, axis=1, keepdims=0)
        return TensorProto.INT64
    place = made.add("ArgMax", scores, axis=1, keepdims=0)
    if isinstance(net.labels[0], str):
        made.put("label", "Gather", made.texts([str(label) for label in net.labels]), place)
        return TensorProto.STRING
    labels = np.asarray(net.labels)
    made.put("label", "Gather", made.constant(labels), place)
    return _type(labels.dtype)


@dataclass(frozen=True)
class OnnxNet:
    """An exported model, run by onnxruntime."""

    session: Any

    def predict(self, X: RawLike) -> Predicted:
        """Labels (n,), or values of a regression, of raw rows X (n, d), or of a table if there are categories."""
        return np.asarray(self.session.run(None, self._feeds(X))[0])

    def predict_proba(self, X: RawLike) -> npt.NDArray[np.float32]:
        """Probabilities (n, classes)."""
        found: npt.NDArray[np.float32] = self.session.run(["probabilities"], self._feeds(X))[0]
        return found

    def _feeds(self, X: RawLike) -> dict[str, npt.NDArray[Any]]:
        if not is_table(X):
            return {"X": np.ascontiguousarray(X, np.float32)}
        table, known = as_rows(X).combine_chunks(), self.session.get_modelmeta().custom_metadata_map
        columns = json.loads(known["columns"])
        feeds: dict[str, npt.NDArray[Any]] = {}
        if columns:
            arrays = [np.asarray(table[name].to_numpy(), np.float32) for name in columns]
            feeds["X"] = np.column_stack(arrays)
        for j, (name, kind) in enumerate(json.loads(known.get("categories", "[]"))):
            column = table[column_of(name)]
            chunks = column.chunks or [pa.array([], column.type)]
            values = pa.concat_arrays([category_values(chunk, name, kind) for chunk in chunks])
            values = values if kind == "text" else values.cast(pa.int64())
            feeds[f"C{j}"] = values.fill_null(NULLS[kind]).to_numpy(zero_copy_only=False)
        return feeds


def run_onnx(source: str | os.PathLike[str] | bytes, *, threads: int = 1) -> OnnxNet:
    """Open an exported model with onnxruntime.

    Args:
        source: a local path, or the bytes of a file.
        threads: of onnxruntime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    given = source if isinstance(source, bytes) else os.fspath(source)
    return OnnxNet(onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"]))


@dataclass(frozen=True)
class Agreement:
    """How an exported model compares with the integer net on the same rows, in single precision.

    Attributes:
        rows: compared.
        difference: largest of a probability; of a regression's value, in units of its size or 1.
        same: rows of the same class.
        decided: rows whose two largest probabilities differ by more than ``MARGIN``.
        same_decided: of them, rows of the same class.
    """

    rows: int
    difference: float
    same: int
    decided: int
    same_decided: int


def agreement(model: Model | WholeNet | str | os.PathLike[str], exported: OnnxNet, X: RawLike) -> Agreement:
    """Compare an exported model with what it was exported from, on raw rows X (n, d) without refused values.

    Raises:
        SchemaError: there are no rows.
    """
    net, rows = net_of(model), _single(X)
    if not len(rows):
        raise SchemaError("expected rows to compare on, found none; give some")
    if net.task == "regression":
        wanted: F64 = np.asarray(net.predict(rows))
        gap = np.abs(np.asarray(exported.predict(rows), dtype=np.float64) - wanted) / np.maximum(np.abs(wanted), 1.0)
        return Agreement(len(rows), float(gap.max()), len(rows), 0, 0)
    chances = net.predict_proba(rows)
    first, second = np.partition(chances, -2, axis=1)[:, -2:].T[::-1]
    same = np.asarray(exported.predict(rows) == net.predict(rows))
    decided = first - second > MARGIN
    return Agreement(
        len(rows),
        float(np.abs(exported.predict_proba(rows) - chances).max()),
        int(same.sum()),
        int(decided.sum()),
        int(same[decided].sum()),
    )


def _single(X: RawRows) -> RawRows:
    """Raw rows with their numbers in single precision."""
    if not is_table(X):
        return np.ascontiguousarray(X, np.float32)
    table = as_rows(X)
    kinds = [pa.field(f.name, pa.float32() if pa.types.is_floating(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(kinds))


__all__ = ["Agreement", "OnnxNet", "agreement", "graph", "run_onnx", "to_onnx"]
