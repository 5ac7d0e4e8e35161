"""Nets trained elsewhere: a live torch ``Sequential``, safetensors, a live scikit-learn MLP, an ONNX MLP of Keras.

What comes in is an ordinary trained :class:`Model`: its input is measured on ``data``, which should be rows like those
that the net was trained on, and its first layer is rewritten for the codes of that input. Nothing is unpickled:
torch and scikit-learn models are taken alive, files are safetensors or ONNX.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eigenmill.compress.core.data import as_labelled
from eigenmill.compress.core.front import Front, learn_front
from eigenmill.compress.core.integer import MAX_PARAMETERS
from eigenmill.compress.core.layers import MAX_LAYERS, MAX_WIDTH, Dense, Label, Task
from eigenmill.compress.core.model import Model
from eigenmill.compress.imports.onnx import chain
from eigenmill.reduce import Dataset, connect
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.errors import ArtifactError, ConfigError, SchemaError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.storage import places

MAX_BYTES = 8 * MAX_PARAMETERS + (1 << 20)
"""Of a file: all weights that a net may have, in double precision."""


@dataclass(frozen=True)
class FloatLayer:
    """A layer as it comes in: ``y = x @ weights + bias``, then ReLU; weights (n_in, n_out)."""

    weights: F64
    bias: F64
    relu: bool = False


def from_torch(
    net: object,
    data: object,
    *,
    labels: Sequence[Label] | None = None,
    task: Task | None = None,
    input_bits: int | None = None,
    engine: Engine | None = None,
) -> Model:
    """A live ``torch.nn.Sequential`` of ``Linear`` and ``ReLU`` (``Dropout``, ``Flatten`` and ``Identity`` pass).

    A ``Softmax`` or ``Sigmoid`` may come last: a model's scores are what goes into it.

    Args:
        net: alive; a path is refused, because loading one can run code.
        data: rows like those that it was trained on: a Dataset, X (n, d), or a pair (X, y).
        labels: the classes in the order of the outputs; 0, 1, 2 ... by default.
        task: by default a regression for one output without ``Sigmoid``, else classification.
        input_bits: of the input's codes, as of :meth:`Model.mlp`.
        engine: where the scan of ``data`` runs.

    Raises:
        ConfigError: there is something else in the net.
        SchemaError: data or labels do not fit it.
    """
    from torch import nn

    if type(net) is not nn.Sequential:
        raise ConfigError(
            f"expected a live torch.nn.Sequential, found {type(net).__name__}; build one, and load into it"
        )
    layers: list[FloatLayer] = []
    end = ""
    for module in _flat(net, nn.Sequential):
        kind = type(module)
        if kind in (nn.Dropout, nn.Flatten, nn.Identity):
            continue
        if end or kind not in (nn.Linear, nn.ReLU, nn.Softmax, nn.LogSoftmax, nn.Sigmoid):
            raise ConfigError(
                f"expected Linear and ReLU, and Softmax or Sigmoid last, found {kind.__name__}; take it out"
            )
        if kind is nn.Linear:
            weights = module.weight.detach().cpu().double().numpy().T
            bias = (
                module.bias.detach().cpu().double().numpy() if module.bias is not None else np.zeros(weights.shape[1])
            )
            layers.append(FloatLayer(weights, bias))
        elif kind is nn.ReLU:
            layers = _with_relu(layers)
        else:
            end = kind.__name__
    return _model(layers, data, end == "Sigmoid", labels, task, input_bits, engine)


def _flat(net: Any, container: Any) -> list[Any]:
    return [m for module in net for m in (_flat(module, container) if type(module) is container else [module])]


def from_safetensors(
    path: str | os.PathLike[str],
    data: object,
    *,
    order: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    task: Task | None = None,
    input_bits: int | None = None,
    engine: Engine | None = None,
) -> Model:
    """Linear layers in a safetensors file, ``NAME.weight`` (n_out, n_in) and ``NAME.bias``, ReLU between them.

    Args:
        path: a local file.
        data: as of :func:`from_torch`, and so on.
        order: the names in the order of the layers; by default by the numbers in them.
        labels: the classes.
        task: what it does.
        input_bits: of the input's codes.
        engine: where the scan of ``data`` runs.

    Raises:
        ArtifactError: there is no such file, or it is damaged.
        ConfigError, SchemaError: it holds something else, or data does not fit it.
    """
    from safetensors import SafetensorError, safe_open

    layers = []
    try:
        with safe_open(places.absolute(path), framework="numpy") as file:
            keys = list(file.keys())
            names = list(order) if order is not None else _sorted_names(keys)
            used = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
            if not names or set(keys) - used or not {f"{name}.weight" for name in names} <= set(keys):
                raise ConfigError(
                    f"expected NAME.weight and NAME.bias of linear layers, found {sorted(keys)[:10]}; give order="
                )
            shapes = {key: file.get_slice(key).get_shape() for key in keys}
            if sum(int(np.prod(shape, dtype=object)) for shape in shapes.values()) > MAX_PARAMETERS:
                raise ConfigError(f"expected at most {MAX_PARAMETERS} parameters, found more; prune before")
            for name in names:
                weights = _float_array(file.get_tensor(f"{name}.weight"), 2).T
                given = f"{name}.bias" in keys
                bias = _float_array(file.get_tensor(f"{name}.bias"), 1) if given else np.zeros(weights.shape[1])
                layers.append(FloatLayer(weights, bias, relu=name != names[-1]))
    except (OSError, SafetensorError, TypeError) as error:
        raise ArtifactError(f"expected a safetensors file of float tensors at {path}, found: {error}") from error
    return _model(layers, data, False, labels, task, input_bits, engine)


def _sorted_names(keys: Sequence[str]) -> list[str]:
    """Names of layers by the numbers in them; without numbers only one layer has a certain place."""
    names = {key.rpartition(".")[0] for key in keys if key.endswith(".weight")}
    if len(names) > 1 and not all(re.search(r"\d", name) for name in names):
        raise ConfigError(f"expected names with the numbers of the layers, found {sorted(names)}; give order=")
    return sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def from_sklearn(
    net: Any,
    data: Any,
    *,
    input_bits: int | None = None,
    engine: Engine | None = None,
) -> Model:
    """A live, fitted ``MLPClassifier`` or ``MLPRegressor``, alone or in a ``Pipeline`` after scaler and PCA.

    Args:
        net: alive; a path is refused, because loading one can run code.
        data: as of :func:`from_torch`.
        input_bits: of the input's codes.
        engine: where the scan of ``data`` runs.

    Raises:
        ConfigError: it is something else, or has activations other than ReLU, or several targets.
        SchemaError: data does not fit it.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    steps = [step for _, step in net.steps if step not in (None, "passthrough")] if isinstance(net, Pipeline) else [net]
    last = steps[-1]
    if type(last) not in (MLPClassifier, MLPRegressor):
        raise ConfigError(
            f"expected a live MLPClassifier or MLPRegressor, found {type(last).__name__}; fit one of these"
        )
    check_is_fitted(last)
    classifier = type(last) is MLPClassifier
    several = last.n_outputs_ != 1 and last.out_activation_ != "softmax"
    if several or (last.activation not in ("relu", "identity") and len(last.coefs_) > 1):
        raise ConfigError(
            f"expected activation 'relu' and one target, found {last.activation!r} and {last.n_outputs_} outputs with "
            f"{last.out_activation_!r}; fit such a net"
        )
    relu = last.activation == "relu"
    pairs = list(zip(last.coefs_, last.intercepts_, strict=True))
    layers = [
        FloatLayer(_float_array(w, 2), _float_array(b, 1), relu and i + 1 < len(pairs))
        for i, (w, b) in enumerate(pairs)
    ]
    for step in reversed(steps[:-1]):
        layers = _with_step(step, layers)
    labels = last.classes_.tolist() if classifier else None
    task: Task = "classification" if classifier else "regression"
    return _model(layers, data, classifier and last.n_outputs_ == 1, labels, task, input_bits, engine)


def _with_step(step: Any, layers: list[FloatLayer]) -> list[FloatLayer]:
    """The layers with a transformation in front: scaling goes into the first, a projection becomes one."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    if type(step) is StandardScaler:
        first = layers[0]
        scale = np.ones(len(first.weights)) if step.scale_ is None else step.scale_
        weights = first.weights / scale[:, None]
        bias = first.bias if step.mean_ is None or not step.with_mean else first.bias - step.mean_ @ weights
        return [replace(first, weights=weights, bias=bias), *layers[1:]]
    if type(step) is PCA:
        matrix = step.components_.T.astype(np.float64)
        if step.whiten:
            matrix = matrix / np.sqrt(np.maximum(step.explained_variance_, np.finfo(np.float64).tiny))
        return [FloatLayer(matrix, -(step.mean_ @ matrix)), *layers]
    raise ConfigError(
        f"expected StandardScaler and PCA before the net, found {type(step).__name__}; apply it to the data"
    )


def from_onnx(
    path: str | os.PathLike[str],
    data: object,
    *,
    labels: Sequence[Label] | None = None,
    task: Task | None = None,
    input_bits: int | None = None,
    engine: Engine | None = None,
) -> Model:
    """An MLP in an ONNX file: a chain of ``Gemm``, or ``MatMul`` and ``Add``, with ``Relu`` between.

    ``Softmax`` or ``Sigmoid`` may come last; ``Identity``, ``Dropout`` and ``Flatten`` pass. External data, custom
    operators, functions and subgraphs are refused: the file alone must say what the net is.

    Args:
        path: a local path or URI.
        data: as of :func:`from_torch`, and so on.
        labels: the classes.
        task: what it does.
        input_bits: of the input's codes.
        engine: where the scan of ``data`` runs.

    Raises:
        ArtifactError: there is no such file, or it is damaged.
        ConfigError, SchemaError: it holds something else, or data does not fit it.
    """
    fs, target = places.resolve(path)
    try:
        with fs.open_input_stream(target) as file:
            content = bytes(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ArtifactError(f"expected an ONNX file at {target}, found: {error}; check the path") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"expected at most {MAX_BYTES} bytes, found more; prune before")
    layers, sigmoid = chain(content, target)
    return _model([FloatLayer(*layer) for layer in layers], data, sigmoid, labels, task, input_bits, engine)


# What they share


def _float_array(values: object, ndim: int) -> F64:
    """(n_in, n_out) weights or (n_out,) biases in double precision."""
    found = np.asarray(values)
    if found.dtype.kind != "f" or found.ndim != ndim or not np.isfinite(found).all():
        raise ConfigError(
            f"expected finite floating-point numbers in {ndim} dimensions, found {found.dtype} of shape {found.shape}; "
            "convert them"
        )
    return found.astype(np.float64)


def _with_relu(layers: list[FloatLayer]) -> list[FloatLayer]:
    if not layers:
        raise ConfigError("expected a linear layer first, found ReLU; apply it to the data")
    return [*layers[:-1], replace(layers[-1], relu=True)]


def _model(
    layers: list[FloatLayer],
    data: Any,
    sigmoid: bool,
    labels: Sequence[Label] | None,
    task: Task | None,
    bits: int | None,
    engine: Engine | None,
) -> Model:
    """A trained model of these layers, its input measured on ``data``."""
    _check_layers(layers)
    outputs = layers[-1].weights.shape[1]
    if task is None:
        task = "regression" if outputs == 1 and not sigmoid else "classification"
    if task == "classification" and outputs == 1:
        # One logit is the difference of two scores, the first of them 0.
        last = layers[-1]
        weights, bias = np.c_[np.zeros(len(last.weights)), last.weights], np.r_[0.0, last.bias]
        layers, outputs = [*layers[:-1], replace(last, weights=weights, bias=bias)], 2
    given = tuple(range(outputs)) if labels is None else tuple(labels)
    if task == "regression":
        given = ()
    wanted = 1 if task == "regression" else len(given)
    if outputs != wanted or len(set(given)) != len(given):
        raise SchemaError(
            f"expected {outputs} outputs and labels alike, found {wanted}: {list(given)[:10]}; give labels="
        )
    if not isinstance(data, (Dataset, tuple)):
        data = (data, np.zeros(len(data), np.int64))
    front = learn_front(as_labelled(data), engine or connect("local"), bits)
    d = layers[0].weights.shape[0]
    if front.n_features != d:
        raise SchemaError(
            f"expected rows of {d} features, as the net takes, found {front.n_features}; give those columns"
        )
    first = _for_codes(layers[0], front)
    made = tuple(
        Dense(layer.weights.astype(np.float32), layer.bias.astype(np.float32), layer.relu)
        for layer in (first, *layers[1:])
    )
    hidden = tuple(layer.n_out for layer in made[:-1] if layer.relu)
    return Model(task, hidden, outputs, front, made, given, bits=bits)


def _check_layers(layers: Sequence[FloatLayer]) -> None:
    """Refuses layers that do not fit together, or are too many, or too wide.

    Raises:
        ConfigError: they do or are.
    """
    size = sum(layer.weights.size for layer in layers)
    if not 1 <= len(layers) <= MAX_LAYERS or size > MAX_PARAMETERS or layers[-1].relu:
        raise ConfigError(
            f"expected 1 to {MAX_LAYERS} linear layers, {MAX_PARAMETERS} weights, and no ReLU at the end, found "
            f"{len(layers)} of {size}; prune before"
        )
    width = layers[0].weights.shape[0]
    for i, layer in enumerate(layers):
        n_in, n_out = layer.weights.shape
        sound = np.isfinite(layer.weights).all() and np.isfinite(layer.bias).all()
        if n_in != width or layer.bias.shape != (n_out,) or not 1 <= n_out <= MAX_WIDTH or not sound:
            raise ConfigError(
                f"expected layer {i} to take {width} finite numbers, found weights {layer.weights.shape} and biases "
                f"{layer.bias.shape}; check the order of the layers"
            )
        width = n_out


def _for_codes(layer: FloatLayer, front: Front) -> FloatLayer:
    """The layer for what a net reads while training: x = low + step * (centre + spread * z)."""
    low, step = front.low.astype(np.float64), front.step.astype(np.float64)
    gain = np.broadcast_to(step * front.spread, (front.n_features,))
    start = np.broadcast_to(low + step * front.centre, (front.n_features,))
    return replace(layer, weights=gain[:, None] * layer.weights, bias=layer.bias + start @ layer.weights)


__all__ = ["from_onnx", "from_safetensors", "from_sklearn", "from_torch"]
