"""``job.json`` beside a model's files: which job fitted it, so that the same job need not fit again.

It also says how the job read its input (weights, filters, carried columns), which a model does not hold, so that
``eigenmill update`` and ``eigenmill transform`` read new files the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eigenmill.jobs.reduction.build import build_estimator, filters_of
from eigenmill.jobs.reduction.config import Job
from eigenmill.reduce import Dataset, load
from eigenmill.reduce.errors import REMADE, ArtifactError, ChangedInputError, OutputError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.estimators.record import fingerprint
from eigenmill.reduce.estimators.saving import names_to_json, save
from eigenmill.reduce.rows.cleaning import MEAN, Resolved
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.catalog import FileInfo
from eigenmill.reduce.storage import places, plain
from eigenmill.reduce.storage.artifact import has_model, load_beside
from eigenmill.reduce.storage.digest import digest_of, items_of, tag_of, tagged

log = logging.getLogger("eigenmill")
NAME = "job.json"
FORMAT = "eigenmill-fitted"


@tagged("Fitted", "key model carry weights filters")
@dataclass(frozen=True)
class Fitted:
    """What ``job.json`` says.

    Attributes:
        key: digest of input, cleaning and parameters; empty when unknown.
        model: digest of the model that belongs to it.
        carry, weights, filters: as in the job's input.
    """

    key: str = ""
    model: str = ""
    carry: list[str] = field(default_factory=list)
    weights: str | None = None
    filters: list[Any] | None = None

    def reading(self) -> dict[str, Any]:
        """Keywords of ``Dataset.from_parquet`` beside the layout."""
        return {"carry": self.carry, "weights": self.weights, "filters": filters_of(self.filters)}


def fit_key(job: Job, data: Dataset) -> str:
    """The digest of everything that a fitted model depends on."""
    parameters = build_estimator(job.reduce).get_params(deep=False)
    return digest_of([data.digest, data.cleaning, job.reduce.method, parameters, job.output.state])


def save_fitted(
    model: Any,
    path: str,
    fitted: Fitted,
    *,
    state: bool = False,
    overwrite: bool = False,
    replacing: str | None = None,
    seen_files: Iterable[FileInfo] = (),
) -> str:
    """Save a model with its ``job.json``, both at once; returns the model's digest, which the file names."""

    def beside(digest: str) -> dict[str, Any]:
        return {NAME: {"format": FORMAT, **dict(items_of(replace(fitted, model=digest)))}}

    record = model.state() if state else None
    return save(
        model.snapshot(), record, path, overwrite=overwrite, replacing=replacing, beside=beside, seen_files=seen_files
    )


def load_fitted(path: str) -> Fitted:
    """What ``job.json`` at ``path`` says; the empty record when there is none.

    Raises:
        ArtifactError: it is damaged, or of another format: how the model's rows were read would be lost.
    """
    where, names = places.below(path, NAME), {name: attribute for attribute, name in tag_of(Fitted).fields}
    content = load_beside(path, NAME)
    if content is None:
        return Fitted()
    value = plain.parse(content, where, ArtifactError)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT or not set(value) <= set(names):
        raise ArtifactError(
            f"expected {where} to say which job fitted the model ({FORMAT}), found something else; the file is damaged "
            "or of a newer eigenmill: restore it, or run the job again"
        )
    return Fitted(**{names[name]: each for name, each in value.items()})


def open_fitted(path: str) -> tuple[Estimator, Fitted]:
    """The model saved at ``path``, and what its ``job.json`` says.

    Raises:
        ArtifactError: either is damaged, or the file is of another model: its weights and filters would be wrong.
    """
    while True:
        model, fitted = load(path), load_fitted(path)
        if fitted.model in ("", model.digest_):
            return model, fitted
        if load(path).digest_ == model.digest_:  # else both have been replaced between the two reads
            raise ArtifactError(
                f"expected {places.below(path, NAME)} to be of the model there ({str(model.digest_)[:12]}), found "
                f"that of {fitted.model[:12]}; restore it, or run the job again"
            )


def _noted(path: str) -> Fitted:
    """What is known of the job that fitted the model at ``path``; a damaged note costs a fit, which makes it again."""
    try:
        return load_fitted(path)
    except ArtifactError as error:
        log.warning("%s; the model is fitted again", error, extra=REMADE)
        return Fitted()


def found_model(job: Job, data: Dataset, key: str) -> Estimator | None:
    """The model of this very job if it has been fitted and saved; None when it must be fitted.

    Raises:
        OutputError: another model is there, which saving would have to replace; found out before anything is read.
        ArtifactError: the model there is damaged.
    """
    path = job.output.model
    if path is None or not has_model(path):
        return None
    model, fitted = load(path), _noted(path)
    if (fitted.key, fitted.model) == (key, model.digest_):
        try:
            seen.check(data.source, seen.of_model(path))
        except ChangedInputError as error:
            if job.output.overwrite:
                return None
            raise OutputError(
                f"expected output.model to be absent or fitted to this input at {path}; {error}, by another path or "
                "with output.overwrite: true"
            ) from error
        return model
    if job.output.overwrite:
        return None
    difference = _difference(model.snapshot(), job, data)
    if difference is not None:
        raise OutputError(
            f"expected output.model to be absent or fitted by this same job, found one with {difference} at {path}; "
            "choose another path, or set output.overwrite: true"
        )
    return None


def _difference(model: Snapshot, job: Job, data: Dataset) -> str | None:
    """In what a saved model differs from the one that the job would fit, as far as one can tell."""
    wanted = build_estimator(job.reduce)
    if model.kind != wanted.kind:
        return f"method {model.kind} instead of {wanted.kind}"
    mine, theirs = wanted.get_params(deep=False), model.parameters
    for name, value in mine.items():
        if theirs.get(name) != value:
            return f"{name}={theirs.get(name)!r} instead of {value!r}"
    if names_to_json(model.names) != names_to_json(_named(data)):
        return "other features"
    if model.fingerprint["digest"] != seen_digest(data):
        return f"another input of {model.fingerprint['rows']} rows"
    policy, learnt = data.cleaning.resolve(data.feature_names), model.cleaning
    if not _same_policy(policy, learnt, limits=data.cleaning.clip_sd is None):
        return "another cleaning policy"
    return None


def _named(data: Dataset) -> Sequence[str]:
    names = data.feature_names
    return names if hasattr(names, "prefix") else tuple(names)


def seen_digest(data: Dataset) -> str | None:
    """The fingerprint that a model fitted to ``data`` records."""
    digest: str | None = fingerprint(data.source.files, data.n_rows)["digest"]
    return digest


def _same_policy(wanted: Resolved, learnt: Resolved, *, limits: bool) -> bool:
    fills = (wanted.code == learnt.code).all() and (
        (wanted.fill == learnt.fill) | (wanted.code == MEAN) | (wanted.fill != wanted.fill)
    ).all()
    if not limits:
        return bool(fills)
    return bool(fills) and digest_of([wanted.low, wanted.high]) == digest_of([learnt.low, learnt.high])


__all__ = ["Fitted", "fit_key", "found_model", "load_fitted", "open_fitted", "save_fitted", "seen_digest"]
