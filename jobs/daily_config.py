"""The YAML file of a day-by-day job: how each day's files are read and reduced, and when drift asks for a new version.

:class:`Daily` is the whole file. Its sections ``input``, ``reduce`` and ``engine`` are those of :mod:`jobs.config`;
``output`` and ``drift`` are its own.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from jobs import redact
from jobs.config import Engine, Input, Job, JobFile, Output, Reduction, Section, Size
from jobs.document import Document, Step, parse, read
from reduce.errors import ConfigError

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


def _present(value: Any) -> Any:
    return {} if value is None else value


class Daily(Section):
    """A day-by-day job: one model that goes on, features in one directory per day, versions with a frozen basis."""

    input: Input
    reduce: Reduction
    drift: Annotated[Drift, BeforeValidator(_present), Field(default_factory=Drift)]
    output: DailyOutput
    engine: Annotated[Engine, BeforeValidator(_present), Field(default_factory=Engine)]

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
        read = {name: value for name, value in whole["input"].items() if name != "path"}
        looks = {name: value for name, value in whole["output"].items() if name not in ("path", "keep")}
        return {"input": read, "reduce": whole["reduce"], "output": looks}


@dataclass(frozen=True)
class DailyFile:
    """A day-by-day job and the document that it came from."""

    daily: Daily
    document: Document

    def job(self, day: str) -> JobFile:
        """The job of one day, from which data set, estimator, engine and sink are built as of any other."""
        spec = self.daily
        path = str(spec.input.path).replace(DAY, day)
        looks = spec.output.model_dump(exclude={"path", "keep"})
        output = Output(model=spec.output.path, state=True, overwrite=True, **looks)
        read = spec.input.model_copy(update={"path": path})
        return JobFile(Job(input=read, reduce=spec.reduce, output=output, engine=spec.engine), self.document)


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
    document = parse(read(path, "a day-by-day job"), os.fspath(path))
    if document.value is not None and not isinstance(document.value, dict):
        known = ", ".join(Daily.model_fields)
        raise ConfigError(f"{document.where(())}: expected the sections {known}, found no keys; write them")
    for assignment in overrides:
        document = document.with_override(assignment)
    try:
        return DailyFile(Daily.model_validate(document.value or {}), document)
    except ValidationError as error:
        raise ConfigError("\n".join(_complaint(item, document) for item in error.errors(include_url=False))) from None


def _complaint(item: Any, document: Document) -> str:
    """One line for one wrong place."""
    path = _inside(item["loc"], document.value or {})
    at = f"{document.where(path)}: {'.'.join(map(str, path))}: "
    kind, message = item["type"], str(item["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return f"{at}expected this key, found none; add it"
    if kind == "extra_forbidden":
        section: Any = Daily
        for step in path[:-1]:
            field = section.model_fields.get(str(step)) if hasattr(section, "model_fields") else None
            section = None if field is None else field.annotation
        known = ", ".join(getattr(section, "model_fields", {}))
        return f"{at}expected a key of this section, found {path[-1]!r}" + (f"; it knows {known}" if known else "")
    if kind == "value_error":
        return f"{at}expected {message.removeprefix('expected ')}"
    message = message[:1].lower() + message[1:]
    return f"{at}expected {message.removeprefix('input should be ')}, found {redact.text(repr(item['input'])[:80])}"


def _inside(location: Sequence[Step], value: Any) -> tuple[Step, ...]:
    """The location of an error without the names of types that pydantic puts into it."""
    path: list[Step] = []
    for i, step in enumerate(location):
        if (isinstance(value, Mapping) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            path.append(step)
            value = value[step]  # type: ignore[index]
        elif i + 1 == len(location) and isinstance(value, Mapping):
            path.append(step)
    return tuple(path)


__all__ = ["Daily", "DailyFile", "DailyOutput", "Drift", "checked_day", "load_daily"]
