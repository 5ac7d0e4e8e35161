"""The YAML file of a day-by-day job: how each day's files are read and reduced, and when drift asks for a new version.

:class:`Daily` is the whole file. Its sections ``input``, ``reduce`` and ``engine`` are those of
:mod:`eigenmill.jobs.reduction.config`; ``output`` and ``drift`` are its own.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from eigenmill.jobs.documents.complaints import read_as
from eigenmill.jobs.documents.document import Sourced, read
from eigenmill.jobs.reduction.config import Engine, Input, Job, JobFile, Output, Reduction, Section, Size, present
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.sources import apart

DAY = "{day}"
"""What stands for the day in ``input.path``."""


class Drift(Section):
    """When the published model no longer describes the data: one bound passed is enough. Null switches one off."""

    mean: float | None = Field(default=0.25, gt=0)
    """Largest change of a column's mean, in standard deviations that the published model has seen."""
    log_variance: float | None = Field(default=0.5, gt=0)
    """Largest change of the logarithm of a column's variance; 0.5 is a factor of 1.65."""
    angle: float | None = Field(default=15.0, gt=0, le=90)
    """Largest principal angle between the kept bases, in degrees."""


class DailyOutput(Section):
    """Where everything goes, and how the features look."""

    path: str
    """Directory of the model with its state, the published versions and the records of the days."""
    layout: Literal["list", "columns"] = "list"
    """One list column, or one column per feature."""
    column: str = "features"
    """Name of the list column."""
    prefix: str = "pc_"
    """Columns are called by it and a number from 0001."""
    dtype: Literal["float32", "float64"] | None = None
    """Precision of the features; the data's by default."""
    part_bytes: Size | None = None
    """Least feature bytes of one file, such as 64MiB."""
    compression: Literal["zstd", "snappy", "lz4", "gzip", "none"] = "zstd"
    """Of the Parquet files."""
    keep: int = Field(default=2, ge=1)
    """How many published versions stay, the current one included."""


class Daily(Section):
    """A day-by-day job: one model that goes on, features in one directory per day, versions with a frozen basis."""

    input: Input
    reduce: Reduction
    drift: Annotated[Drift, BeforeValidator(present), Field(default_factory=Drift)]
    output: DailyOutput
    engine: Annotated[Engine, BeforeValidator(present), Field(default_factory=Engine)]

    @field_validator("input")
    @classmethod
    def _names_the_day(cls, value: Input) -> Input:
        if not isinstance(value.path, str) or DAY not in value.path:
            raise ValueError(f"one path with {DAY} in it, such as data/day={DAY}; found {value.path!r}")
        return value

    @field_validator("reduce")
    @classmethod
    def _goes_on(cls, value: Reduction) -> Reduction:
        if value.method == "scale":
            raise ValueError("method pca or svd, which have a basis to compare; found scale")
        if not isinstance(value.components, int):
            raise ValueError(
                f"a whole number as components, which keeps the width of the features; found {value.components!r}"
            )
        if value.refine:
            raise ValueError("refine: false, for a state lacks the rows of earlier days; found true")
        return value

    def settings(self) -> dict[str, Any]:
        """What must stay as it is from day to day, as plain JSON values: another place of the input may not matter."""
        whole = self.model_dump(mode="json")
        read = {name: value for name, value in whole["input"].items() if name not in ("path", "verify")}
        looks = {name: value for name, value in whole["output"].items() if name not in ("path", "keep")}
        return {"input": read, "reduce": whole["reduce"], "output": looks}


@dataclass(frozen=True)
class DailyFile(Sourced):
    """A day-by-day job and the document that it came from."""

    daily: Daily

    def job(self, day: str) -> JobFile:
        """The job of one day, from which data set, estimator, engine and sink are built as of any other."""
        spec = self.daily
        path = str(spec.input.path).replace(DAY, day)
        looks = spec.output.model_dump(exclude={"path", "keep"})
        output = Output(model=spec.output.path, state=True, overwrite=True, **looks)
        read = spec.input.model_copy(update={"path": path})
        return JobFile(self.document, Job(input=read, reduce=spec.reduce, output=output, engine=spec.engine))


def checked_day(text: str) -> str:
    """``text`` when it is a date such as 2026-11-01.

    Raises:
        ConfigError: it is not.
    """
    try:
        found = datetime.date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise ConfigError(f"expected a day such as 2026-11-01, found {text!r}; give the first day of the data interval")
    return text


def load_daily(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DailyFile:
    """The day-by-day job in a YAML file.

    Args:
        path: the file.
        overrides: ``section.key=value`` each, put in before the job is checked.

    Raises:
        ConfigError: the file is missing or no YAML, or something in it is unknown or wrong; all such places are named.
    """
    daily, document = read_as(Daily, read(path, "a day-by-day job"), os.fspath(path), "a day-by-day job", overrides)
    found = DailyFile(document, daily)
    with found.blame("output"):
        days = daily.input.path.replace(DAY, "*") if isinstance(daily.input.path, str) else daily.input.path
        apart.refuse({"input.path": days}, {"output.path": daily.output.path}, look=False)
    return found


__all__ = ["Daily", "DailyFile", "DailyOutput", "Drift", "checked_day", "load_daily"]
