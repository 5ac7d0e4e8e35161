"""The run report: what a job has done, as one JSON object."""

from __future__ import annotations

import math
import platform
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from eigenmill.reduce.plan import Outcome
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.about import versions


class Record(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Bytes(Record):
    """Encoded bytes."""

    input: int
    """Of the columns that one scan reads."""
    read: int
    """In all scans; by the share of the rows that were read."""
    written: int
    """Of the features, whether by this run or an earlier one."""


class ScanRecord(Record):
    """One pass over the input that has really happened."""

    name: str
    rows: int
    seconds: float
    rows_per_second: float


class Digests(Record):
    """What identifies input, model and output."""

    input: str
    model: str | None
    output: str | None


class Written(Record):
    """Where the results are."""

    features: str | None
    model: str | None
    rows: int | None
    parts: int | None
    names: list[tuple[str, str]]
    """Name and type of every column of the features."""


class RunReport(Record):
    """What a job has done.

    ``unchanged`` says that everything was there already, the features as their records say, and nothing was written.
    """

    format: Literal["eigenmill-report"] = "eigenmill-report"
    version: Literal[1] = 1
    status: Literal["complete", "unchanged"]
    known_by: Literal["footer", "hint", "content"] | None = None
    """If unchanged, by what the input is known to be the same: path, size and footer, also its time of change, or all
    its bytes; else left out."""
    resumed: bool
    """Whether it went on from an interrupted run."""
    fitted: bool
    """Whether the model was fitted by this run, as against found complete."""
    started: str
    method: str
    solver: str
    reason: str
    rows: int
    features: int
    components: int | None
    files: int
    fragments: int
    bytes: Bytes
    scans: list[ScanRecord]
    seconds: dict[str, float]
    """By stage, and in ``total``."""
    rows_per_second: float
    """Rows of the input by seconds in total."""
    peak_memory: int
    memory_limit: int | None
    workers: int | None
    explained_variance_ratio: list[float] | None
    explained_variance: float | None
    """Share of the variance that the components keep in all."""
    remade: list[str] = []
    """What an earlier run had left damaged, and this one has made again; left out when nothing was."""
    quality: dict[str, Any]
    digests: Digests
    output: Written
    versions: dict[str, str]
    job: dict[str, Any]
    """The job file with defaults filled in and credentials masked."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinities become null."""
        plain: dict[str, Any] = finite(self.model_dump(mode="json"))
        for name in ("remade", "known_by"):
            if not plain[name]:
                del plain[name]
        return plain

    def outcome(self) -> Outcome:
        """What the run has come to, in the terms of its plan: of a run that did all, and went on from nothing."""
        return Outcome(
            solver=self.solver,
            scans=[scan.name for scan in self.scans],
            rows=self.rows,
            components=self.components,
            files=self.output.parts,
            peak=self.peak_memory,
        )

    def save(self, path: str) -> None:
        """Write it to ``path``, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        fs, target = places.resolve(path)
        files.write_json(fs, target, self.as_json())


def all_versions() -> dict[str, str]:
    """What the bytes of the results may depend on."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **versions(),
    }


def finite(value: object) -> Any:
    """``value`` with NaN and infinities replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


__all__ = [
    "Bytes",
    "Digests",
    "RunReport",
    "ScanRecord",
    "Written",
    "all_versions",
    "finite",
]
