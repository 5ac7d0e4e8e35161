"""Evaluate: what a model is worth, in real bytes, real accuracy and real time, in one scan of the data.

Counts only are kept while the rows pass: memory does not grow with them. The area under the ROC curve comes from
counts in bins of the score and says how far it may be off.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.categories import join_rows, take_rows
from eigenmill.compress.core.data import (
    Labelled,
    Samples,
    Targets,
    as_labelled,
    clean_blocks,
    target_column,
    target_indices,
    target_values,
)
from eigenmill.compress.core.front import Codes, Front, RawLike, RawRows
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.layers import F32, I64, Label
from eigenmill.compress.core.model import Model, whole_net
from eigenmill.compress.judging.latency import Latency, latency
from eigenmill.compress.packed.pack import PackedModel, packed_model, read_packed
from eigenmill.reduce import Dataset
from eigenmill.reduce.errors import ConfigError, DataError, SchemaError
from eigenmill.reduce.rows.blocks import F64
from eigenmill.reduce.storage.digest import digest_of

Z95 = 1.959963984540054
CALIBRATION_BINS = 15
SCORE_BINS = 1 << 16

AnyModel = Model | WholeNet


class Predictor(Protocol):
    """What a model is compared with."""

    def predict(self, X: RawRows, /) -> npt.ArrayLike:
        """(n,) labels or values."""
        ...


ModelLike = AnyModel | PackedModel | str | os.PathLike[str]
"""A model, its file in memory, or the path of its file."""


@dataclass(frozen=True)
class Share:
    """``right`` of ``rows``, and the 95 % interval of the share (Wilson 1927)."""

    rows: int
    right: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; NaN of no rows."""
        return self.right / self.rows if self.rows else math.nan


def share(right: int, rows: int) -> Share:
    """The share of ``right`` in ``rows`` with its 95 % interval."""
    if not rows:
        return Share(0, 0, 0.0, 1.0)
    p, spread = right / rows, Z95**2 / rows
    middle = (p + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(p * (1 - p) / rows + spread / (4 * rows)) / (1 + spread)
    return Share(rows, right, max(middle - half, 0.0), min(middle + half, 1.0))


@dataclass(frozen=True)
class McNemar:
    """Two models on the same rows: how often only one of them was right, and the exact two-sided p-value.

    McNemar 1947; the p-value is that of a fair coin over the rows on which they differ.
    """

    only_before: int
    only_after: int
    p_value: float


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` has found.

    Attributes:
        task: of the model.
        rows: scored.
        data: digest of them.
        bytes: of the packed file; None when the model cannot be packed yet.
        file: SHA-256 of the packed file.
        float_bytes: of all parameters in single precision, of ``against`` if that was given.
        parameters, nonzero: weights and biases of the model.
        multiply_adds: of one row, dense; ``nonzero_multiply_adds`` of the weights other than 0.
        accuracy, classes: share of rows predicted right, of all and by class.
        log_loss: mean, natural logarithm.
        calibration_error: expected, over 15 bins of the larger probability (Guo et al. 2017).
        auc: of two classes; the true value is within ``auc_within``.
        rmse, r2: of a regression.
        mcnemar: against ``against``.
        agreement: share of the rows with the teacher's label (a regression: root mean square difference).
        latency: per backend and batch.
    """

    task: str
    rows: int
    data: str
    bytes: int | None
    file: str | None
    float_bytes: int
    parameters: int
    nonzero: int
    multiply_adds: int
    nonzero_multiply_adds: int
    accuracy: Share | None = None
    classes: tuple[tuple[Label, Share], ...] = ()
    log_loss: float | None = None
    calibration_error: float | None = None
    auc: float | None = None
    auc_within: float | None = None
    rmse: float | None = None
    r2: float | None = None
    mcnemar: McNemar | None = None
    agreement: float | None = None
    latency: tuple[Latency, ...] = ()

    @property
    def ratio(self) -> float | None:
        """How many times smaller the file is than the parameters in single precision."""
        return self.float_bytes / self.bytes if self.bytes else None

    @property
    def error(self) -> float:
        """What a model is chosen by: share of wrong rows, or root mean square error."""
        if self.accuracy is not None:
            return 1 - self.accuracy.value
        assert self.rmse is not None
        return self.rmse

    def as_json(self) -> dict[str, Any]:
        """Plain values, derived ones included."""
        plain = asdict(self)
        plain |= {"ratio": self.ratio, "error": self.error, "kb": None if self.bytes is None else self.bytes / 1000}
        if self.accuracy is not None:
            plain["accuracy"]["value"] = self.accuracy.value
        plain["classes"] = [{"label": label, **asdict(s), "value": s.value} for label, s in self.classes]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`as_json`."""
        given: dict[str, Any] = {name: plain[name] for name in cls.__dataclass_fields__}
        counts = ("rows", "right", "low", "high")

        def read(held: Mapping[str, Any]) -> Share:
            return Share(**{name: held[name] for name in counts})

        given["classes"] = tuple((held["label"], read(held)) for held in plain["classes"])
        given["accuracy"] = None if plain["accuracy"] is None else read(plain["accuracy"])
        given["mcnemar"] = None if plain["mcnemar"] is None else McNemar(**plain["mcnemar"])
        given["latency"] = tuple(Latency(**held) for held in plain["latency"])
        return cls(**given)


def evaluate(
    model: ModelLike,
    data: Labelled,
    *,
    label: str = "label",
    against: ModelLike | None = None,
    teacher: Predictor | None = None,
    batches: Sequence[int] = (),
    backends: Mapping[str, Callable[[RawRows], object]] | None = None,
) -> Evaluation:
    """Score a model on labelled rows.

    Args:
        model: a packed file, a model, or what :func:`eigenmill.compress.load` gives. A quantized model is packed to see
        its size.
        data: a Dataset that carries ``label``, or a pair (X, y); rows that the data's policy drops are left out. Of
            :class:`~eigenmill.compress.Samples` the validation rows are scored, or those trained on if none
            are held out; ``teacher`` and ``batches`` want raw rows.
        label: the column of classes or values.
        against: the model before: its parameters are what bytes are compared with, its predictions those of
            McNemar's test.
        teacher: anything with ``predict(X)``.
        batches: rows per call to time, such as ``(1, 1024)``; none times nothing.
        backends: other ways to predict that are timed as well, by name.

    Raises:
        ArtifactError: the file is damaged.
        DataError: there are no rows, a label is missing, or the model does not know it.
        SchemaError: the columns are not those of the model.
    """
    file = _packed_file(model)
    found = _predicting(model if file is None else file)
    before = None if against is None else _predicting(against)
    if before is not None and (before.task, before.labels) != (found.task, found.labels):
        raise ConfigError("expected two models of the same task and labels, found different ones; compare like ones")
    front = found.front
    if front is None:
        raise ConfigError("expected a trained model, found one without weights; call train(model, data) first")
    if isinstance(data, Samples):
        if teacher is not None or batches:
            raise ConfigError("expected raw rows for a teacher and for latency, found samples; give the data set")
        score, first = _score_of_codes(found, before, data), list[RawRows]()
    else:
        data = as_labelled(data, label)
        score, first = _score(found, before, teacher, rows_of(found, front, data, label), max(batches, default=0))
    if not score.rows:
        raise DataError("expected rows to score, found none; give more rows")
    shapes, parameters, nonzero = _sizes(found)
    calls: dict[str, Callable[[RawRows], object]] = {"numpy": found.predict, **(backends or {})}
    X = join_rows(first) if batches else None
    return Evaluation(
        task=found.task,
        rows=score.rows,
        data=data.digest,
        bytes=None if file is None else len(file.content),
        file=None if file is None else file.sha256,
        float_bytes=4 * (_sizes(before)[1] if before is not None else parameters),
        parameters=parameters,
        nonzero=nonzero,
        multiply_adds=sum(weights.size for weights in shapes),
        nonzero_multiply_adds=sum(int(np.count_nonzero(weights)) for weights in shapes),
        latency=tuple(latency(name, call, X, batch) for name, call in calls.items() for batch in batches),
        **score.result(found.labels, before is not None, teacher is not None),
    )


def rows_of(model: AnyModel, front: Front, data: Dataset, label: str) -> Iterator[tuple[RawRows, Targets]]:
    """Raw rows, an array X (h, d) or a table, and their targets (h,), places among the labels or values, by blocks.

    Raises:
        SchemaError: the data lacks the label, or has other columns.
    """
    if label not in data.source.carried.names:
        raise SchemaError(f"expected the carried column {label!r}, found {data.source.carried.names}; add it to carry=")
    if data.n_features != front.n_features or data.transforms or data.sparse:
        raise SchemaError(
            f"expected {front.n_features} raw, dense features, found {data.n_features}; give the columns of the model"
        )
    for block, _ in clean_blocks(data, label):
        X = front.rows(block)
        column = target_column(block, label)
        if model.task == "classification":
            yield X, target_indices(column, model.labels, label)
        else:
            yield X, target_values(column, label)


def _score(
    model: AnyModel,
    before: AnyModel | None,
    teacher: Predictor | None,
    rows: Iterator[tuple[RawRows, Targets]],
    wanted: int,
) -> tuple[_Classes | _Values, list[RawRows]]:
    """The counts of raw rows, and the first rows, as many as ``wanted``."""
    score, first, held = _empty_counts(model), list[RawRows](), 0
    for X, targets in rows:
        was = None if before is None else logits(before, X)
        score.add(logits(model, X), was, _teacher_answers(model, teacher, X), targets)
        if held < wanted:
            first.append(take_rows(X, np.arange(min(wanted - held, len(X)))))
            held += len(first[-1])
    return score, first


def _score_of_codes(model: AnyModel, before: AnyModel | None, samples: Samples) -> _Classes | _Values:
    """The counts of validation rows."""
    score = _empty_counts(model)
    for codes, targets in _held_out_codes(model, samples):
        was = None if before is None else _logits_of_codes(before, codes)
        score.add(_logits_of_codes(model, codes), was, None, targets)
    return score


def _empty_counts(model: AnyModel) -> _Classes | _Values:
    return _Classes(len(model.labels)) if model.task == "classification" else _Values()


def _held_out_codes(model: AnyModel, samples: Samples) -> Iterator[tuple[RawRows, Targets]]:
    """Codes (h, d) of validation rows and their targets (h,)."""
    known = (model.front, samples.front)
    fronts = [(f.n_features, f.bits, f.low, f.step, f.fill, f.categories, f.hot) for f in known if f is not None]
    if digest_of(fronts[0]) != digest_of(fronts[-1]) or model.labels != samples.model.labels:
        raise ConfigError("expected samples gathered for this model, found those of another; gather them anew")
    for codes, targets in samples.blocks("held" if samples.n_held else "train"):
        yield codes, targets if model.labels else np.asarray(targets * samples.model.scale + samples.model.offset)


def _teacher_answers(model: AnyModel, teacher: Predictor | None, X: RawRows) -> Targets | None:
    """What a teacher predicts of raw rows: places among the model's labels (-1: none of them), or values."""
    if teacher is None:
        return None
    found = np.asarray(teacher.predict(X))
    if model.task == "regression":
        return found.astype(np.float64).ravel()
    place = {label: k for k, label in enumerate(model.labels)}
    return np.array([place.get(value, -1) for value in found.tolist()])


def _packed_file(model: ModelLike) -> PackedModel | None:
    """The file of a model, packed if it is not yet; None while the model cannot be packed."""
    if isinstance(model, Model) and model.trained().activations is None:
        return None
    if isinstance(model, Model | WholeNet):
        return packed_model(model)
    return model if isinstance(model, PackedModel) else read_packed(model)


def _predicting(model: ModelLike) -> AnyModel:
    """What predicts: the model itself, or what its file gives when it is read."""
    if isinstance(model, Model | WholeNet):
        return model
    return model.net if isinstance(model, PackedModel) else read_packed(model).net


def _sizes(model: AnyModel) -> tuple[list[F32 | I64], int, int]:
    """The weights by layer; how many parameters there are, and how many are not 0."""
    weights = [layer.weights for layer in model.layers]
    arrays = [*weights, *(layer.bias for layer in model.layers)]
    return weights, sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


def logits(model: AnyModel, X: RawLike) -> F64:
    """Scores (n, outputs) in double precision: logits, or values of a regression."""
    return model.scores(X) if isinstance(model, Model) else model.decision(X)


def _logits_of_codes(model: AnyModel, codes: Codes) -> F64:
    if isinstance(model, WholeNet):
        return np.asarray(model.scores_of(codes) * model.scale + model.offset)
    assert model.front is not None
    if model.activations is not None:
        return _logits_of_codes(whole_net(model), codes)
    last = model.forward(model.front.scaled_inputs(codes))[-1]
    return np.asarray(last.astype(np.float64) * model.scale + model.offset)


@dataclass
class _Classes:
    """Counts over the rows of a classification."""

    count: int
    rows: int = 0
    loss: float = 0.0
    agreed: int = 0
    only: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self.by_class = np.zeros((2, self.count), np.int64)
        self.bins = np.zeros((3, CALIBRATION_BINS))
        self.curve = np.zeros((2, SCORE_BINS), np.int64)

    def add(self, scores: F64, before: F64 | None, taught: Targets | None, targets: Targets) -> None:
        chosen = scores.argmax(axis=1)
        right = chosen == targets
        self.rows += len(targets)
        self.by_class += [np.bincount(targets, None, self.count), np.bincount(targets[right], None, self.count)]
        shifted = scores - scores.max(axis=1, keepdims=True)
        whole = np.log(np.exp(shifted).sum(axis=1))
        self.loss += float((whole - shifted[np.arange(len(targets)), targets]).sum())
        sure = np.exp(-whole)
        place = np.minimum((sure * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        for row, weight in enumerate((None, sure, right)):
            self.bins[row] += np.bincount(place, weight, CALIBRATION_BINS)
        if self.count == 2:
            # The arctangent keeps the order of scores, on which alone the area depends, and its bins are finer near 0.
            margin = scores[:, 1] - scores[:, 0]
            at = np.minimum((0.5 + np.arctan(margin) / np.pi) * SCORE_BINS, SCORE_BINS - 1).astype(int)
            for label in (0, 1):
                self.curve[label] += np.bincount(at[targets == label], None, SCORE_BINS)
        if before is not None:
            was = before.argmax(axis=1) == targets
            self.only[0] += int((was & ~right).sum())
            self.only[1] += int((right & ~was).sum())
        if taught is not None:
            self.agreed += int((taught == chosen).sum())

    def result(self, labels: Sequence[Label], compared: bool, taught: bool) -> dict[str, Any]:
        rows, right = self.by_class
        counts, sure, hits = self.bins
        found: dict[str, Any] = {
            "accuracy": share(int(right.sum()), self.rows),
            "classes": tuple((labels[k], share(int(right[k]), int(rows[k]))) for k in range(self.count)),
            "log_loss": self.loss / self.rows,
            "calibration_error": float(np.abs(sure - hits)[counts > 0].sum() / self.rows),
        }
        if self.count == 2 and rows.all():
            low, high = self.curve.astype(np.float64)
            pairs = float(rows[0]) * float(rows[1])
            below = np.concatenate([[0.0], np.cumsum(low)[:-1]])
            tied = float(low @ high)
            found |= {"auc": (float(below @ high) + tied / 2) / pairs, "auc_within": tied / 2 / pairs}
        if compared:
            first, second = self.only
            from scipy.stats import binomtest  # slow to load

            p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
            found["mcnemar"] = McNemar(first, second, p)
        return found | ({"agreement": self.agreed / self.rows} if taught else {})


@dataclass
class _Values:
    """Sums over the rows of a regression."""

    rows: int = 0
    squares: float = 0.0
    apart: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, scores: F64, before: F64 | None, taught: Targets | None, targets: Targets) -> None:
        if not len(targets):
            return
        found = scores[:, 0]
        self.squares += float(np.square(found - targets).sum())
        delta, both = float(targets.mean()) - self.mean, self.rows + len(targets)
        self.m2 += float(np.square(targets - targets.mean()).sum()) + delta**2 * self.rows * len(targets) / both
        self.mean, self.rows = self.mean + delta * len(targets) / both, both
        if taught is not None:
            self.apart += float(np.square(found - taught).sum())

    def result(self, labels: Sequence[Label], compared: bool, taught: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"rmse": math.sqrt(self.squares / self.rows)}
        if self.m2 > 0:
            found["r2"] = 1 - self.squares / self.m2
        return found | ({"agreement": math.sqrt(self.apart / self.rows)} if taught else {})


__all__ = ["Evaluation", "Latency", "McNemar", "Share", "evaluate", "share"]
