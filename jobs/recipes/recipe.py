"""The YAML file of a compact model: rows to learn from, a net, and a list of steps from a closed registry.

:class:`Recipe` is the whole file. Its section ``input`` is that of :mod:`eigenmill.jobs.reduction.config`, with
categories.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from eigenmill.jobs.documents.complaints import read_as
from eigenmill.jobs.documents.document import Sourced, read
from eigenmill.jobs.reduction.config import Input, Names, Section, present


class Rows(Input):
    """Which Parquet files to learn from, and how they are cleaned."""

    categories: Names = Field(default_factory=list)
    """Columns of text, whole numbers or booleans that are names, or parts of dates: `month(date)`, also `year`, `day`,
    `weekday` and `hour`. With `columns: []` the model reads nothing else."""
    max_categories: int = Field(default=1000, ge=1)
    """The most frequent values of each that the model tells apart."""
    min_frequency: int = Field(default=2, ge=1)
    """Rows that a value must occur in to be one of them."""


class Split(Section):
    """Which rows are held out of training, to choose by."""

    share: float = Field(default=0.1, gt=0, lt=1)
    """Of the rows, by a hash of the column `by`; of a row's number without one."""
    by: str | None = None
    """A carried column such as an id: equal values stay on one side."""
    equals: bool | int | float | str | None = None
    """Instead: rows whose `by` has this value."""
    since: int | float | str | datetime.datetime | datetime.date | None = None
    """Instead: rows whose `by` is at least this; a day or time as `2001-03-02` or `2001-03-02T12:00:00`, in UTC."""


class Test(Section):
    """Rows that nothing is chosen by; scored once per finished file."""

    path: Annotated[str | list[str], Field(min_length=1)]
    """Files like those of `input`."""
    filters: list[Any] | None = None
    """Rows to keep, as of `input`."""


class PoolingSpec(Section):
    """A fixed first layer: the means of square tiles of a picture."""

    height: int = Field(ge=1)
    """Of the picture, in inputs."""
    width: int = Field(ge=1)
    """Of the picture, in inputs."""
    tile: int = Field(default=2, ge=2)
    """Side of a tile, in inputs."""


class DctSpec(Section):
    """A fixed first layer: low frequencies of a picture's cosine transform."""

    height: int = Field(ge=1)
    """Of the picture, in inputs."""
    width: int = Field(ge=1)
    """Of the picture, in inputs."""
    block: int | None = Field(default=None, ge=1)
    """Keep the first block x block frequencies."""
    count: int | None = Field(default=None, ge=1)
    """Instead: keep so many in zigzag order."""

    @model_validator(mode="after")
    def _one_choice(self) -> DctSpec:
        if (self.block is None) == (self.count is None):
            raise ValueError("either block or count; give one of them")
        return self


class Net(Section):
    """The net, before it is trained."""

    hidden: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [128])
    """Widths of the hidden layers; none for a linear model."""
    task: Literal["classification", "regression"] = "classification"
    """What it predicts: a label or a number."""
    classes: int | None = Field(default=None, ge=2)
    """How many labels there are; found in the data otherwise."""
    input_bits: int | None = Field(default=None, ge=1, le=16)
    """Precision of the input; 8 for pixels, else 12 by default."""
    pca: str | None = None
    """Directory of a saved PCA or truncated SVD, which becomes the first layer."""
    pooling: PoolingSpec | None = None
    """A fixed transform in front, instead of `pca`."""
    dct: DctSpec | None = None
    """Another one."""
    seed: int = 0
    """Of the first weights and of the order of the rows."""

    @model_validator(mode="after")
    def _one_first_layer(self) -> Net:
        given = {"pca": self.pca, "pooling": self.pooling, "dct": self.dct}
        found = [name for name, layer in given.items() if layer is not None]
        if len(found) > 1:
            raise ValueError(f"pca, pooling or dct as first layer; found {' and '.join(found)}, keep one")
        return self


class Optimizer(Section):
    """How weights move; what is not given has the optimizer's default."""

    name: Literal["gradient_descent", "sgd", "momentum", "adam"] = "adam"
    """Which one."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Only for momentum."""
    beta1: float | None = Field(default=None, ge=0, lt=1)
    """Only for adam."""
    beta2: float | None = Field(default=None, ge=0, lt=1)
    """Only for adam."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Pull towards 0."""


class MagnitudeSpec(Section):
    """Gradual pruning of the smallest weights while training."""

    sparsity: float = Field(ge=0, lt=1)
    """Share of the weights that are 0 at the end."""
    schedule: Literal["cubic", "at once"] = "cubic"
    """How it gets there."""
    until: float = Field(default=0.6, gt=0, le=1)
    """Share of the training after which the masks are fixed."""
    scope: Literal["global", "layer"] = "global"
    """Compare the weights of all layers, or of each."""


class LearnedStepSpec(Section):
    """Weights are whole multiples of a step that is trained with them."""

    bits: int = Field(default=4, ge=2, le=16)
    """Of the multiples."""
    start: float = Field(default=0.3, gt=0)
    """First step, in standard deviations of the weights; above 0.5 it begins with mostly zeros."""


class EntropyPenaltySpec(Section):
    """A price for the bits that weights take once packed; with learned_step."""

    weight: float = Field(default=1e-5, ge=0)
    """Loss per bit."""


class AffineSpec(Section):
    """Pictures shifted, turned, stretched and slanted at random, anew each time they are seen."""

    name: Literal["affine"]
    """The kind of augmentation."""
    height: int = Field(ge=1)
    """Of the pictures, in inputs."""
    width: int = Field(ge=1)
    """Of the pictures, in inputs."""
    shift: float = Field(default=2.0, ge=0, lt=90)
    """Largest shift to any side, in inputs."""
    turn: float = Field(default=12.0, ge=0, lt=90)
    """Largest turn, in degrees."""
    zoom: float = Field(default=0.12, ge=0, lt=1)
    """Largest change of either side's length, as a share."""
    shear: float = Field(default=10.0, ge=0, lt=90)
    """Largest slant, in degrees."""


class TrainingStep(Section):
    """What is common to steps that train."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the rows."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """How weights move."""
    batch: int = Field(default=128, ge=1)
    """Rows per step."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Of the learning rate."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better validation loss, and keep the best."""
    class_weight: Literal["balanced"] | None = None
    """Count rare classes as much as frequent ones."""
    augment: AffineSpec | None = None
    """Change the rows at random, by the seed."""
    forget: float = Field(default=0.0, ge=0, lt=1)
    """Share of the categories' values that count as unseen, drawn anew for every row, so that new ones do no harm."""
    magnitude: MagnitudeSpec | None = None
    """Prune meanwhile."""
    learned_step: LearnedStepSpec | None = None
    """Quantize meanwhile."""
    entropy_penalty: EntropyPenaltySpec | None = None
    """Price bits meanwhile."""

    @model_validator(mode="after")
    def _priced_weights_are_on_a_grid(self) -> Self:
        if self.entropy_penalty is not None and self.learned_step is None:
            raise ValueError("learned_step beside entropy_penalty; found none, add it")
        return self


class Train(TrainingStep):
    """Train, from first weights or onwards."""

    step: Literal["train"]
    """The kind of step."""


class Distill(TrainingStep):
    """Train on the labels and on what the teachers say of the rows and of their copies; see `teachers`."""

    step: Literal["distill"]
    """The kind of step."""
    temperature: float = Field(default=2.0, gt=0)
    """Of the teachers' probabilities: higher ones tell more of the labels that they think less likely."""
    share: float = Field(default=0.5, ge=0, le=1)
    """Of the loss that is the teachers'; the rest is the labels'."""


class Prune(Section):
    """Set the smallest weights to 0."""

    step: Literal["prune"]
    """The kind of step."""
    sparsity: float = Field(ge=0, lt=1)
    """Share of the weights that are 0 afterwards."""
    scope: Literal["global", "layer"] = "global"
    """Compare the weights of all layers, or of each."""


class Regrow(Section):
    """Let pruned weights grow again where the loss asks for it most; train and prune afterwards."""

    step: Literal["regrow"]
    """The kind of step."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Of the pruned weights."""


class PruneNeurons(Section):
    """Take out the hidden neurons that matter least."""

    step: Literal["prune_neurons"]
    """The kind of step."""
    keep: float = Field(default=0.5, gt=0, le=1)
    """Share of the neurons that stay."""


class Factorize(Section):
    """Replace layers by two thin ones (SVD), wherever that takes fewer weights."""

    step: Literal["factorize"]
    """The kind of step."""
    energy: float = Field(default=0.9, gt=0, le=1)
    """Share of the squared singular values that is kept."""
    rank: int | None = Field(default=None, ge=1)
    """Of every layer that is replaced, instead."""


class FoldProjection(Section):
    """Multiply layers without ReLU into the layer after them, wherever that takes fewer weights."""

    step: Literal["fold_projection"]
    """The kind of step."""
    always: bool = False
    """Also where the folded layer is larger."""


class ShareWeights(Section):
    """Let the weights of a layer share a few values, found by k-means."""

    step: Literal["share_weights"]
    """The kind of step."""
    bits: int = Field(default=5, ge=1, le=12)
    """2 to the power of it, less one, values."""


class Quantize(Section):
    """Round weights and hidden results: the model then predicts in whole numbers."""

    step: Literal["quantize"]
    """The kind of step."""
    bits: Annotated[int, Field(ge=2, le=16)] | list[Annotated[int, Field(ge=2, le=16)]] = 8
    """Of the weights, of all layers or one number each."""
    activations: int = Field(default=8, ge=2, le=16)
    """Of the hidden results."""


Plain = Train | Prune | Regrow | PruneNeurons | Factorize | FoldProjection | ShareWeights | Quantize
Kind = Plain | Distill


class Member(Section):
    """A teacher: a net that is trained for it here, or one at hand."""

    hidden: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [512])
    """Widths of the hidden layers of a net that is trained here."""
    seed: int = 0
    """Of its first weights, and of the order of the rows."""
    steps: list[Annotated[Plain, Field(discriminator="step")]] | None = None
    """What is done to it, from a first `train` on."""
    path: str | None = None
    """Instead: a packed model (.emill), the model after a step of a recipe (.model), or a net in ONNX (.onnx) or
    safetensors (.safetensors) that takes the raw rows."""

    @model_validator(mode="after")
    def _one_origin(self) -> Member:
        if (self.steps is None) == (self.path is None):
            raise ValueError("either steps or path; give one of them")
        if self.path is not None and {"hidden", "seed"} & self.model_fields_set:
            raise ValueError("a path alone; remove hidden and seed")
        if self.path is not None and os.path.splitext(self.path)[1] not in (
            ".emill",
            ".model",
            ".onnx",
            ".safetensors",
        ):
            raise ValueError(f"a file named .emill, .model, .onnx or .safetensors; found {self.path}")
        if self.steps is not None and [step.step for step in self.steps[:1]] != ["train"]:
            raise ValueError("a first step train")
        return self


class Teachers(Section):
    """Larger nets that the steps `distill` learn from. They are asked once, and what they say is kept as Parquet."""

    members: list[Member] = Field(min_length=1)
    """One, or an ensemble, whose log-probabilities are averaged."""
    copies: int = Field(default=0, ge=0)
    """Of each row that is trained on, changed at random, of which the teachers are asked as well."""
    augment: AffineSpec | None = None
    """How copies are changed."""
    dtype: Literal["float32", "float64", "uint8"] | None = None
    """Of the features kept; `uint8` rounds, for pixels. By default that of the input."""
    path: str | None = None
    """Directory where they and what they say are kept, for recipes to share; by default `teachers` in the output's."""

    @model_validator(mode="after")
    def _copies_differ(self) -> Teachers:
        if self.copies and self.augment is None:
            raise ValueError("augment beside copies; found none, add it")
        return self


class TargetSpec(Section):
    """What the model must keep to. When the steps do not, a search over widths, sparsity, bits and penalty begins."""

    max_bytes: int | None = Field(default=None, ge=1)
    """Of the packed file."""
    max_error: float | None = Field(default=None, gt=0)
    """On the validation rows: share of wrong labels, or root mean square error."""
    max_latency_us: float | None = Field(default=None, gt=0)
    """Of one call, in microseconds on this machine."""
    backend: Literal["numpy", "onnxruntime", "c"] = "numpy"
    """What is called: the packed file in Python, its ONNX, or its C compiled here by cc at -O2."""
    batch: int = Field(default=1, ge=1)
    """Rows of that call."""
    quantile: float = Field(default=0.5, gt=0, lt=1)
    """Of the times of many calls: 0.5 is the median."""
    trials: int = Field(default=12, ge=1)
    """Most models that are tried."""
    seconds: float | None = Field(default=None, gt=0)
    """No trial begins after so long."""
    epochs: int = Field(default=20, ge=1)
    """Of every trial. Its batch, class_weight and forget are those of the first step."""


class Results(Section):
    """Where everything goes."""

    path: str
    """Directory of the packed model, the stages, the report and the page."""
    coder: Literal["range", "zstd", "huffman"] = "range"
    """Of the packed weights."""
    width: int | None = Field(default=None, ge=0)
    """Of the picture that the inputs are; tried by default."""
    exports: list[Literal["c", "onnx"]] = Field(default_factory=list)
    """Other forms of the model: `c` writes model.c (C99), `onnx` writes model.onnx."""
    batches: list[Annotated[int, Field(ge=1)]] = Field(default_factory=lambda: [1, 1024])
    """Rows per call whose time is measured."""


class Recipe(Section):
    """A compact model: what it learns from, what is done to it, where it goes."""

    input: Rows
    label: str = "label"
    """The carried column of classes or values."""
    validation: Annotated[Split, BeforeValidator(present), Field(default_factory=Split)]
    test: Test | None = None
    model: Annotated[Net, BeforeValidator(present), Field(default_factory=Net)]
    teachers: Teachers | None = None
    steps: list[Annotated[Kind, Field(discriminator="step")]] = Field(min_length=1)
    """What is done to the model, in this order."""
    target: TargetSpec | None = None
    output: Results

    @model_validator(mode="after")
    def _ends_packed(self) -> Recipe:
        if self.steps[0].step not in ("train", "distill"):
            raise ValueError(f"a first step train or distill; found {self.steps[0].step}")
        if self.steps[-1].step != "quantize":
            raise ValueError(f"a last step quantize, which makes the model that is packed; found {self.steps[-1].step}")
        if any(step.step == "distill" for step in self.steps) != (self.teachers is not None):
            raise ValueError("teachers and a step distill together; found one of them, add or remove the other")
        return self


@dataclass(frozen=True)
class RecipeFile(Sourced):
    """A recipe and the document that it came from."""

    recipe: Recipe


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RecipeFile:
    """The recipe in a YAML file; ``overrides`` are ``section.key=value``, or ``steps.0.epochs=3`` for a step.

    Raises:
        ConfigError: the file is missing or no YAML, or something in it is unknown or wrong; all such places are named.
    """
    return read_recipe(read(path, "a recipe"), os.fspath(path), overrides)


def read_recipe(text: str, name: str, overrides: Sequence[str] = ()) -> RecipeFile:
    """As :func:`load_recipe`, from the text; ``name`` is for the messages."""
    recipe, document = read_as(Recipe, text, name, "a recipe", overrides)
    return RecipeFile(document, recipe)


__all__ = ["Recipe", "RecipeFile", "load_recipe", "read_recipe"]
