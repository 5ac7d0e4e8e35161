"""What commands have found and done, as records: commands give them, and :mod:`eigenmill.jobs.shown` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eigenmill.reduce import Manifest


@dataclass(frozen=True)
class Column:
    """One column: counts of rows, and statistics of the finite values (None without any).

    ``n`` is the sum of the weights of the finite values; ``sd`` divides by n.
    """

    name: str
    n: float
    missing: int
    non_finite: int
    min: float | None
    max: float | None
    mean: float | None
    sd: float | None
    constant: bool

    @property
    def flawed(self) -> bool:
        return bool(self.missing or self.non_finite or self.constant or self.n == 0)


@dataclass(frozen=True)
class Applied:
    """The manifest of what a model has written, and the digest of that model, as ``model.json`` names it."""

    manifest: Manifest
    model: str

    def as_json(self) -> dict[str, Any]:
        """The content of ``_manifest.json``, and ``model_digest``."""
        return {**self.manifest.as_json(), "model_digest": self.model}


@dataclass(frozen=True)
class Reconstruction(Applied):
    """The same of the original columns, and how far they are from the input, if that was asked for.

    ``errors`` holds ``rows``, ``rmse`` by column, ``rmse_total`` and ``unexplained``: see
    :meth:`eigenmill.PCA.reconstruction_error`.
    """

    errors: dict[str, Any] | None


@dataclass(frozen=True)
class Update:
    """What a day's files have added."""

    files: int
    rows: int
    total_files: int
    total_rows: int
    digest: str
    changed: bool


@dataclass(frozen=True)
class Texts:
    """Sparse rows made of texts: their files, and the texts, columns and stored numbers in them."""

    path: str
    files: int
    documents: int
    features: int
    stored: int


__all__ = ["Applied", "Column", "Reconstruction", "Texts", "Update"]
