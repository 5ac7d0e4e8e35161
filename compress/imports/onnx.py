"""An ONNX file as a chain of dense layers; whatever else it holds is refused, by name, before it is looked into."""

from __future__ import annotations

from typing import Any

import numpy as np

from eigenmill.compress.core.integer import MAX_PARAMETERS
from eigenmill.compress.core.layers import MAX_LAYERS
from eigenmill.reduce.errors import ArtifactError, ConfigError
from eigenmill.reduce.rows.blocks import F64

PASSING = ("Identity", "Dropout", "Flatten")
LAST = ("Softmax", "LogSoftmax", "Sigmoid")
MAX_NODES = 8 * MAX_LAYERS


def chain(content: bytes, where: str) -> tuple[list[tuple[F64, F64, bool]], bool]:
    """Weights (n_in, n_out), biases (n_out,) and whether ReLU follows, of each layer; and whether a sigmoid comes last.

    Raises:
        ArtifactError: the bytes are no ONNX.
        ConfigError: there is something else in the file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ArtifactError(f"expected an ONNX model in {where}, found: {error}; export it again") from error
    graph = model.graph
    _plain(model)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise _other(f"{len(inputs)} inputs and {len(graph.output)} outputs", "one of each")
    layers: list[tuple[F64, F64, bool]] = []
    at, end, open_sum = inputs[0], "", False
    for node in graph.node:
        kind, names = node.op_type, [name for name in node.input if name]
        others = [name for name in names if name != at]
        shadows = len(node.output) < 1 or node.output[0] in constants
        if end or at not in names or shadows or not set(others) <= set(constants):
            raise _other(f"{kind} beside the chain", "a chain of operators from the input to the output")
        if kind == "MatMul" and len(names) == 2 and names[0] == at:
            weights = _array(constants[names[1]], 2)
            layers.append((weights, np.zeros(weights.shape[1]), False))
        elif kind == "Gemm" and 2 <= len(names) <= 3 and names[0] == at:
            layers.append(_gemm(node, [constants[name] for name in names[1:]]))
        elif kind == "Add" and len(others) == 1 and open_sum:
            weights, bias, _ = layers[-1]
            layers[-1] = (weights, bias + _row(constants[others[0]], len(bias)), False)
        elif kind == "Relu" and layers:
            layers[-1] = (*layers[-1][:2], True)
        elif kind in LAST and layers and not layers[-1][2] and _ints(node, "axis") <= {1, -1}:
            end = kind
        elif not _passes(node) and not _widens(node):
            raise _other(f"{kind} after {len(layers)} layers", f"Gemm, MatMul and Add, Relu, and {LAST} last")
        # A sum may take a bias until something else is done to it.
        open_sum = kind in ("MatMul", "Gemm") or (open_sum and kind in ("Add", "Cast", *PASSING))
        at = node.output[0]
    if at != graph.output[0].name:
        raise _other(
            f"an output {graph.output[0].name[:50]!r} within the chain", "the last operator's result as output"
        )
    return layers, end == "Sigmoid"


def _ints(node: Any, name: str) -> set[int]:
    """What an attribute says, if it is there."""
    return {attribute.i for attribute in node.attribute if attribute.name == name}


def _passes(node: Any) -> bool:
    """Whether rows come out as they go in: Flatten of whole rows, Dropout that is told nothing about training."""
    if node.op_type == "Flatten":
        return _ints(node, "axis") <= {1}
    return node.op_type in PASSING and (node.op_type == "Identity" or len(node.input) < 3)


def _widens(node: Any) -> bool:
    """Whether it is a Cast to single or double precision, which Keras on torch puts between all operators."""
    from onnx import TensorProto

    return node.op_type == "Cast" and _ints(node, "to") in ({TensorProto.FLOAT}, {TensorProto.DOUBLE})


def _plain(model: Any) -> None:
    """Refuses what a chain of layers has no use for.

    Raises:
        ConfigError: it is there.
    """
    import onnx

    graph = model.graph
    domains = {opset.domain for opset in model.opset_import} | {node.domain for node in graph.node}
    if model.functions or any(node.domain not in ("", "ai.onnx") for node in graph.node):
        raise _other(f"functions or operators of {sorted(domains)[:10]}", "standard operators only")
    if len(graph.node) > MAX_NODES or graph.sparse_initializer or graph.quantization_annotation:
        raise _other(
            f"{len(graph.node)} operators, or sparse or quantized tensors", f"at most {MAX_NODES}, and dense ones"
        )
    nested = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(a.type in nested or a.HasField("g") or a.graphs for a in attributes):
        raise _other("a graph inside an operator", "a chain without subgraphs")
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise _other("tensors kept in other files", "all weights in the file")


def _array(tensor: Any, ndim: int) -> F64:
    """A constant in double precision, its size checked before it is made."""
    from onnx import TensorProto, numpy_helper

    size = 1
    for n in tensor.dims:
        size *= n if 0 < n <= MAX_PARAMETERS else MAX_PARAMETERS + 1
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16) or size > MAX_PARAMETERS:
        raise _other(f"a tensor of type {tensor.data_type} and {list(tensor.dims)[:5]}", "weights in floating point")
    try:
        found = numpy_helper.to_array(tensor)
    except ValueError as error:
        raise ArtifactError(f"expected {size} numbers in a tensor, found: {error}; export it again") from error
    if found.ndim != ndim:
        raise _other(f"a tensor of shape {found.shape}", f"{ndim} dimensions")
    return np.asarray(found, dtype=np.float64)


def _row(tensor: Any, width: int) -> F64:
    """A bias (n_out,): a row, or one number for all."""
    found = _array(tensor, len(tensor.dims))
    if found.size not in (1, width) or (found.size == width and found.shape[-1:] != (width,) and width > 1):
        raise _other(f"a bias of shape {found.shape}", f"{width} numbers in a row")
    return np.broadcast_to(found.ravel(), (width,)).astype(np.float64)


def _gemm(node: Any, tensors: list[Any]) -> tuple[F64, F64, bool]:
    from onnx import AttributeProto

    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    for attribute in node.attribute:
        if attribute.type not in (AttributeProto.FLOAT, AttributeProto.INT) or attribute.name not in given:
            raise _other(f"Gemm with {attribute.name[:50]!r} of type {attribute.type}", f"numbers as {list(given)}")
        given[attribute.name] = attribute.f if attribute.type == AttributeProto.FLOAT else attribute.i
    if given["transA"]:
        raise _other("Gemm with transA", "rows as they are")
    weights = _array(tensors[0], 2)
    weights = given["alpha"] * (weights.T if given["transB"] else weights)
    width = weights.shape[1]
    bias = given["beta"] * _row(tensors[1], width) if len(tensors) > 1 else np.zeros(width)
    return weights, bias, False


def _other(found: str, expected: str) -> ConfigError:
    return ConfigError(f"expected {expected}, found {found}; export a multilayer perceptron alone")


__all__ = ["chain"]
