"""The YAML job file: what it may say, and errors that name the line.

:class:`Job` is the whole file; its sections are :class:`Input`, :class:`Reduction`, :class:`Output` and
:class:`Engine`. :func:`load_job` reads one, and refuses what it does not know.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eigenmill.jobs.documents.complaints import read_as
from eigenmill.jobs.documents.document import Sourced, read
from eigenmill.reduce.engines.memory import parse_bytes
from eigenmill.reduce.estimators.solver import COMPONENTS, SCANS, TOL
from eigenmill.reduce.storage import secrets

Scalar = bool | int | float | str | datetime.date | datetime.datetime
Policy = Literal["error", "drop", "mean", "zero", "keep"] | float
Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


def _size(value: object) -> Any:
    return parse_bytes(value) if isinstance(value, int | str) and not isinstance(value, bool) else value


def _condition(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value[:2])


def _conditions(value: object) -> Any:
    """A list of conditions, or a list of such lists."""
    groups = value if isinstance(value, list) else [value]
    if not groups or not all(_condition(g) or (isinstance(g, list) and g and all(map(_condition, g))) for g in groups):
        raise ValueError("a list of conditions [column, operator, value], or a list of such lists")
    if len({_condition(group) for group in groups}) > 1:
        raise ValueError("either conditions [column, operator, value] or lists of them, not both")
    return value


def _components(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number and (value >= 1 if isinstance(value, int) else 0 < value < 1)
    if not (value is None or value in ("mle", "denoise") or fits):
        raise ValueError(
            "a whole number >= 1, a share of the variance between 0 and 1 such as 0.95, 'mle', 'denoise' or null"
        )
    return value


def _one_or_more(value: object) -> Any:
    return [value] if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]
Names = Annotated[list[str], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]


class Section(BaseModel):
    """What all sections are: strict about types, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    def echo(self) -> dict[str, Any]:
        """As plain JSON values, defaults filled in and credentials masked."""
        masked: dict[str, Any] = secrets.masked_values(self.model_dump(mode="json"))
        return masked


class Sparse(Section):
    """Rows as two list columns: where the values stand, and the values."""

    indices: str
    """List column of column numbers, from 0."""
    values: str
    """List column of the values there."""
    n_features: int = Field(ge=1)
    """Width of a row."""


class Input(Section):
    """Which Parquet files make the matrix, and how they are cleaned."""

    path: Annotated[str | list[str], Field(min_length=1)]
    """A file, directory, glob pattern or URI, or a list of them; relative to where the command runs."""
    vector: str | None = None
    """A column that holds one list of numbers per row."""
    columns: Names | None = None
    """Scalar columns; without any choice all numeric ones, or the only vector column."""
    sparse: Sparse | None = None
    """Two list columns instead."""
    n_features: int | None = Field(default=None, ge=1)
    """Length of the lists in `vector`; found from the first rows otherwise."""
    carry: Names = []
    """Columns of any type that travel to the output beside the features."""
    weights: str | None = None
    """Numeric column of row frequencies: weight 2 counts a row twice."""
    filters: Annotated[list[Any] | None, BeforeValidator(lambda v: v if v is None else _conditions(v))] = None
    """Rows to keep: conditions [column, operator, value] that all hold, or lists of them of which one holds."""
    dtype: Literal["float32", "float64"] | None = None
    """Precision of the values; float32 by default if every feature is exact in it."""
    verify: Literal["hints", "content"] = "hints"
    """How files that were read before are known: by path, size, footer and time of change, or by all bytes too."""
    missing: Policy | dict[str, Policy] = "error"
    """What to do about nulls, NaN and infinities, for all columns or by column ("*" for all others)."""
    clip: Bounds | dict[str, Bounds] | None = None
    """[low, high] for all columns or by column; applied before `missing`."""
    clip_sd: float | None = Field(default=None, gt=0)
    """Clip at so many standard deviations from the mean; costs one more scan."""

    @model_validator(mode="after")
    def _one_layout(self) -> Input:
        given = [name for name in ("vector", "columns", "sparse") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one of vector, columns and sparse; found {' and '.join(given)}")
        if self.n_features is not None and self.vector is None:
            raise ValueError("n_features only with vector (within sparse for sparse rows); found it alone")
        return self


class Reduction(Section):
    """What to fit."""

    method: Literal["pca", "svd", "scale"] = "pca"
    """`pca` centres the columns, `svd` (truncated) does not, `scale` only standardizes them."""
    components: Annotated[int | float | Literal["mle", "denoise"] | None, BeforeValidator(_components)] = 0.95
    """How many: a number, a share of the variance to keep, `mle`, `denoise`, or null for the numerical rank."""
    scale: bool | None = None
    """Divide columns by their standard deviation: by default no for pca and svd, yes for scale."""
    center: bool = True
    """Only for scale: subtract the mean (false keeps sparse data sparse)."""
    whiten: bool = False
    """Only for pca: give every component unit variance."""
    solver: Literal["auto", "gram", "dual", "sketch"] = "auto"
    """How to compute: `auto` chooses by rows and columns; `explain` says which and why."""
    refine: bool = False
    """One more scan, for small singular values to full precision."""
    precision: Literal["auto", "float64"] = "auto"
    """`float64` multiplies float32 data in float64."""
    tol: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = TOL
    """For sketch: relative accuracy of the singular values, by their residuals; null takes all scans."""
    max_scans: int = Field(default=SCANS, ge=1)
    """For sketch: scans of the data that the fit may take."""
    max_components: int = Field(default=COMPONENTS, ge=1)
    """For sketch with a share of the variance: the most components that may be needed for it."""
    block_size: int | None = Field(default=None, ge=1)
    """For sketch: vectors multiplied in one scan; by default a quarter more than components. Fewer take less memory."""
    seed: int = 0
    """Where random numbers start."""

    @model_validator(mode="after")
    def _fits_the_method(self) -> Reduction:
        given = self.model_fields_set
        foreign = {
            "pca": {"center"},
            "svd": {"center", "whiten"},
            "scale": {
                *("components", "whiten", "solver", "refine", "precision"),
                *("tol", "max_scans", "max_components", "block_size"),
            },
        }[self.method] & given
        if foreign:
            name = sorted(foreign)[0]
            raise ValueError(f"no {name} with method: {self.method}; found {name}: {getattr(self, name)!r}, remove it")
        if self.method == "svd" and isinstance(self.components, str):
            raise ValueError(f"a number or null as components with method: svd; found {self.components!r}")
        return self


class Output(Section):
    """What is written, and where."""

    features: str | None = None
    """Directory of the reduced features."""
    model: str | None = None
    """Directory of the fitted model."""
    report: str | None = None
    """File of the run report (JSON)."""
    layout: Literal["list", "columns"] = "list"
    """One list column, or one column per feature."""
    column: str = "features"
    """Name of the list column."""
    prefix: str = "pc_"
    """Columns are called by it and a number from 0001."""
    dtype: Literal["float32", "float64"] | None = None
    """Precision of the features; the data's by default."""
    partition_by: str | None = None
    """A carried column that becomes directories, `column=value`."""
    part_bytes: Size | None = None
    """Least feature bytes of one file, such as 64MiB."""
    compression: Literal["zstd", "snappy", "lz4", "gzip", "none"] = "zstd"
    """Of the Parquet files."""
    overwrite: bool = False
    """Replace another job's model and features at these places."""
    state: bool = False
    """Save with the model what `eigenmill update` goes on from."""

    @model_validator(mode="after")
    def _something(self) -> Output:
        if self.features is None and self.model is None:
            raise ValueError("features or model, or both: a job without output is of no use; found neither")
        if self.state and self.model is None:
            raise ValueError("model, for the state is saved with it; found state: true without it")
        return self


class Engine(Section):
    """Where it runs."""

    kind: Literal["local", "dask", "spark"] = "local"
    """`local`: threads of this process; `dask`, `spark`: the workers of a cluster."""
    address: str | None = None
    """Only for dask: the scheduler, such as tcp://host:8786; DASK_SCHEDULER_ADDRESS by default."""
    master: str | None = None
    """Only for spark: the cluster, such as spark://host:7077; by default the session that spark-submit starts."""
    remote: str | None = None
    """Only for spark: a Spark Connect server, such as sc://host:15002."""
    workers: int | None = Field(default=None, ge=1)
    """Only for local: threads; all CPUs by default. Results do not depend on it."""
    memory: Size | None = None
    """Budget of the process (of one worker of a cluster), such as 2GiB: what does not fit is refused before reading."""
    work: str | None = None
    """Directory for what an interrupted run goes on from; by default hidden beside the output. All workers see it."""
    disk: Size | None = None
    """Only for local: room in work for decoded blocks between the scans of an iteration, such as 20GiB; else none."""
    save_every: float = Field(default=30.0, gt=0)
    """Only for local: seconds between checkpoints of a scan in progress."""

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Engine:
        own = {"local": {"workers", "disk", "save_every"}, "dask": {"address"}, "spark": {"master", "remote"}}
        for kind, names in own.items():
            given = sorted(n for n in names & self.model_fields_set if getattr(self, n) is not None)
            if kind != self.kind and given:
                advice = "a cluster has its own workers" if given[0] == "workers" else f"it belongs to kind: {kind}"
                raise ValueError(
                    f"no {given[0]} with kind: {self.kind}; found {given[0]}: "
                    f"{secrets.masked(str(getattr(self, given[0])))}, remove it: {advice}"
                )
        if self.master is not None and self.remote is not None:
            raise ValueError("one of master and remote; found both")
        return self


def present(value: object) -> Any:
    """An empty section is one with defaults."""
    return {} if value is None else value


class Job(Section):
    """One job of eigenmill: read, clean, fit, write."""

    input: Input
    reduce: Annotated[Reduction, BeforeValidator(present), Field(default_factory=Reduction)]
    output: Output
    engine: Annotated[Engine, BeforeValidator(present), Field(default_factory=Engine)]


@dataclass(frozen=True)
class JobFile(Sourced):
    """A job and the document that it came from."""

    job: Job


def load_job(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> JobFile:
    """The job in a YAML file.

    Args:
        path: the file.
        overrides: ``section.key=value`` each, put in before the job is checked; values are read as YAML.

    Raises:
        ConfigError: the file is missing or no YAML, or something in it is unknown or wrong; all such places are named.
    """
    return read_job(read(path, "a job file"), os.fspath(path), overrides)


def read_job(text: str, name: str, overrides: Sequence[str] = ()) -> JobFile:
    """As :func:`load_job`, from the text; ``name`` is for the messages."""
    job, document = read_as(Job, text, name, "a job file", overrides)
    return JobFile(document, job)


__all__ = ["Engine", "Input", "Job", "JobFile", "Output", "Reduction", "Sparse", "load_job", "read_job"]
