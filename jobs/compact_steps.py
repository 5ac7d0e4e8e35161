"""The steps of a recipe, one after the other; each is kept, and taken again by a later run of the same steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from compress import (
    Model,
    Samples,
    factorize,
    fold_projection,
    prune,
    prune_neurons,
    quantize,
    regrow,
    share_weights,
    train,
)
from compress.constraints import Constraint, EntropyPenalty, LearnedStep, Magnitude
from compress.evaluate import evaluate
from compress.pack import packed
from compress.train import Epoch
from jobs import recipe as spec
from jobs.recipe import RecipeFile
from reduce import files
from reduce.digest import digest_of
from reduce.engines.base import Progress
from reduce.errors import ConfigError

VERSION = 1
"""Of the stages: results of another version are made again."""


@dataclass(frozen=True)
class Stage:
    """What is known after a step.

    Attributes:
        name: number and kind of the step.
        error: on the rows held out; ``log_loss`` of a classification.
        parameters, nonzero: weights and biases.
        sparsity: by layer, share of the weights that are 0.
        widths: results of every layer.
        packed_bytes: of the file that the model makes, with weights of 8 bits if it is not quantized yet.
        packed_error: of that file, on the rows held out.
        seconds: of the step.
        resumed: whether an earlier run had done it.
    """

    name: str
    error: float
    log_loss: float | None
    parameters: int
    nonzero: int
    sparsity: tuple[float, ...]
    widths: tuple[int, ...]
    packed_bytes: int
    packed_error: float
    seconds: float
    resumed: bool = False


def run_steps(
    source: RecipeFile, start: Model, samples: Samples, place: Path, progress: Progress | None
) -> tuple[tuple[Stage, ...], list[Model]]:
    """What is known after each step, and the models; judged by the rows held out."""
    recipe = source.recipe
    if not samples.n_held:
        raise ConfigError("expected rows held out to judge by, found none; raise validation.share or give more rows")
    model, stages, models = start, list[Stage](), list[Model]()
    key = digest_of([VERSION, samples.digest, recipe.model.model_dump(mode="json")])
    for number, step in enumerate(recipe.steps):
        key = digest_of([key, step.model_dump(mode="json")])
        target = place / "stages" / f"{number:02d}-{step.step}.model"
        kept = _kept(target, key)
        if kept is None:
            with source.blame("steps", number):
                model, took = _timed(step, model, samples, _checkpoint(target, key), recipe.model.seed, progress)
            stage = _figures(f"{number} {step.step}", model, samples, took)
            _keep(target, key, model, stage)
        else:
            model, stage = kept
        stages.append(stage)
        models.append(model)
    return tuple(stages), models


def _checkpoint(target: Path, key: str) -> Path:
    """Where this training of the step can be stopped; what another recipe has left of the step is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mine = target.with_name(f"{target.stem}-{key[:16]}.checkpoint")
    for other in target.parent.glob(f"{target.stem}-*.checkpoint"):
        if other != mine:
            other.unlink()
    return mine


def _timed(
    step: spec.Kind, model: Model, samples: Samples, checkpoint: Path, seed: int, progress: Progress | None
) -> tuple[Model, float]:
    began = time.perf_counter()
    return STEPS[step.step](step, model, samples, checkpoint, seed, progress), time.perf_counter() - began


def _train(
    step: spec.Train, model: Model, samples: Samples, checkpoint: Path, seed: int, progress: Progress | None
) -> Model:
    constraints: list[Constraint] = []
    if step.magnitude is not None:
        constraints.append(Magnitude(**step.magnitude.model_dump()))
    if step.learned_step is not None:
        constraints.append(LearnedStep(**step.learned_step.model_dump()))
    if step.entropy_penalty is not None:
        constraints.append(EntropyPenalty(**step.entropy_penalty.model_dump()))
    given = step.model_dump(include={"epochs", "batch", "schedule", "patience", "class_weight", "forget"})
    with epochs(progress, "train", step.epochs, samples.n_rows) as advance:
        return train(
            model,
            samples,
            optimizer=step.optimizer.model_dump(exclude_none=True),
            constraints=constraints,
            checkpoint=checkpoint,
            seed=seed,
            progress=advance,
            augment=None if step.augment is None else step.augment.model_dump(),
            **given,
        )


@contextlib.contextmanager
def epochs(progress: Progress | None, name: str, epochs: int, rows: int) -> Iterator[Callable[[Epoch], None]]:
    """A bar over the rows of all epochs."""
    done = 0

    def advance(epoch: Epoch) -> None:
        nonlocal done
        if progress is not None:
            progress.advance((epoch.number - done) * rows)
        done = epoch.number

    if progress is not None:
        progress.begin(name, epochs * rows, 0)
    try:
        yield advance
    finally:
        if progress is not None:
            progress.end()


STEPS: dict[str, Callable[..., Model]] = {
    "train": _train,
    "prune": lambda step, model, *_: prune(model, step.sparsity, scope=step.scope),
    "regrow": lambda step, model, samples, *_: regrow(model, samples, step.share),
    "prune_neurons": lambda step, model, samples, *_: prune_neurons(model, samples, step.keep),
    "factorize": lambda step, model, *_: factorize(model, rank=step.rank, energy=step.energy),
    "fold_projection": lambda step, model, *_: fold_projection(model, always=step.always),
    "share_weights": lambda step, model, *_: share_weights(model, step.bits),
    "quantize": lambda step, model, samples, *_: quantize(model, samples, step.bits, activations=step.activations),
}
"""The closed registry of steps."""


def _figures(name: str, model: Model, samples: Samples, seconds: float) -> Stage:
    found = evaluate(model, samples)
    small = model if model.activations is not None else quantize(model, samples, bits=8)
    return Stage(
        name,
        found.error,
        found.log_loss,
        model.parameters,
        model.nonzero,
        tuple(layer.sparsity for layer in model.layers),
        tuple(layer.n_out for layer in model.layers),
        len(packed(small)),
        evaluate(small, samples).error if small is not model else found.error,
        seconds,
    )


def _keep(target: Path, key: str, model: Model, stage: Stage) -> None:
    digest = model.save(target)
    fs, path = files.resolve(target.with_suffix(".json"))
    files.write_json(fs, path, {"key": key, "digest": digest, "stage": asdict(stage)})


def _kept(target: Path, key: str) -> tuple[Model, Stage] | None:
    """An earlier run's result of the same step on the same model."""
    record = target.with_suffix(".json")
    if not (record.exists() and target.exists()):
        return None
    fs, path = files.resolve(record)
    held = files.read_json(fs, path)
    if held.get("key") != key:
        return None
    stage = held["stage"]
    lists = {name: tuple(stage[name]) for name in ("sparsity", "widths")}
    return Model.restore(target), Stage(**{**stage, **lists, "resumed": True})
