"""Model: the whole way from a raw row to a prediction, and what is known of its weights.

    raw row -> codes (front) -> dense layers with ReLU -> scores -> label or value

A fitted PCA is a first dense layer without ReLU, so that pruning, quantization and packing treat it as any other.
Every step is ``step(model, ...) -> model``: models are frozen, and arrays in them are never changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.categories import Category
from eigenmill.compress.core.front import Front, RawLike, Scaled, front_of
from eigenmill.compress.core.integer import WholeNet, check, whole_layers
from eigenmill.compress.core.layers import (
    F32,
    MAX_LAYERS,
    MAX_WIDTH,
    Activations,
    Dense,
    Label,
    Predicted,
    Task,
    softmax,
)
from eigenmill.compress.format import current
from eigenmill.reduce.engines.base import one_blas_thread
from eigenmill.reduce.errors import ArtifactError, ConfigError, SchemaError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.rows.transforms import Project
from eigenmill.reduce.storage.artifact import load_arrays, save_arrays

if TYPE_CHECKING:
    from eigenmill.reduce.estimators.base import Estimator


@dataclass(frozen=True)
class Model:
    """A classifier or regressor.

    Attributes:
        task: what it does.
        hidden: widths of the hidden layers, as asked for.
        outputs: classes, or 1 for a regression; 0 while it is not known.
        front: the input; None before the first training.
        layers: the last one gives the scores; empty before the first training.
        labels: the classes in the order of the scores.
        offset, scale: a regression's value is ``score * scale + offset``.
        activations: set by :func:`eigenmill.compress.quantize`: the model then predicts in whole numbers, as its file
        will.
        bits: of the input; None for the default.
        seed: of the first weights.
    """

    task: Task
    hidden: tuple[int, ...]
    outputs: int
    front: Front | None = None
    layers: tuple[Dense, ...] = ()
    labels: tuple[Label, ...] = ()
    offset: float = 0.0
    scale: float = 1.0
    activations: Activations | None = None
    bits: int | None = None
    seed: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def mlp(
        cls,
        source: Any = None,
        hidden: Sequence[int] = (128,),
        classes: int | None = None,
        *,
        task: Task = "classification",
        input_bits: int | None = None,
        categories: Sequence[str] = (),
        max_categories: int = 1000,
        min_frequency: int = 2,
        seed: int = 0,
    ) -> Model:
        """A multilayer perceptron, yet to be trained.

        Args:
            source: a fitted ``eigenmill.PCA`` or ``TruncatedSVD``, which becomes the first layer; or a first layer,
                such as :func:`eigenmill.compress.pooling` and :func:`eigenmill.compress.dct` give; or names of scalar
                columns; or None for all features of the training data.
            hidden: widths of the hidden layers; none for a linear model.
            classes: how many labels there are; found in the data by default.
            task: ``"regression"`` predicts a number.
            input_bits: precision of the input's codes, 1 to 16; by default 8 for pixels, else 12.
            categories: columns of text, whole numbers or booleans that are names, or parts of dates such as
                ``month(date)``; see :mod:`eigenmill.compress.core.categories`. The training data carries them.
            max_categories: the most frequent values of each that the model tells apart.
            min_frequency: rows that a value must occur in to be one of them.
            seed: of the first weights.

        Raises:
            ConfigError: a width, a number of classes or a category is out of range.
        """
        widths = tuple(hidden)
        if not all(1 <= n <= MAX_WIDTH for n in widths) or len(widths) > MAX_LAYERS - 2:
            raise ConfigError(
                f"expected at most {MAX_LAYERS - 2} hidden widths between 1 and {MAX_WIDTH}, found {list(hidden)!r}"
            )
        if classes is not None and not 2 <= classes <= MAX_WIDTH:
            raise ConfigError(f"expected at least 2 classes, found {classes!r}; for a number use task='regression'")
        outputs = 1 if task == "regression" else classes or 0
        named = [str(name) for name in ([categories] if isinstance(categories, str) else categories)]
        if len(set(named)) < len(named) or (named and isinstance(source, Dense)):
            raise ConfigError(f"expected every category once and no fixed first layer beside them, found {named}")
        asked: dict[str, Any] = {"categories": named, "max_categories": max_categories, "min_frequency": min_frequency}
        model = cls(task, widths, outputs, bits=input_bits, seed=seed, columns=asked if named else {})
        if source is None:
            return model
        if isinstance(source, Dense):
            return replace(model, layers=(source,))
        if isinstance(source, Iterable):
            return replace(model, columns={"columns": [str(name) for name in source], **model.columns})
        return _with_projection(model, source)

    @classmethod
    def linear(cls, source: Any = None, classes: int | None = None, **options: Any) -> Model:
        """Logistic regression, or linear regression with ``task="regression"``; arguments as of :meth:`mlp`."""
        return cls.mlp(source, (), classes, **options)

    # What it does to rows.

    def scores(self, X: RawLike) -> F64:
        """Raw results (n, outputs): logits, or the value to predict.

        Raises:
            SchemaError, MissingValueError: X is not what the model takes.
        """
        front = self.trained().front
        assert front is not None
        if self.activations is not None:
            return self._whole.decision(X)
        with one_blas_thread():
            last = self.forward(front.scaled_inputs(front.codes(X)))[-1]
            return np.asarray(last.astype(np.float64) * self.scale + self.offset)

    @cached_property
    def _whole(self) -> WholeNet:
        return whole_net(self)

    def forward(self, z: Scaled) -> list[F32]:
        """The result (n, n_out) of every layer for scaled inputs z (n, width), in single precision."""
        results = []
        for layer in self.layers:
            z = z @ layer.weights + layer.bias
            z = np.maximum(z, 0) if layer.relu else z
            results.append(z)
        return results

    def predict_proba(self, X: RawLike) -> F64:
        """Probabilities (n, classes) of raw rows X (n, d)."""
        if self.task == "regression":
            raise ConfigError("expected a classifier, found a regression; call predict")
        return softmax(self.scores(X))

    def predict(self, X: RawLike) -> Predicted:
        """Labels (n,), or values of a regression, of raw rows X (n, d)."""
        scores = self.scores(X)
        return scores[:, 0] if self.task == "regression" else np.asarray(self.labels)[scores.argmax(axis=1)]

    def trained(self) -> Model:
        """The model, refused unless it has been trained."""
        if self.front is None or not self.layers or self.outputs < 1:
            raise ConfigError("expected a trained model, found one without weights; call train(model, data) first")
        return self

    @property
    def parameters(self) -> int:
        """Weights and biases, pruned ones included."""
        return sum(layer.weights.size + layer.bias.size for layer in self.layers)

    @property
    def nonzero(self) -> int:
        """Weights and biases other than 0."""
        return int(sum(np.count_nonzero(la.weights) + np.count_nonzero(la.bias) for la in self.layers))

    @property
    def float_bytes(self) -> int:
        """Bytes of all parameters in single precision: what sizes are compared with."""
        return 4 * self.parameters

    # On disk, between steps.

    def save(self, path: str | os.PathLike[str]) -> str:
        """Writes the model whole, to go on training later, as one safetensors file; returns its digest."""
        arrays, meta = to_arrays(self)
        return save_arrays(path, arrays, meta)

    @classmethod
    def restore(cls, path: str | os.PathLike[str]) -> Model:
        """What :meth:`save` has written.

        Raises:
            ArtifactError: there is no such file, or it is damaged.
        """
        arrays, meta = load_arrays(path)
        try:
            return from_arrays(arrays, meta)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"expected a whole model at {path}, found {error!r}; save it again") from error


def whole_net(model: Model) -> WholeNet:
    """The integer net of a quantized model; the same model gives the same numbers.

    Raises:
        ConfigError: the model is not quantized, or a sum could overflow.
    """
    front = model.trained().front
    assert front is not None
    if model.activations is None:
        raise ConfigError("expected a quantized model, found one in single precision; call quantize(model, data) first")
    layers, unit = whole_layers(
        front, model.layers, model.activations, 0.0 if model.task == "regression" else current().score_step
    )
    net = WholeNet(model.task, model.labels, front, layers, unit * model.scale, model.offset)
    check(net)
    return net


# From nothing to first weights


def with_first_weights(model: Model, front: Front, labels: tuple[Label, ...], target: tuple[float, float]) -> Model:
    """The model with labels and first weights for a front; what it has of them already is kept.

    ``target`` is the mean and standard deviation of a regression's values.

    Raises:
        SchemaError: the model has learnt other labels.
    """
    if model.layers and model.layers[-1].n_out == model.outputs and model.labels == labels:
        return replace(model, front=front)
    if model.labels:
        raise SchemaError(
            f"expected the labels {list(model.labels)[:10]}, found {list(labels)[:10]}; train a new model for others"
        )
    if model.task == "regression":
        model = replace(model, offset=target[0], scale=target[1])
    outputs = 1 if model.task == "regression" else len(labels)
    rng = np.random.default_rng([model.seed, 1])
    layers = list(model.layers)
    if layers and layers[0].n_in < front.width:
        # The first layer projects the numbers. Its new rows, for categories, change its results by little at first.
        first = layers[0]
        more = rng.normal(size=(front.width - first.n_in, first.n_out)) * 0.1
        layers[0] = replace(first, weights=np.concatenate([first.weights, more.astype(np.float32)]))
    width = layers[-1].n_out if layers else front.width
    for n_out in (*model.hidden, outputs):
        hidden = len(layers) < len(model.layers) + len(model.hidden)
        # The width counts all inputs of a category, though only one of them is hot at a time, so weights of values
        # start small: training moves those of values that occur, and those of unseen values change a score by little.
        weights = rng.normal(size=(width, n_out)) * np.sqrt((2.0 if hidden else 1.0) / width)
        if not layers:
            _zero_unseen(weights, front)
        layers.append(Dense(weights.astype(np.float32), np.zeros(n_out, np.float32), relu=hidden))
        width = n_out
    return replace(model, front=front, layers=tuple(layers), labels=labels, outputs=outputs)


def _zero_unseen(weights: F64, front: Front) -> None:
    """Values that a vocabulary leaves out say nothing until rows have taught what they say."""
    weights[front.starts] = 0


def _with_projection(model: Model, pca: Estimator) -> Model:
    """The model with a fitted PCA's front, and its projection as the first layer."""
    fitted, projection = pca.snapshot(), pca.as_transform()
    if not isinstance(projection, Project):
        raise ConfigError(f"expected a fitted PCA or TruncatedSVD as the first layer, found a model of {fitted.kind}")
    front = front_of(fitted.quality, fitted.cleaning, fitted.layout, fitted.names, model.bits)
    matrix, shift = projection.weights, projection.mean
    # x = low + step * (centre + spread * z), so that (x - shift) @ matrix is linear in z.
    low, step = front.low.astype(np.float64), front.step.astype(np.float64)
    gain = np.broadcast_to(step * front.spread, shift.shape)
    start = np.broadcast_to(low + step * front.centre, shift.shape)
    weights, bias = gain[:, None] * matrix, (start - shift) @ matrix
    # Features of about unit size train well, whatever the units of the columns.
    size = float(np.sqrt(np.mean(fitted["explained_variance_"]))) or 1.0
    layer = Dense((weights / size).astype(np.float32), (bias / size).astype(np.float32), relu=False)
    return replace(model, front=front, layers=(layer,))


# To arrays and back

Arrays = dict[str, npt.NDArray[Any]]


def to_arrays(model: Model) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by name, and everything else as plain values; the names are those of files."""
    arrays: Arrays = {}
    front = model.front
    if front is not None:
        arrays |= {"front.low": front.low, "front.step": front.step, "front.fill": front.fill}
    for i, layer in enumerate(model.layers):
        arrays |= {f"{i}.{name}": array for name, array in layer.arrays().items()}
    meta: dict[str, Any] = {
        "task": model.task,
        "hidden": list(model.hidden),
        "outputs": model.outputs,
        "labels": list(model.labels),
        "offset": model.offset,
        "scale": model.scale,
        "bits": model.bits,
        "seed": model.seed,
        "columns": dict(model.columns),
        "front": None,
    }
    if front is not None:
        named = [[c.name, c.kind, list(c.values), c.nulls] for c in front.categories]
        plain_front = [dict(front.layout), front.n_features, front.bits, front.centre, front.spread]
        meta["front"] = [*plain_front, *([named, front.hot] if named else [])]
    meta["layers"] = [[layer.relu, layer.step, layer.most, layer.frozen] for layer in model.layers]
    meta["activations"] = None if model.activations is None else [list(model.activations.steps), model.activations.bits]
    return arrays, meta


def from_arrays(arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> Model:
    """The inverse of :func:`to_arrays`."""
    front = None
    if meta["front"] is not None:
        layout, n_features, bits, centre, spread, *more = meta["front"]
        named, hot = more or ([], 1)
        categories = tuple(Category(name, kind, tuple(values), nulls) for name, kind, values, nulls in named)
        measured = arrays["front.low"], arrays["front.step"], arrays["front.fill"]
        ends = float(centre), float(spread)
        front = Front(layout, int(n_features), int(bits), *measured, *ends, categories, int(hot))
    layers = []
    for i, (relu, step, most, *frozen) in enumerate(meta["layers"]):
        weights, bias = arrays[f"{i}.weights"], arrays[f"{i}.bias"]
        mask, codes, codebook = (arrays.get(f"{i}.{name}") for name in ("mask", "codes", "codebook"))
        layers.append(Dense(weights, bias, bool(relu), mask, codes, codebook, step, int(most), frozen == [True]))
    activations = meta["activations"]
    return Model(
        meta["task"],
        tuple(meta["hidden"]),
        int(meta["outputs"]),
        front,
        tuple(layers),
        tuple(meta["labels"]),
        float(meta["offset"]),
        float(meta["scale"]),
        None if activations is None else Activations(tuple(activations[0]), int(activations[1])),
        meta["bits"],
        int(meta["seed"]),
        meta["columns"],
    )


__all__ = ["Model", "whole_net"]
