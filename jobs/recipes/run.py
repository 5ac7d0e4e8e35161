"""Run a recipe: step by step, each result kept, then pack, evaluate, and show. Run again, it goes on.

The directory of a recipe holds::

    stages/00-train.model    the model after each step, and beside it ``.json``: whose result it is, and its figures
    teachers/                larger nets that the steps learn from, and what they say: see
                             :mod:`eigenmill.jobs.recipes.teach`
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
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eigenmill.compress import Model, Samples, dct, gather, pooling, quantize
from eigenmill.compress.core.categories import columns_of
from eigenmill.compress.core.layers import Dense
from eigenmill.compress.core.split import Validation
from eigenmill.compress.distill import TEACHER
from eigenmill.compress.exports.c import to_c
from eigenmill.compress.exports.native import Footprint, compiled, footprint
from eigenmill.compress.exports.onnx import Agreement, agreement, run_onnx, to_onnx
from eigenmill.compress.judging.evaluate import Evaluation, evaluate
from eigenmill.compress.judging.latency import machine
from eigenmill.compress.packed.pack import PackedModel, packed_model
from eigenmill.compress.search import Search, Target, search
from eigenmill.compress.training.train import Epoch
from eigenmill.jobs.recipes import recipe as spec
from eigenmill.jobs.recipes.recipe import Recipe, RecipeFile
from eigenmill.jobs.recipes.report import CompactReport, Exported, Histogram, Stage
from eigenmill.jobs.recipes.steps import STEPS, VERSION, checkpoint_of, epoch_bar, read_kept, section_values, write_kept
from eigenmill.jobs.recipes.teach import Lesson
from eigenmill.jobs.reduction.build import cleaning_of, filters_of, layout_of
from eigenmill.reduce import Dataset
from eigenmill.reduce import load as load_reduction
from eigenmill.reduce.engines.base import Progress
from eigenmill.reduce.errors import ChangedInputError, ConfigError, OutputError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.sources import apart, seen
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.digest import digest_of, sha256_of


def run(source: RecipeFile, progress: Progress | None = None) -> CompactReport:
    """Run a recipe to its end; what an earlier run of the same recipe has done is taken from its directory.

    Raises:
        EigenmillError: see :mod:`eigenmill.reduce.errors`. What is finished stays, and running again goes on from it.
    """
    recipe = source.recipe
    _refuse_overlap(source)
    place = Path(places.absolute(recipe.output.path))
    files.make_directory(*places.resolve(place))
    with source.blame("input"):
        data = _dataset(recipe.input, recipe.label)
    _refuse_rewritten(place, data)
    with source.blame("model"):
        start = _start(recipe.model, recipe.input)
    with _samples(recipe, start, data, place) as samples:
        lesson = None
        if recipe.teachers is not None:
            folder = Path(places.absolute(recipe.teachers.path or place / "teachers"))
            lesson = Lesson(source, data, samples, folder, samples.directory.parent, progress)
        results = run_steps(source, start, samples, lesson, place, progress)
        last, found = results[-1], None
        if recipe.target is not None:
            with source.blame("target"):
                last, found = _search_if_missed(recipe, start, lesson, samples, last, place, progress)
        file = _file_to_ship(recipe, last)
        files.write_bytes(*places.resolve(place / "model.emill"), file.content)
        with source.blame("output"):
            exported = _write_exports(recipe, file, place, samples)
        baseline, taught = results[0].model, None if lesson is None else lesson.error()
        before, after = evaluate(baseline, samples), evaluate(file, samples, against=baseline)
    test_before, test_after = _score_test_rows(recipe, baseline, place, file, exported.backends)
    report = CompactReport(
        str(place / "model.emill"),
        tuple(result.stage for result in results),
        taught,
        before,
        after,
        test_before,
        test_after,
        found,
        exported,
        tuple((result.stage.name, _histograms(result.model)) for result in results),
        _target(recipe),
        machine(),
        recipe.echo(),
    )
    fs, target = places.resolve(place / "report.json")
    files.write_json(fs, target, report.as_json())
    return report


def _refuse_overlap(source: RecipeFile) -> None:
    """Refuse outputs that are inputs, before anything is read."""
    recipe, name = source.recipe, source.document.name
    read: dict[str, str | list[str] | None] = {"input.path": recipe.input.path, "model.pca": recipe.model.pca}
    read["the recipe"] = name if os.path.exists(name) else None
    read["test.path"] = None if recipe.test is None else recipe.test.path
    teachers = recipe.teachers
    for number, member in enumerate(() if teachers is None else teachers.members):
        read[f"teachers.members.{number}.path"] = member.path
    holds = ("model.emill", "teachers/taught-0.parquet", "taught-0.parquet")
    # Teachers may lie within the output.
    written = {"output.path": recipe.output.path, "teachers.path": None if teachers is None else teachers.path}
    with source.blame("output"):
        for each, path in written.items():
            apart.refuse(read, {each: path}, holds=holds)


def _refuse_rewritten(place: Path, data: Dataset) -> None:
    """Refuse rows that the steps here were not made of, though their digests are equal."""
    fs, path = places.resolve(place / f".{data.source.digest[:16]}.seen.json")
    try:
        seen.check(data.source, seen.read(fs, path))
    except ChangedInputError as error:
        raise OutputError(f"expected {place} to be made of this input; {error}, in another output.path") from error
    seen.write(fs, path, seen.absolute_files(data.source))


def _dataset(given: spec.Rows, label: str, **other: object) -> Dataset:
    carry = list(dict.fromkeys([*given.carry, label, *columns_of(given.categories)]))
    if given.weights is not None:
        raise ConfigError("expected no weights for a compact model, found some; remove input.weights")
    options = {"filters": filters_of(given.filters), **other}
    path = options.pop("path", given.path)
    options |= {"verify": given.verify}
    return Dataset.from_parquet(path, **layout_of(given), carry=carry, **options, **cleaning_of(given))


def _start(net: spec.Net, rows: spec.Rows) -> Model:
    source: Estimator | Dense | None = None if net.pca is None else load_reduction(net.pca)
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


# The steps


@dataclass(frozen=True)
class StepResult:
    """What a step gives: what is known of it, the model, and its file, if this run has packed it.

    A model that is not quantized yet has its file with weights of 8 bits.
    """

    stage: Stage
    model: Model
    file: PackedModel | None


def run_steps(
    source: RecipeFile, start: Model, samples: Samples, lesson: Lesson | None, place: Path, progress: Progress | None
) -> list[StepResult]:
    """What each step gives, judged by the rows held out."""
    recipe = source.recipe
    if not samples.n_held:
        raise ConfigError("expected rows held out to judge by, found none; raise validation.share or give more rows")
    model, results = start, list[StepResult]()
    key = digest_of([VERSION, samples.digest, section_values(recipe.model)])
    for number, step in enumerate(recipe.steps):
        taught = lesson if isinstance(step, spec.Distill) else None
        key = digest_of([key, section_values(step), None if taught is None else taught.key])
        target = place / "stages" / f"{number:02d}-{step.step}.model"
        found = read_kept(target, key)
        if found is None:
            rows = samples if taught is None else taught.samples
            checkpoint = checkpoint_of(target, key)
            began = time.perf_counter()
            with source.blame("steps", number):
                model = STEPS[step.step](step, model, rows, checkpoint, recipe.model.seed, progress)
            stage, file = _judge(f"{number} {step.step}", model, samples, time.perf_counter() - began)
            write_kept(target, key, model, {"stage": asdict(stage)})
        else:
            (model, held), file = found, None
            lists = {name: tuple(held["stage"][name]) for name in ("sparsity", "widths")}
            stage = Stage(**{**held["stage"], **lists, "resumed": True})
        results.append(StepResult(stage, model, file))
    return results


def _judge(name: str, model: Model, samples: Samples, seconds: float) -> tuple[Stage, PackedModel]:
    """What is known after a step, and the file that it makes, which is packed here and nowhere else."""
    rounded = model.activations is not None
    file = packed_model(model if rounded else quantize(model, samples, bits=8))
    packed = evaluate(file, samples)
    found = packed if rounded else evaluate(model, samples)
    stage = Stage(
        name,
        found.error,
        found.log_loss,
        model.parameters,
        model.nonzero,
        tuple(layer.sparsity for layer in model.layers),
        tuple(layer.n_out for layer in model.layers),
        len(file.content),
        packed.error,
        seconds,
    )
    return stage, file


def _file_to_ship(recipe: Recipe, last: StepResult) -> PackedModel:
    """The file of a recipe's model, packed as its output says; the step has packed it by default."""
    coder, width = recipe.output.coder, recipe.output.width
    if last.file is not None and (coder, width) == ("range", None):
        return last.file
    return packed_model(last.model, coder=coder, width=width)


# The target


def _target(recipe: Recipe) -> Target | None:
    limits = ("max_bytes", "max_error", "max_latency_us", "backend", "batch", "quantile")
    return None if recipe.target is None else Target(**recipe.target.model_dump(include=set(limits)))


def _search_if_missed(
    recipe: Recipe,
    start: Model,
    lesson: Lesson | None,
    samples: Samples,
    last: StepResult,
    place: Path,
    progress: Progress | None,
) -> tuple[StepResult, Search | None]:
    """What the last step gives if it keeps to the target, else what a search finds."""
    wanted, target = recipe.target, _target(recipe)
    assert wanted is not None
    assert target is not None
    own = target.excess(last.stage.packed_bytes, last.stage.error, None) if wanted.max_latency_us is None else np.inf
    if own <= 0:
        return last, None
    rows, learning = samples, dict[str, Any]()
    for step in recipe.steps:
        if isinstance(step, spec.Distill) and lesson is not None:
            rows, learning = lesson.samples, {"teacher": TEACHER, **step.model_dump(include={"temperature", "share"})}
    learning |= recipe.steps[0].model_dump(include={"batch", "class_weight", "forget"})
    # Times of another machine do not count here, so the key names the processor.
    here = machine() if wanted.max_latency_us is not None else ""
    key = digest_of([rows.digest, section_values(recipe.model), section_values(wanted), learning, here])
    with epoch_bar(progress, "search", wanted.epochs * wanted.trials, rows.n_rows) as advance:
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
    # The model of the steps competes with the trials: it stays where it is nearer to the target.
    keeps_own = own < found.best.excess and not found.met
    return last if keeps_own else replace(last, model=found.model, file=None), found


# Other forms of the model


def _write_exports(recipe: Recipe, file: PackedModel, place: Path, samples: Samples) -> Exported:
    """Writes them, and opens those that this machine can run."""
    sizes: dict[str, int] = {}
    backends: dict[str, Callable[[Any], Any]] = {}
    taken: Footprint | None = None
    agreed: Agreement | None = None
    if "c" in recipe.output.exports:
        sizes["model.c"] = to_c(file.net, place / "model.c")
        if shutil.which("arm-none-eabi-gcc"):
            taken = footprint(file.net)
        if shutil.which("cc"):
            backends["C -O2"] = compiled(file.net).predict
            taken = taken or footprint(file.net, compiler="cc", flags=("-Os",))
    if "onnx" in recipe.output.exports:
        sizes["model.onnx"] = to_onnx(file.net, place / "model.onnx")
        if importlib.util.find_spec("onnxruntime") is not None:
            net = run_onnx(place / "model.onnx")
            codes = np.concatenate([codes for codes, _ in samples.blocks("held")])[:4096]
            agreed, backends["onnxruntime"] = agreement(file.net, net, samples.front.example(codes)), net.predict
    return Exported(sizes, taken, agreed, backends)


# The test rows


def _score_test_rows(
    recipe: Recipe, baseline: Model, place: Path, file: PackedModel, backends: dict[str, Callable[[Any], Any]]
) -> tuple[Evaluation | None, Evaluation | None]:
    """Figures on the test rows: of the first model in single precision, and of the file."""
    test = recipe.test
    if test is None:
        return None, None
    other: dict[str, Any] = {"path": test.path}
    if test.filters is not None or "filters" in test.model_fields_set:
        other["filters"] = filters_of(test.filters)
    data = _dataset(recipe.input, recipe.label, **other)
    _refuse_rewritten(place, data)
    first = place / "stages" / f"00-{recipe.steps[0].step}.model"
    batches = recipe.output.batches
    label = recipe.label

    def after() -> Evaluation:
        return evaluate(file, data, label=label, against=baseline, batches=batches, backends=backends)

    return _score_once(place, first, data, lambda: evaluate(baseline, data, label=label, batches=batches)), _score_once(
        place, place / "model.emill", data, after
    )


def _score_once(place: Path, file: Path, data: Dataset, score: Callable[[], Evaluation]) -> Evaluation:
    """The figures of a file on the test rows, scored now or found in the log of an earlier run."""
    log = place / "test.jsonl"
    digest = sha256_of([file.read_bytes()])
    text = log.read_text() if log.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a kill has cut this line short
            held = json.loads(line)
            if (held["file"], held["data"]) == (digest, data.digest):
                return Evaluation.from_json(held["found"])
    found = score()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {"at": now, "name": file.name, "file": digest, "data": data.digest, "found": found.as_json()}
    end = "\n" if text and not text.endswith("\n") else ""  # of the line that a kill has cut short
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


__all__ = ["StepResult", "run", "run_steps"]
