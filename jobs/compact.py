"""Run a recipe: step by step, each result kept, then pack, evaluate, and show. Run again, it goes on.

The directory of a recipe holds::

    stages/00-train.model    the model after each step, and beside it ``.json``: whose result it is, and its figures
    teachers/                larger nets that the steps learn from, and what they say: see
                             :mod:`eigenmill.jobs.compact_teach`
    search-KEY/              the trials of a search for a target, and its best model
    model.emill              what ships; model.c and model.onnx if the recipe asks for them
    test.jsonl               every scoring of the test rows: digest of the file, digest of the rows, figures
    report.json              what came of it

Stages and search are judged by the rows held out. The test rows are scored once per finished file: a second run finds
the line in ``test.jsonl`` and does not score again.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eigenmill.compress import (
    Model,
    Samples,
    dct,
    gather,
    pack,
    pooling,
)
from eigenmill.compress.c import to_c
from eigenmill.compress.categories import columns_of
from eigenmill.compress.distill import TEACHER
from eigenmill.compress.evaluate import Evaluation, evaluate
from eigenmill.compress.latency import machine
from eigenmill.compress.native import Footprint, compiled, footprint
from eigenmill.compress.onnx_export import Agreement, agreement, run_onnx, to_onnx
from eigenmill.compress.search import Search, Target, search
from eigenmill.compress.split import Validation
from eigenmill.compress.train import Epoch
from eigenmill.jobs import recipe as spec
from eigenmill.jobs.build import cleaning_of, filters_of, layout_of
from eigenmill.jobs.compact_stages import Stage, run_steps
from eigenmill.jobs.compact_steps import epochs, plain
from eigenmill.jobs.compact_teach import Lesson
from eigenmill.jobs.recipe import Recipe, RecipeFile
from eigenmill.reduce import Dataset, about, files, places
from eigenmill.reduce import load as load_reduction
from eigenmill.reduce.digest import digest_of
from eigenmill.reduce.engines.base import Progress
from eigenmill.reduce.errors import ConfigError


@dataclass(frozen=True)
class Exported:
    """Other forms of the model, and how they compare.

    Attributes:
        bytes: of each file, by name.
        footprint: what the C takes, where a compiler is at hand: for a Cortex-M4 if that one is, else for this machine.
        agreement: of ONNX with the packed file on the rows held out, where onnxruntime is at hand.
        backends: ways to predict, for timing.
    """

    bytes: dict[str, int] = field(default_factory=dict)
    footprint: Footprint | None = None
    agreement: Agreement | None = None
    backends: dict[str, Callable[[Any], Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        footprint, agreement = self.footprint, self.agreement
        return {
            "bytes": self.bytes,
            "footprint": None if footprint is None else asdict(footprint),
            "agreement": None if agreement is None else asdict(agreement),
        }


Histogram = tuple[list[int], list[float]]
"""Counts, and the edges between which they lie."""


@dataclass(frozen=True)
class CompactReport:
    """What a recipe has come to.

    Attributes:
        path: of the packed file.
        stages: in order.
        taught: error of the teachers together on the rows held out, if there were some.
        before: the model of the first step in single precision, on the rows held out; ``after``: the file.
        test_before: the same on the test rows, if the recipe has some; ``test_after`` likewise.
        found: the search, if there was one.
        exported: what was written beside the packed file.
        histograms: of the weights other than 0, by stage and layer.
        target: what the file must keep to, if anything.
        machine: the processor on which times were measured.
        recipe: with its defaults.
    """

    path: str
    stages: tuple[Stage, ...]
    taught: float | None
    before: Evaluation
    after: Evaluation
    test_before: Evaluation | None
    test_after: Evaluation | None
    found: Search | None
    exported: Exported
    histograms: tuple[tuple[str, tuple[Histogram, ...]], ...] = field(repr=False)
    target: Target | None
    machine: str
    recipe: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        tested = {"before": self.test_before, "after": self.test_after}
        trials = None
        if self.found is not None:
            trials = {
                "met": self.found.met,
                "machine": self.machine,
                "excess": self.found.best.excess,
                "best": asdict(self.found.best),
                "trials": [asdict(trial) for trial in self.found.trials],
                "front": [asdict(trial) for trial in self.found.front],
            }
        return {
            "model": self.path,
            "stages": [asdict(stage) for stage in self.stages],
            "teachers": None if self.taught is None else {"error": self.taught},
            "validation": {"before": self.before.as_json(), "after": self.after.as_json()},
            "test": {name: None if e is None else e.as_json() for name, e in tested.items()},
            "machine": self.machine,
            "target": None if self.target is None else asdict(self.target),
            "search": trials,
            "exports": self.exported.as_json(),
            "versions": about.versions(),
            "recipe": self.recipe,
        }


def run(source: RecipeFile, progress: Progress | None = None) -> CompactReport:
    """Run a recipe to its end; what an earlier run of the same recipe has done is taken from its directory.

    Raises:
        EigenmillError: see :mod:`eigenmill.reduce.errors`. What is finished stays, and running again goes on from it.
    """
    recipe = source.recipe
    place = Path(recipe.output.path).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    with source.blame("input"):
        data = _dataset(recipe.input, recipe.label)
    with source.blame("model"):
        start = _start(recipe.model, recipe.input)
    with _samples(recipe, start, data, place) as samples:
        lesson = None
        if recipe.teachers is not None:
            folder = Path(recipe.teachers.path or place / "teachers").expanduser()
            lesson = Lesson(source, data, samples, folder, samples.directory.parent, progress)
        stages, models = run_steps(source, start, samples, lesson, place, progress)
        model, found = models[-1], None
        if recipe.target is not None:
            with source.blame("target"):
                model, found = _targeted(recipe, start, lesson, samples, stages[-1], models[-1], place, progress)
        path = place / "model.emill"
        pack(model, path, coder=recipe.output.coder, width=recipe.output.width)
        with source.blame("output"):
            exported = _exported(recipe, path, place, samples)
        baseline, taught = models[0], None if lesson is None else lesson.error()
        before, after = evaluate(baseline, samples), evaluate(path, samples, against=baseline)
    test_before, test_after = _tested(recipe, baseline, place, path, exported.backends)
    histograms = tuple((s.name, _histograms(m)) for s, m in zip(stages, models, strict=True))
    report = CompactReport(
        str(path),
        stages,
        taught,
        before,
        after,
        test_before,
        test_after,
        found,
        exported,
        histograms,
        _target(recipe),
        machine(),
        recipe.echo(),
    )
    fs, target = places.resolve(place / "report.json")
    files.write_json(fs, target, report.as_json())
    return report


def _dataset(given: spec.Rows, label: str, **other: Any) -> Dataset:
    carry = list(dict.fromkeys([*given.carry, label, *columns_of(given.categories)]))
    if given.weights is not None:
        raise ConfigError("expected no weights for a compact model, found some; remove input.weights")
    options = {"filters": filters_of(given.filters), **other}
    path = options.pop("path", given.path)
    return Dataset.from_parquet(path, **layout_of(given), carry=carry, **options, **cleaning_of(given))


def _start(net: spec.Net, rows: spec.Rows) -> Model:
    source: Any = None if net.pca is None else load_reduction(net.pca)
    if net.pooling is not None:
        source = pooling(**net.pooling.model_dump())
    if net.dct is not None:
        source = dct(**net.dct.model_dump())
    options: dict[str, Any] = {"task": net.task, "input_bits": net.input_bits, "seed": net.seed}
    options |= rows.model_dump(include={"categories", "max_categories", "min_frequency"})
    return Model.mlp(source, net.hidden, net.classes, **options)


@contextlib.contextmanager
def _samples(recipe: Recipe, start: Model, data: Dataset, place: Path) -> Iterator[Samples]:
    """The rows, scattered below the output for as long as the recipe runs; all but the last steps want them."""
    work = place / ".work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    split = Validation(**recipe.validation.model_dump())
    try:
        yield gather(start, data, recipe.label, validation=split, seed=recipe.model.seed, directory=work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# The target


def _target(recipe: Recipe) -> Target | None:
    limits = ("max_bytes", "max_error", "max_latency_us", "backend", "batch", "quantile")
    return None if recipe.target is None else Target(**recipe.target.model_dump(include=set(limits)))


def _targeted(
    recipe: Recipe,
    start: Model,
    lesson: Lesson | None,
    samples: Samples,
    last: Stage,
    model: Model,
    place: Path,
    progress: Progress | None,
) -> tuple[Model, Search | None]:
    """The recipe's own model if it keeps to the target, else what a search finds."""
    wanted, target = recipe.target, _target(recipe)
    assert wanted is not None
    assert target is not None
    if wanted.max_latency_us is None and target.excess(last.packed_bytes, last.error, None) <= 0:
        return model, None
    rows, learning = samples, dict[str, Any]()
    for step in recipe.steps:
        if isinstance(step, spec.Distill) and lesson is not None:
            rows, learning = lesson.samples, {"teacher": TEACHER, **step.model_dump(include={"temperature", "share"})}
    learning |= recipe.steps[0].model_dump(include={"batch", "class_weight", "forget"})
    # Another machine takes another time.
    here = machine() if wanted.max_latency_us is not None else ""
    key = digest_of([rows.digest, plain(recipe.model), plain(wanted), learning, here])
    with epochs(progress, "search", wanted.epochs * wanted.trials, rows.n_rows) as advance:
        seen = [0]

        def count(epoch: Epoch) -> None:
            seen[0] += 1
            advance(replace(epoch, number=seen[0]))

        found = search(
            start,
            rows,
            target,
            epochs=wanted.epochs,
            trials=wanted.trials,
            seconds=wanted.seconds,
            directory=place / f"search-{key[:12]}",
            seed=recipe.model.seed,
            epoch=count,
            **learning,
        )
    # The steps' own model is a trial like any other.
    own = target.excess(last.packed_bytes, last.error, None) if wanted.max_latency_us is None else np.inf
    return (model, found) if own < found.best.excess and not found.met else (found.model, found)


# Other forms of the model


def _exported(recipe: Recipe, path: Path, place: Path, samples: Samples) -> Exported:
    """Writes them, and opens those that this machine can run."""
    sizes: dict[str, int] = {}
    backends: dict[str, Callable[[Any], Any]] = {}
    taken: Footprint | None = None
    agreed: Agreement | None = None
    if "c" in recipe.output.exports:
        sizes["model.c"] = to_c(path, place / "model.c")
        if shutil.which("arm-none-eabi-gcc"):
            taken = footprint(path)
        if shutil.which("cc"):
            backends["C -O2"] = compiled(path).predict
            taken = taken or footprint(path, compiler="cc", flags=("-Os",))
    if "onnx" in recipe.output.exports:
        sizes["model.onnx"] = to_onnx(path, place / "model.onnx")
        if importlib.util.find_spec("onnxruntime") is not None:
            net = run_onnx(place / "model.onnx")
            codes = np.concatenate([codes for codes, _ in samples.blocks("held")])[:4096]
            agreed, backends["onnxruntime"] = agreement(path, net, samples.front.example(codes)), net.predict
    return Exported(sizes, taken, agreed, backends)


# The test rows


def _tested(
    recipe: Recipe, baseline: Model, place: Path, path: Path, backends: dict[str, Callable[[Any], Any]]
) -> tuple[Evaluation | None, Evaluation | None]:
    """Figures on the test rows: of the first model in single precision, and of the file."""
    test = recipe.test
    if test is None:
        return None, None
    other: dict[str, Any] = {"path": test.path}
    if test.filters is not None or "filters" in test.model_fields_set:
        other["filters"] = filters_of(test.filters)
    data = _dataset(recipe.input, recipe.label, **other)
    first = place / "stages" / f"00-{recipe.steps[0].step}.model"
    batches = recipe.output.batches
    label = recipe.label

    def after() -> Evaluation:
        return evaluate(path, data, label=label, against=baseline, batches=batches, backends=backends)

    return _once(place, first, data, lambda: evaluate(baseline, data, label=label, batches=batches)), _once(
        place, path, data, after
    )


def _once(place: Path, file: Path, data: Dataset, score: Callable[[], Evaluation]) -> Evaluation:
    """The figures of a file on the test rows, scored now or found in the log of an earlier run."""
    log = place / "test.jsonl"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    text = log.read_text() if log.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a line that was cut short by a kill
            held = json.loads(line)
            if (held["file"], held["data"]) == (digest, data.digest):
                return Evaluation.from_json(held["found"])
    found = score()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {"at": now, "name": file.name, "file": digest, "data": data.digest, "found": found.as_json()}
    end = "\n" if text and not text.endswith("\n") else ""  # of a line that was cut short
    with log.open("a") as lines:
        lines.write(end + json.dumps(entry) + "\n")
    return found


def _histograms(model: Model) -> tuple[Histogram, ...]:
    """Counts and edges of the weights other than 0, by layer."""
    found = []
    for layer in model.layers:
        weights = layer.weights[layer.weights != 0]
        counts, edges = np.histogram(weights, 60)
        found.append((counts.tolist(), edges.tolist()))
    return tuple(found)


__all__ = ["CompactReport", "Stage", "run"]
