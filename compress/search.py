"""Search: a model that keeps to a target of bytes, error and latency, or the one that comes nearest.

A trial trains one candidate: widths, components of a projection, sparsity, bits of the weights, and the price of a bit.
The next candidate is a neighbour of the best one so far, by what that one lacks: a higher price for too many bytes, a
lower one or more width for too many errors, less width for too much time. Rows that are held out judge, no others.

A target that names an error is met or not, and the first model that meets it is taken. One that does not asks for the
fewest errors within its limits: the search goes on until some trials in a row have brought nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from eigenmill.compress.core.data import Labelled, Samples, samples_of
from eigenmill.compress.core.front import RawLike
from eigenmill.compress.core.layers import Predicted
from eigenmill.compress.core.model import Model, whole_net
from eigenmill.compress.core.split import SplitLike
from eigenmill.compress.exports.native import compiled
from eigenmill.compress.exports.onnx import run_onnx, to_onnx
from eigenmill.compress.format import current
from eigenmill.compress.judging.evaluate import evaluate
from eigenmill.compress.judging.latency import machine, time_calls
from eigenmill.compress.packed.pack import packed_model
from eigenmill.compress.steps.quantize import quantize
from eigenmill.compress.training.constraints import Constraint, EntropyPenalty, LearnedStep, Magnitude
from eigenmill.compress.training.train import Epoch, train
from eigenmill.reduce.errors import ConfigError, OutputError
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.digest import digest_of, named, tagged

TRIALS = "trials.json"
BACKENDS = ("numpy", "onnxruntime", "c")


@tagged("Target", "max_bytes max_error max_latency_us backend batch quantile")
@dataclass(frozen=True)
class Target:
    """What a model must keep to; None asks nothing.

    Args:
        max_bytes: of the packed file.
        max_error: share of wrong labels, or root mean square error, on the rows held out.
        max_latency_us: microseconds of a call of ``backend`` on ``batch`` rows, at ``quantile``, one thread, here.
        backend: ``"numpy"``: the integer model in Python; ``"onnxruntime"``: its ONNX; ``"c"``: its C, compiled here
            by ``cc`` at -O2 and called from Python.
        batch: rows of a call.
        quantile: 0.5 is the median.
    """

    max_bytes: int | None = None
    max_error: float | None = None
    max_latency_us: float | None = None
    backend: str = "numpy"
    batch: int = 1
    quantile: float = 0.5

    def __post_init__(self) -> None:
        limits = [x for x in (self.max_bytes, self.max_error, self.max_latency_us) if x is not None]
        if not limits or not all(x > 0 for x in limits):
            raise ConfigError(f"expected at least one limit above 0, found {self}; set max_bytes, for example")
        if self.backend not in BACKENDS or self.batch < 1 or not 0 < self.quantile < 1:
            raise ConfigError(
                f"expected a backend among {', '.join(BACKENDS)}, batch of at least 1 and 0 < quantile < 1, "
                f"found {self}"
            )

    def excess(self, size: int, error: float, latency_us: float | None) -> float:
        """The largest relative excess over a limit; at most 0 when all are kept."""
        pairs = [(size, self.max_bytes), (error, self.max_error), (latency_us, self.max_latency_us)]
        return max(value / limit - 1 for value, limit in pairs if limit is not None and value is not None)


@tagged("Candidate", "hidden bits penalty sparsity components")
@dataclass(frozen=True)
class Candidate:
    """One point of the search; ``components`` None keeps a projection as it is."""

    hidden: tuple[int, ...]
    bits: int = 5
    penalty: float = 1e-6
    sparsity: float = 0.0
    components: int | None = None


@tagged("Trial", "candidate bytes error latency_us excess seconds")
@dataclass(frozen=True)
class Trial:
    """What a candidate came to: bytes of its file, error on the rows held out, microseconds if they were asked for."""

    candidate: Candidate
    bytes: int
    error: float
    latency_us: float | None
    excess: float
    seconds: float


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        model: quantized, ready to pack.
        best: its trial; ``met`` when it keeps to the target.
        trials: all, in order.
    """

    model: Model
    best: Trial
    trials: tuple[Trial, ...]

    @property
    def met(self) -> bool:
        """Whether every limit is kept."""
        return self.best.excess <= 0

    @property
    def front(self) -> tuple[Trial, ...]:
        """Trials of which none is both smaller and more often right, by size."""
        return pareto_front(self.trials)


def pareto_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Those of which none is both smaller and more often right, by size."""
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.bytes, t.error)):
        if not kept or trial.error < kept[-1].error:
            kept.append(trial)
    return tuple(kept)


@dataclass(frozen=True)
class SearchSettings:
    """How a search goes about it; each field is a keyword of :func:`search` as well.

    Attributes:
        label: the label's column.
        epochs: of every trial's training, by Adam.
        trials: most candidates that are tried.
        seconds: no trial begins after so long, those of an earlier call that this one goes on from included.
        batch: rows per step.
        lr: learning rate.
        class_weight: as of :func:`eigenmill.compress.train`.
        forget: as of :func:`eigenmill.compress.train`.
        first: candidates to try before the search's own.
        directory: keeps every trial and the best model, and goes on from them when called again.
        seed: of the rows' order.
        validation: as of :func:`eigenmill.compress.gather`.
        teacher: as of :func:`eigenmill.compress.train`, and so are
        temperature: of the teacher's probabilities, and
        share: of the loss that is the teacher's.
    """

    label: str = "label"
    epochs: int = 20
    trials: int = 12
    seconds: float | None = None
    batch: int = 128
    lr: float = 2e-3
    class_weight: str | None = None
    forget: float = 0.0
    first: Sequence[Candidate] = ()
    directory: str | os.PathLike[str] | None = None
    seed: int = 0
    validation: SplitLike = 0.1
    teacher: str | None = None
    temperature: float = 2.0
    share: float = 0.5

    def training(self) -> dict[str, Any]:
        """Keywords of :func:`eigenmill.compress.train` for every trial."""
        told: dict[str, Any] = {
            "epochs": self.epochs,
            "batch": self.batch,
            "class_weight": self.class_weight,
            "forget": self.forget,
            "seed": self.seed,
        }
        if self.teacher is not None:
            told |= {"teacher": self.teacher, "temperature": self.temperature, "share": self.share}
        return told


class SearchKeywords(TypedDict, total=False):
    """The fields of :class:`SearchSettings` as keywords."""

    label: str
    epochs: int
    trials: int
    seconds: float | None
    batch: int
    lr: float
    class_weight: str | None
    forget: float
    first: Sequence[Candidate]
    directory: str | os.PathLike[str] | None
    seed: int
    validation: SplitLike
    teacher: str | None
    temperature: float
    share: float


def search(
    model: Model,
    data: Labelled,
    target: Target,
    settings: SearchSettings = SearchSettings(),
    *,
    progress: Callable[[Trial], None] | None = None,
    epoch: Callable[[Epoch], None] | None = None,
    **changes: Unpack[SearchKeywords],
) -> Search:
    """Look for a model that keeps to ``target``: the first that does or, without ``max_error``, the best one found.

    Args:
        model: from :meth:`Model.mlp`, untrained: its widths are where the search starts.
        data: as of :func:`eigenmill.compress.train`, with rows held out.
        target: the limits.
        settings: how it goes about it.
        progress: called after every trial.
        epoch: called after every epoch of a trial.
        **changes: fields of ``settings`` that are other than there.

    Raises:
        ConfigError: no rows are held out and ``max_error`` is set, or the model is trained already.
        OutputError: ``directory`` belongs to another search.
    """
    given = replace(settings, **changes)
    if model.layers and model.layers[-1].n_out == model.outputs:
        raise ConfigError("expected an untrained model, found a trained one; give the one from Model.mlp")
    options = {"teacher": given.teacher, "validation": given.validation, "seed": given.seed}
    samples = samples_of(model, data, given.label, **options)
    if not samples.n_held and target.max_error is not None:
        raise ConfigError("expected validation rows to measure max_error on, found none; set validation")
    log = _Log(
        None if given.directory is None else Path(places.absolute(given.directory)), _key(model, samples, target, given)
    )
    best_model = log.best()
    while (candidate := _next_candidate(model, samples, target, log.trials, given)) is not None:
        found, trial = _run_trial(model, samples, target, candidate, given, log.checkpoint(candidate), epoch)
        if best_model is None or _rank(trial) < min(map(_rank, log.trials)):
            best_model = found
            log.keep(found)
        log.add(trial)
        if progress is not None:
            progress(trial)
    if best_model is None:
        raise ConfigError("expected at least one trial, found none; raise trials")
    return Search(best_model, min(log.trials, key=_rank), tuple(log.trials))


def _key(model: Model, samples: Samples, target: Target, given: SearchSettings) -> str:
    """A digest of all that decides what trials come to."""
    # Times of another machine do not count here, so the key names the processor.
    here = [] if target.max_latency_us is None else [machine()]
    return digest_of([samples.digest, _model_values(model), named(target), given.lr, given.training(), *here])


def _rank(trial: Trial) -> tuple[float, float, int]:
    return max(trial.excess, 0.0), trial.error, trial.bytes


def _is_over(trials: Sequence[Trial], *, judged: bool) -> bool:
    """Whether one keeps to the limits and, where rows held out can judge by the error, no better one is in sight."""
    if not trials:
        return False
    best = min(range(len(trials)), key=lambda i: _rank(trials[i]))
    if trials[best].excess > 0:
        return False
    return not judged or trials[best].error == 0 or len(trials) - best > current().patience


# One trial


def _model_values(model: Model) -> list[object]:
    return [model.task, list(model.hidden), model.seed, model.bits, [layer.weights for layer in model.layers]]


def _start(model: Model, candidate: Candidate) -> Model:
    """The untrained model of a candidate: its widths, and as many components of the projection."""
    layers = model.layers
    if layers and candidate.components is not None:
        first, k = layers[0], candidate.components
        cut = replace(first, weights=np.ascontiguousarray(first.weights[:, :k]), bias=first.bias[:k].copy())
        layers = (cut, *layers[1:])
    return replace(model, hidden=candidate.hidden, layers=layers)


def _run_trial(
    model: Model,
    samples: Samples,
    target: Target,
    candidate: Candidate,
    given: SearchSettings,
    checkpoint: str | None,
    epoch: Callable[[Epoch], None] | None,
) -> tuple[Model, Trial]:
    """The model of a candidate, trained and quantized, and what it came to."""
    began = time.perf_counter()
    rate = {"name": "adam", "lr": given.lr}
    options = {"optimizer": rate, "checkpoint": checkpoint, "progress": epoch, **given.training()}
    found = _train(model, samples, candidate, **options)
    file = packed_model(found)
    size, error = len(file.content), evaluate(file, samples).error
    took = None if target.max_latency_us is None else _latency(found, samples, target)
    excess = target.excess(size, error, took)
    return found, Trial(candidate, size, error, took, excess, time.perf_counter() - began)


def _train(model: Model, samples: Samples, candidate: Candidate, **options: Any) -> Model:
    start = _start(model, candidate)
    constraints: list[Constraint] = [LearnedStep(candidate.bits, start=0.6), EntropyPenalty(candidate.penalty)]
    if candidate.sparsity:
        constraints.append(Magnitude(candidate.sparsity))
    # Training takes labels and targets from the samples, and begins with first weights of the candidate.
    trained = train(start, samples, constraints=constraints, **options)
    return quantize(trained, samples, bits=max(candidate.bits, 2))


def _latency(model: Model, samples: Samples, target: Target) -> float:
    """Microseconds of a call on raw rows, made of the codes."""
    X = samples.front.example(samples.sample(max(target.batch, 64))[0])
    return float(np.quantile(time_calls(_predictor(model, target.backend), X, target.batch), target.quantile) * 1e6)


def _predictor(model: Model, backend: str) -> Callable[[RawLike], Predicted]:
    """What predicts by a backend.

    Raises:
        ConfigError: this machine has no such backend.
    """
    if backend == "c":
        return compiled(model).predict
    if backend == "onnxruntime":
        with tempfile.TemporaryDirectory(prefix="eigenmill-") as folder:
            to_onnx(model, f"{folder}/model.onnx")
            return run_onnx(f"{folder}/model.onnx").predict
    return whole_net(model).predict


# Which candidate is next


def _next_candidate(
    model: Model, samples: Samples, target: Target, trials: Sequence[Trial], given: SearchSettings
) -> Candidate | None:
    """The one to try now, best guesses first; None when the search ends."""
    spent = given.seconds is not None and trials and sum(t.seconds for t in trials) >= given.seconds
    judged = samples.n_held > 0 and target.max_error is None
    if len(trials) >= given.trials or spent or _is_over(trials, judged=judged):
        return None
    tried = {trial.candidate for trial in trials}
    begin = Candidate(tuple(model.hidden))
    near = (
        candidate
        for trial in sorted(trials, key=_rank)[:3]
        for candidate in _neighbours(trial, target, model, structure=len(trials) % 3 == 2)
    )
    return next((candidate for candidate in (*given.first, begin, *near) if candidate not in tried), None)


def _neighbours(trial: Trial, target: Target, model: Model, *, structure: bool) -> Iterator[Candidate]:
    """Candidates beside one, those first that change what it lacks; ``structure`` puts shapes before prices."""
    c = trial.candidate
    size = 1.0 if target.max_bytes is None else trial.bytes / target.max_bytes
    wrong = 1.0 if target.max_error is None else trial.error / target.max_error
    slow = (
        1.0 if target.max_latency_us is None or trial.latency_us is None else trial.latency_us / target.max_latency_us
    )
    # A fixed first layer, such as pooling, is part of what was asked for.
    projection = model.layers[0].n_out if model.layers and not model.layers[0].frozen else 0
    narrower = [_with_widths(c, 0.6)]
    if projection:
        narrower.insert(0, replace(c, components=max((c.components or projection) * 2 // 3, 1)))
    if slow > 1:
        yield _with_widths(c, min(0.7, 0.9 / slow))
        yield from narrower
    if size > 1:
        # Bytes fall more slowly than the price rises.
        dearer = _with_price(c, min(max(size**3, 2.0), 30.0))
        yield from [*narrower, dearer] if structure else [dearer, *narrower]
        yield replace(c, sparsity=max(0.8, (1 + c.sparsity) / 2)) if c.sparsity < 0.95 else c
        yield replace(c, bits=max(c.bits - 1, 2))
    if wrong > 1:
        cheaper = _with_price(c, 1 / min(max(wrong**2, 1.5), 30.0))
        yield from [_with_widths(c, 1.5), cheaper] if structure else [cheaper, _with_widths(c, 1.5)]
        yield replace(c, bits=min(c.bits + 2, 8))
        yield replace(c, sparsity=0.0)
    if target.max_error is None and size <= 1 and slow <= 1:
        # A larger net may make fewer errors within the limits; one that has overfitted few rows needs fewer weights.
        wider = _with_widths(c, min(max(size**-0.5, 1.5), 3.0))
        yield from [replace(c, hidden=()), wider] if structure else [wider, replace(c, bits=min(c.bits + 2, 8))]
        yield from (_with_price(c, 0.25), _with_price(c, 4.0))
    for factor in (1.5, 0.7, 3.0, 0.3):
        yield _with_price(c, factor)
    for factor in (1.5, 0.6):
        yield _with_widths(c, factor)


def _with_price(c: Candidate, factor: float) -> Candidate:
    least, most = current().least_penalty, current().most_penalty
    return replace(c, penalty=float(f"{min(max(c.penalty * factor, least), most):.3g}"))


def _with_widths(c: Candidate, factor: float) -> Candidate:
    return replace(c, hidden=tuple(min(max(round(n * factor), 2), 4096) for n in c.hidden))


# What is kept on disk


class _Log:
    """The trials so far, and the best model, in a directory if there is one."""

    def __init__(self, directory: Path | None, key: str) -> None:
        self.directory, self.key = directory, key
        self.trials: list[Trial] = []
        if directory is None:
            return
        fs, path = places.resolve(directory / TRIALS)
        if not files.exists(fs, path):
            return
        held = files.read_json(fs, path)
        if held.get("key") != key:
            raise OutputError(
                f"expected the trials of this search in {directory}, found those of another; remove them, or name "
                "another directory"
            )
        self.trials = [_trial_from_json(value) for value in held["trials"]]
        if not (directory / "best.model").exists():
            self.trials = []

    def checkpoint(self, candidate: Candidate) -> str | None:
        if self.directory is None:
            return None
        return str(self.directory / f"{digest_of(named(candidate))[:12]}.checkpoint")

    def best(self) -> Model | None:
        return Model.restore(self.directory / "best.model") if self.directory is not None and self.trials else None

    def keep(self, model: Model) -> None:
        if self.directory is not None:
            model.save(self.directory / "best.model")

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        if self.directory is not None:
            fs, path = places.resolve(self.directory / TRIALS)
            files.write_json(fs, path, {"key": self.key, "trials": [named(t) for t in self.trials]})


def _trial_from_json(value: Any) -> Trial:
    given = dict(value["candidate"])
    given["hidden"] = tuple(given["hidden"])
    return Trial(**{**value, "candidate": Candidate(**given)})


__all__ = ["Candidate", "Search", "SearchKeywords", "SearchSettings", "Target", "Trial", "pareto_front", "search"]
