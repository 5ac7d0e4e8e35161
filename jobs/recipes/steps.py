"""The closed registry of a recipe's steps, and how the model after a step is kept for a later run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eigenmill.compress import (
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
from eigenmill.compress.distill import TEACHER
from eigenmill.compress.training.constraints import Constraint, EntropyPenalty, LearnedStep, Magnitude
from eigenmill.compress.training.train import Epoch
from eigenmill.jobs.recipes import recipe as spec
from eigenmill.jobs.reduction.config import Section
from eigenmill.reduce.engines.base import Progress
from eigenmill.reduce.storage import files, places

VERSION = 2
"""Of what is kept: results of another version are made again."""


def section_values(section: Section) -> dict[str, Any]:
    """What a section says, for a digest; what is None says nothing, so that new keys leave digests as they are."""
    said: dict[str, Any] = section.model_dump(mode="json", exclude_none=True)
    return said


def _train(
    step: spec.TrainingStep, model: Model, samples: Samples, checkpoint: Path, seed: int, progress: Progress | None
) -> Model:
    constraints: list[Constraint] = []
    if step.magnitude is not None:
        constraints.append(Magnitude(**step.magnitude.model_dump()))
    if step.learned_step is not None:
        constraints.append(LearnedStep(**step.learned_step.model_dump()))
    if step.entropy_penalty is not None:
        constraints.append(EntropyPenalty(**step.entropy_penalty.model_dump()))
    names = {"epochs", "batch", "schedule", "patience", "class_weight", "forget", "temperature", "share"}
    given = step.model_dump(include=names)
    with epoch_bar(progress, "train", step.epochs, samples.n_rows) as advance:
        return train(
            model,
            samples,
            optimizer=step.optimizer.model_dump(exclude_none=True),
            constraints=constraints,
            checkpoint=checkpoint,
            seed=seed,
            progress=advance,
            teacher=TEACHER if isinstance(step, spec.Distill) else None,
            augment=None if step.augment is None else step.augment.model_dump(),
            **given,
        )


@contextlib.contextmanager
def epoch_bar(progress: Progress | None, name: str, epochs: int, rows: int) -> Iterator[Callable[[Epoch], None]]:
    """A bar over the rows of all epochs."""
    done = 0

    def advance(epoch: Epoch) -> None:
        nonlocal done
        if told is not None:
            told.advance((epoch.number - done) * rows)
        done = epoch.number

    told = None if progress is None else progress.begin(name, epochs * rows, 0)
    try:
        yield advance
    finally:
        if told is not None:
            told.end()


STEPS: dict[str, Callable[..., Model]] = {
    "train": _train,
    "distill": _train,
    "prune": lambda step, model, *_: prune(model, step.sparsity, scope=step.scope),
    "regrow": lambda step, model, samples, *_: regrow(model, samples, step.share),
    "prune_neurons": lambda step, model, samples, *_: prune_neurons(model, samples, step.keep),
    "factorize": lambda step, model, *_: factorize(model, rank=step.rank, energy=step.energy),
    "fold_projection": lambda step, model, *_: fold_projection(model, always=step.always),
    "share_weights": lambda step, model, *_: share_weights(model, step.bits),
    "quantize": lambda step, model, samples, *_: quantize(model, samples, step.bits, activations=step.activations),
}
"""The closed registry: each is called with the step, the model, rows, a checkpoint, a seed, and progress."""


def checkpoint_of(target: Path, key: str) -> Path:
    """Where the training whose result goes to ``target`` can be stopped; what other trainings left there is removed."""
    mine = target.with_name(f"{target.stem}-{key[:16]}.checkpoint")
    for other in target.parent.glob(f"{target.stem}-*.checkpoint"):
        if other != mine:
            other.unlink()
    return mine


def write_kept(target: Path, key: str, model: Model, known: Mapping[str, Any]) -> None:
    """Writes the model after a step, and beside it whose result it is and what else is known of it."""
    digest = model.save(target)
    fs, path = places.resolve(target.with_suffix(".json"))
    files.write_json(fs, path, {"key": key, "digest": digest, **known})


def read_kept(target: Path, key: str) -> tuple[Model, dict[str, Any]] | None:
    """An earlier run's result of the same step on the same model, and what was known of it."""
    record = target.with_suffix(".json")
    if not (record.exists() and target.exists()):
        return None
    fs, path = places.resolve(record)
    held = files.read_json(fs, path)
    return (Model.restore(target), held) if held.get("key") == key else None


__all__ = ["STEPS", "checkpoint_of", "epoch_bar", "read_kept", "section_values", "write_kept"]
