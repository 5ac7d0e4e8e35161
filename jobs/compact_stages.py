"""The steps of a recipe, one after the other; each is kept, and taken again by a later run of the same steps."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from eigenmill.compress import Model, Samples, quantize
from eigenmill.compress.evaluate import evaluate
from eigenmill.compress.pack import packed
from eigenmill.jobs import recipe as spec
from eigenmill.jobs.compact_steps import STEPS, VERSION, checkpoint_of, keep, kept, plain
from eigenmill.jobs.compact_teach import Lesson
from eigenmill.jobs.recipe import RecipeFile
from eigenmill.reduce.digest import digest_of
from eigenmill.reduce.engines.base import Progress
from eigenmill.reduce.errors import ConfigError


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
    source: RecipeFile, start: Model, samples: Samples, lesson: Lesson | None, place: Path, progress: Progress | None
) -> tuple[tuple[Stage, ...], list[Model]]:
    """What is known after each step, and the models; judged by the rows held out."""
    recipe = source.recipe
    if not samples.n_held:
        raise ConfigError("expected rows held out to judge by, found none; raise validation.share or give more rows")
    model, stages, models = start, list[Stage](), list[Model]()
    key = digest_of([VERSION, samples.digest, plain(recipe.model)])
    for number, step in enumerate(recipe.steps):
        taught = lesson if isinstance(step, spec.Distill) else None
        key = digest_of([key, plain(step), None if taught is None else taught.key])
        target = place / "stages" / f"{number:02d}-{step.step}.model"
        found = kept(target, key)
        if found is None:
            rows = samples if taught is None else taught.samples
            checkpoint = checkpoint_of(target, key)
            began = time.perf_counter()
            with source.blame("steps", number):
                model = STEPS[step.step](step, model, rows, checkpoint, recipe.model.seed, progress)
            stage = _figures(f"{number} {step.step}", model, samples, time.perf_counter() - began)
            keep(target, key, model, {"stage": asdict(stage)})
        else:
            model, held = found
            lists = {name: tuple(held["stage"][name]) for name in ("sparsity", "widths")}
            stage = Stage(**{**held["stage"], **lists, "resumed": True})
        stages.append(stage)
        models.append(model)
    return tuple(stages), models


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


__all__ = ["Stage", "run_steps"]
