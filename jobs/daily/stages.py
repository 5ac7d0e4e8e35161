"""Day by day: fit, gate, project and publish the files of one day. A scheduler runs the stages in this order.

Every stage may be killed and run again, and a day that is done may be run again at any time: nothing changes then.

- :func:`fit` goes on from the saved state with the day's new files only; known files are skipped, late ones are
  appended, changed and vanished ones refused. After it the model equals, to the byte, a fit of all files in the order
  in which they came.
- :func:`gate` compares that candidate with the published model. The published basis stays frozen until a bound of
  ``drift`` is passed; then the candidate becomes a new version, aligned to the columns of the one before.
- :func:`project` writes the features of the day with the published model, or, when the gate has opened, those of all
  days again with the new version.
- :func:`publish` moves the pointer, when all that it will point to is whole.

Of two runs at once one waits for the other or is told (:mod:`eigenmill.jobs.daily.turns`). See
:mod:`eigenmill.jobs.daily.records` for what is where.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from eigenmill.jobs.daily import drift
from eigenmill.jobs.daily.config import DailyFile, checked_day
from eigenmill.jobs.daily.records import Fit, Gate, Place, Pointer, Project, Publish, R, Settings, Version, folder
from eigenmill.jobs.daily.turns import turn
from eigenmill.jobs.reduction.build import build_dataset, build_engine, build_estimator, sink_options, work_directory
from eigenmill.reduce import Dataset, Sink, load
from eigenmill.reduce.engines.base import Engine, Progress, one_blas_thread
from eigenmill.reduce.errors import ChangedInputError, ConfigError, OutputError
from eigenmill.reduce.estimators.base import Estimator
from eigenmill.reduce.estimators.saving import save
from eigenmill.reduce.output.manifest import MANIFEST, read_manifest
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.discovery import MAGIC
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.artifact import has_model
from eigenmill.reduce.storage.digest import digest_of, tag_of
from eigenmill.reduce.storage.places import Location

STAGES = ("fit", "gate", "project", "publish")


@dataclass(frozen=True)
class Done:
    """What a stage has done: whether anything has changed on disk, and its record."""

    stage: str
    day: str
    changed: bool
    record: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


# The stages


def fit(source: DailyFile, day: str, progress: Progress | None = None) -> Done:
    """Go on with the day's new files.

    Raises:
        ConfigError: another day is not done yet, or the job file says something else than on the days before.
        DataError: the day has no files, or they are not what they should be.
        ChangedInputError: a file that the model has seen is not what it was.
    """
    with _place(source) as place:
        return _fit(source, place, checked_day(day), progress)


def _fit(source: DailyFile, place: Place, day: str, progress: Progress | None) -> Done:
    _keep_settings(source, place)
    data = _day(source, day)
    listed = _listed(data)
    before = place.read(Fit, "days", day)
    if before is not None and before.files == listed:
        _check_seen(place, data)
        return Done("fit", day, False, before.as_json())
    _refuse_vanished(before, data, day)
    _refuse_unfinished(place, day)
    files.check_writable(*places.resolve(place.root))
    pointer = place.read(Pointer)
    _sink(source, place, 1 if pointer is None else pointer.version, day).check(data)
    changed, base, at = True, None, place.path("model")
    if has_model(at):
        model = load(at)
        base = model.digest_
        seen = model.snapshot().fingerprint
        with _engine(source, day, progress) as engine:
            model.partial_fit(data, engine=engine)
        changed = model.snapshot().fingerprint != seen
    else:
        model = build_estimator(source.daily.reduce)
        with _engine(source, day, progress) as engine:
            model.fit(data, engine=engine, keep_state=True)
    digest = str(model.digest_)
    if changed:
        place.step()
        digest = save(model.snapshot(), model.state(), at, replacing=base)
    place.reopen(day)
    record = Fit(day, listed, data.n_rows, digest)
    return Done("fit", day, place.write(record, "days", day), record.as_json())


def gate(source: DailyFile, day: str) -> Done:
    """Compare the day's candidate with the published model; prepare a new version when a bound is passed."""
    with _place(source) as place:
        return _gate(source, place, checked_day(day))


def _gate(source: DailyFile, place: Place, day: str) -> Done:
    fitted = _needed(place, Fit, day)
    decided = place.read(Gate, "days", day)
    if decided is not None and decided.candidate == fitted.candidate:
        return Done("gate", day, False, decided.as_json())
    candidate = load(place.path("model"))
    if candidate.digest_ != fitted.candidate:
        raise ConfigError(
            f"expected the model to be as the fit of {day} has left it ({fitted.candidate[:12]}), found "
            f"{str(candidate.digest_)[:12]}; finish the days in order"
        )
    pointer = place.read(Pointer)
    if pointer is None:
        record = Gate(day, fitted.candidate, None, 1, {})
        _prepare(place, record, candidate, None, None)
    else:
        published = load(place.path(pointer.model))
        with one_blas_thread():
            measures = drift.measure(published.snapshot(), candidate.snapshot(), source.daily.drift)
        opened = any(measure.passed for measure in measures.values())
        plain = {name: measure.as_json() for name, measure in measures.items()}
        record = Gate(day, fitted.candidate, pointer.version, pointer.version + 1 if opened else None, plain)
        if opened:
            with one_blas_thread():
                alignment = drift.align(
                    published.snapshot(), _alignment(_version(place, pointer.version)), candidate.snapshot()
                )
            _prepare(place, record, candidate, pointer.version, alignment)
    for number in place.versions():
        if number > (record.version or record.published or 0):
            place.remove_version(number)  # of an earlier candidate, never published
    return Done("gate", day, place.write(record, "days", day), record.as_json())


def project(source: DailyFile, day: str, progress: Progress | None = None) -> Done:
    """Write the features of the day by the published version, or of all days by a new one."""
    with _place(source) as place:
        return _project(source, place, checked_day(day), progress)


def _project(source: DailyFile, place: Place, day: str, progress: Progress | None) -> Done:
    decided = _needed(place, Gate, day)
    _same_candidate(place, day, decided.candidate)
    pointer, before = place.read(Pointer), place.read(Project, "days", day)
    if decided.version is not None and (pointer is None or decided.version > pointer.version):
        number, days = decided.version, list(place.days())
    elif pointer is not None:
        number, days = pointer.version, [day]
    else:
        raise ConfigError(f"expected a published version for {day}, found none; run the first day to its end")
    version = _version(place, number)
    model, alignment = load(place.path("versions", folder(number), "model")), _alignment(version)
    if model.digest_ != version.model:
        raise OutputError(
            f"expected the model of version {number} to have the digest {version.model[:12]}, found "
            f"{str(model.digest_)[:12]}; restore it"
        )
    written: dict[str, str] = {}
    transforms: list[str] = []
    changed = False
    for each in place.days().keys() - set(days):
        _sink(source, place, number, each).settle()
    with _engine(source, day, progress) as engine:
        for each in days:
            data = model.transform(_seen(source, place, each, _needed(place, Fit, each)))
            if alignment is not None:
                data = data.then(alignment.transform(data.dtype))
            sink = _sink(source, place, number, each)
            there = _digest(sink.path)
            known = before is not None and before.candidate == decided.candidate and before.features.get(each) == there
            if not known:
                place.step()
            manifest = engine.write(data, sink)
            written[each] = manifest.digest
            changed |= written[each] != there
            transforms = list(manifest.transforms)
    # An old day that is run again under a newer version has its features there, and its record as it was.
    if before is not None and before.candidate == decided.candidate and not changed:
        return Done("project", day, False, before.as_json())
    record = Project(day, decided.candidate, number, transforms, written)
    return Done("project", day, place.write(record, "days", day) or changed, record.as_json())


def publish(source: DailyFile, day: str) -> Done:
    """Point to the new version, or list the day under the published one; older versions are removed."""
    with _place(source) as place:
        return _publish(source, place, checked_day(day))


def _publish(source: DailyFile, place: Place, day: str) -> Done:
    projected = _needed(place, Project, day)
    _same_candidate(place, day, projected.candidate)
    done, pointer = place.read(Publish, "days", day), place.read(Pointer)
    if done is not None and done.candidate == projected.candidate:
        return Done("publish", day, False, done.as_json())
    number, now = projected.version, 0 if pointer is None else pointer.version
    if number < now:
        raise ConfigError(f"expected features of {day} by version {now}, found those of {number}; run project again")
    for each, digest in projected.features.items():
        found = _digest(place.path("versions", folder(number), "features", f"day={each}"))
        if found != digest:
            raise OutputError(
                f"expected the features of {each} by version {number} to have the digest {digest[:12]}, found "
                f"{'none' if found is None else found[:12]}; run project for {day} again"
            )
    version, at = _version(place, number), f"versions/{folder(number)}"
    days = {**(pointer.days if pointer is not None and number == now else {}), **projected.features}
    place.write(Pointer(number, f"{at}/model", version.model, f"{at}/features", dict(sorted(days.items()))))
    place.link(at)
    for old in place.versions():
        if old <= number - source.daily.output.keep:
            place.remove_version(old)
    record = Publish(day, projected.candidate, number)
    return Done("publish", day, place.write(record, "days", day), record.as_json())


def run_day(source: DailyFile, day: str, progress: Progress | None = None) -> list[Done]:
    """All stages of a day."""
    day = checked_day(day)
    with _place(source) as place:
        return [
            _fit(source, place, day, progress),
            _gate(source, place, day),
            _project(source, place, day, progress),
            _publish(source, place, day),
        ]


# What the stages share


@contextlib.contextmanager
def _place(source: DailyFile) -> Iterator[Place]:
    """The job's directory, in a turn: another run waits, or is told."""
    root = source.daily.output.path
    with turn(root) as mine:
        yield Place(root, mine)


@contextlib.contextmanager
def _engine(source: DailyFile, day: str, progress: Progress | None) -> Iterator[Engine]:
    """The engine; what an interrupted scan goes on from is removed when it ends well."""
    job = source.job(day)
    work = work_directory(job.job, digest_of(["daily", day]))
    with build_engine(job, work, progress) as engine:
        yield engine
    if work is not None:
        with contextlib.suppress(OutputError):
            fs, directory = places.resolve(work)
            files.remove(fs, directory, "directory")


def _day(source: DailyFile, day: str) -> Dataset:
    """The day's files; under a pattern other days may lie beside them."""
    job = source.job(day)
    data = build_dataset(job)
    if MAGIC.search(str(job.job.input.path)):
        parquet: Any = data.source
        data = replace(data, source=replace(parquet, listed=False))
    return data


def _check_seen(place: Place, data: Dataset) -> None:
    """Refuse files of equal size and footer that are others than those the model has seen."""
    seen.check(data.source, seen.of_model(place.path("model")))


def _listed(data: Dataset) -> list[list[Any]]:
    return [[f.path, f.size, f.digest] for f in data.source.files]


def _seen(source: DailyFile, place: Place, day: str, fitted: Fit) -> Dataset:
    """The day's files as the fit has seen them; later ones wait for a fit of their own."""
    data = _day(source, day)
    found = {f.path: f for f in data.source.files}
    for path, size, digest in fitted.files:
        if path not in found or (found[path].size, found[path].digest) != (size, digest):
            what = "another file" if path in found else "none"
            raise ChangedInputError(
                f"expected {path} of {day} as the model has seen it ({size} bytes, footer {digest}), found {what}; "
                "bring it back, or start anew with another output.path"
            )
    known = {path for path, _, _ in fitted.files}
    data = replace(data, source=data.source.only([i for i, f in enumerate(data.source.files) if f.path in known]))
    _check_seen(place, data)
    return data


def _sink(source: DailyFile, place: Place, number: int, day: str) -> Sink:
    """The features of a day by a version; what is replaced goes where nobody reads, beside the features of all days."""
    options = {**sink_options(source.job(day).job.output), "overwrite": True}
    at = ("versions", folder(number))
    return Sink(place.path(*at, "features", f"day={day}"), versions=place.path(*at, "replaced"), **options)


def _digest(path: Location) -> str | None:
    """The digest of the features at ``path``; None when they have not been finished.

    Raises:
        OutputError: their manifest is damaged.
    """
    fs, directory = places.resolve(path)
    return read_manifest(path).digest if files.exists(fs, f"{directory}/{MANIFEST}") else None


def _refuse_vanished(before: Fit | None, data: Dataset, day: str) -> None:
    gone = {path for path, _, _ in before.files} - {f.path for f in data.source.files} if before is not None else ()
    if gone:
        raise ChangedInputError(
            f"expected all files of {day} that the model has seen, found {min(gone)} gone; "
            "bring it back, or start anew with another output.path"
        )


def _refuse_unfinished(place: Place, day: str) -> None:
    """One day at a time: a candidate that waits for its gate must not be replaced."""
    begun = [other for other, names in place.days().items() if other != day and Publish.name not in names]
    if begun:
        raise ConfigError(
            f"expected all stages ({', '.join(STAGES)}) of {begun[0]} to be done before the fit of {day}, found it "
            f"begun; run them for {begun[0]} first"
        )


def _keep_settings(source: DailyFile, place: Place) -> None:
    """Refuse a job file that has changed what must stay as it is."""
    now, recorded = source.daily.settings(), place.read(Settings)
    if recorded is None:
        place.write(Settings(now))
        return
    for section, keys in recorded.settings.items():
        for key, value in keys.items():
            if now.get(section, {}).get(key) != value:
                raise ConfigError(
                    f"{source.document.where((section, key))}: {section}.{key}: expected {value!r} as on the days "
                    f"before, found {now.get(section, {}).get(key)!r}; change it back, or start anew with another "
                    "output.path"
                )


def _needed(place: Place, kind: type[R], day: str) -> R:
    found = place.read(kind, "days", day)
    if found is None:
        stage = tag_of(kind).name
        raise ConfigError(f"expected the stage {stage} of {day} to be done, found no record of it; run {stage} first")
    return found


def _same_candidate(place: Place, day: str, candidate: str) -> None:
    """Refuse to go on from a gate or projection that belongs to an earlier fit of the day."""
    kinds: tuple[type[Fit], type[Gate]] = (Fit, Gate)
    for kind in kinds:
        found: Fit | Gate = _needed(place, kind, day)
        if found.candidate != candidate:
            raise ConfigError(
                f"expected the records of {day} to be of one model ({candidate[:12]}), found {kind.name} of "
                f"{found.candidate[:12]}; run the stages after fit again"
            )


def _version(place: Place, number: int) -> Version:
    found = place.read(Version, "versions", folder(number))
    if found is None:
        raise OutputError(f"expected version {number} at {place.path('versions')}, found none; restore it")
    return found


def _alignment(version: Version) -> drift.Alignment | None:
    return None if version.alignment is None else drift.Alignment.from_json(version.alignment)


def _prepare(
    place: Place, decided: Gate, candidate: Estimator, before: int | None, alignment: drift.Alignment | None
) -> None:
    """Put the candidate, without its state, where the new version will be; what an older try left there goes."""
    number = int(decided.version or 0)
    at = ("versions", folder(number))
    found = place.read(Version, *at)
    if found is not None and found.candidate == decided.candidate:
        return
    place.remove_version(number)
    digest = candidate.save(place.path(*at, "model"))
    aligned = None if alignment is None else alignment.as_json()
    place.write(Version(number, decided.day, decided.candidate, digest, before, aligned), *at)


__all__ = ["STAGES", "Done", "fit", "gate", "project", "publish", "run_day"]
