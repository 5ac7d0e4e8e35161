"""Saved models and states: JSON and safetensors, written whole, checked before allocating.

A model is a directory::

    arrays-<sha256>.safetensors    written first
    state-<sha256>.safetensors     only with a state, from which a fit goes on day by day
    model.json                     last: kind, parameters, and name, size and digest of the files above

``model.json`` holds no times and no absolute paths: the same model makes the same bytes. It is created if it is absent,
so of two who save into one new directory one is told. **A model that changes, or that has files beside it which belong
to it, is a chain** (:mod:`eigenmill.reduce.storage.chain`): whole directories as above, each under a name of its own,
of which the newest record names one. Then the files in the directory itself are a view.

Loading never executes code. **Digests detect damage, not forgery**: who can write a file can write a digest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, EigenmillError, OutputError
from eigenmill.reduce.storage import chain, exclusive, files, places, plain
from eigenmill.reduce.storage.model_record import FILE, FORMAT, VERSION, entry_of, publish, read_listed, read_record
from eigenmill.reduce.storage.tensors import Array, damaged

_MODEL = "model.json"
_VIEW = re.compile(FILE.pattern + r"|job\.json|_seen\.json")
"""Names in a model's directory that go when no file of the model has them any longer."""
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """A saved model: what it is, its plain parameters, its arrays by name, other plain values, its digest."""

    kind: str
    parameters: dict[str, Any]
    arrays: dict[str, Array]
    meta: dict[str, Any]
    digest: str


Beside = Callable[[str], Mapping[str, Any]]
"""From a model's digest to JSON values by the names of the files in which they belong to it."""


@dataclass(frozen=True)
class LoadedState:
    """A saved state: arrays by name for each named state, and plain values."""

    states: dict[str, dict[str, Array]]
    meta: dict[str, Any]


# Models


def save_model(
    path: str | os.PathLike[str],
    kind: str,
    parameters: Mapping[str, Any],
    arrays: Mapping[str, Array],
    meta: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Array]] | None = None,
    state_meta: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    replacing: str | None = None,
    beside: Beside | None = None,
    filesystem: object = None,
) -> str:
    """Saves a model as the directory ``path``; returns its digest. The same model again changes nothing.

    Args:
        path: a local path or URI; the directory is created.
        kind: what the model is, for whoever loads it.
        parameters: plain JSON values with string keys; floats are kept exactly, NaN and infinities refused.
        arrays: numeric or boolean arrays of any shape.
        meta: other plain JSON values.
        states: arrays of states by the state's name, kept in a file of their own.
        state_meta: plain JSON values that belong to the states.
        overwrite: replace another model, whichever it is.
        replacing: the digest of the model that may be replaced, and of no other one.
        beside: what is saved with the model, at once: see :data:`Beside`.
        filesystem: a ``pyarrow.fs`` or fsspec file system that ``path`` is on.

    Raises:
        ConflictError: another run has replaced the model ``replacing``.
        OutputError: another model is at ``path``, or it cannot be written.
        ArtifactError: a value cannot be saved.
    """
    fs, directory = places.resolve(path, filesystem)
    listed, held = {"arrays": entry_of("arrays", arrays)}, {"arrays": arrays}
    if states is not None:
        held["state"] = {f"{state}/{name}": a for state, inner in states.items() for name, a in inner.items()}
        if any("/" in state for state in states):
            raise ArtifactError(f"expected state names without '/', found {sorted(states)}; rename the states")
        empty = sorted(state for state, inner in states.items() if not inner)
        listed["state"] = {**entry_of("state", held["state"]), "meta": dict(state_meta or {}), "empty": empty}
    model = {
        "format": FORMAT,
        "version": VERSION,
        "kind": str(kind),
        "parameters": plain.checked(dict(parameters), "parameters"),
        "meta": plain.checked(dict(meta), "meta"),
        "arrays": listed["arrays"],
        "state": plain.checked(listed.get("state"), "state_meta"),
    }
    model["digest"] = plain.digest(model)
    notes = None if beside is None else {name: _json(value) for name, value in beside(model["digest"]).items()}
    saving = _Saving(fs, directory, model, held, notes)
    if places.is_local(fs):
        files.clean(fs, directory)
    while not saving.done(overwrite, replacing):
        pass
    return str(model["digest"])


def _json(value: Any) -> bytes:
    return b"".join(plain.pieces(value, indent=1)) + b"\n"


@dataclass(frozen=True)
class _Saving:
    """A model on its way to a directory: its record, arrays by part, and the files beside it."""

    fs: pafs.FileSystem
    directory: str
    model: Mapping[str, Any]
    held: Mapping[str, Mapping[str, Array]]
    notes: Mapping[str, bytes] | None

    def done(self, overwrite: bool, replacing: str | None) -> bool:
        """Takes the next step from what is there; False when it has changed meanwhile, and is to be looked at again."""
        found = _Found.at(self.fs, self.directory)
        if found.nothing:
            if replacing is not None:
                raise chain.ConflictError(
                    f"expected the model {replacing[:12]} at {self.directory}, found none; run again"
                )
            return self._first() and self.notes is None
        if found.digest != self.model["digest"]:
            found.refuse(str(self.model["digest"]), overwrite, replacing)
        elif found.generation is chain.NONE and self.notes is None:
            self._publish(lambda name: f"{self.directory}/{name}")
            return self._tidied()
        elif found.whole(self.notes):
            chain.show(self.fs, self.directory, _VIEW)
            return True
        notes = found.notes() if self.notes is None and found.digest == self.model["digest"] else self.notes or {}
        in_place = self._placed(found, notes)
        try:
            self._commit(found, notes, in_place=in_place)
        except chain.ConflictError:
            return False
        except exclusive.UnableError:
            if not in_place:
                raise
            return True  # a new model: nothing was there that two could have changed at once
        chain.show(self.fs, self.directory, _VIEW)
        return True

    def _publish(self, path: Callable[[str], str]) -> None:
        for part, arrays in self.held.items():
            publish(self.fs, path(self.model[part]["file"]), arrays, self.model[part])

    def _first(self) -> bool:
        """Saves into a directory without a model, unless another one is first."""
        self._publish(lambda name: f"{self.directory}/{name}")
        content = itertools.chain(plain.pieces(dict(self.model), indent=1), [b"\n"])
        if not exclusive.claim(self.fs, f"{self.directory}/{_MODEL}", content) or chain.newest(self.fs, self.directory):
            return False
        return self._tidied()

    def _tidied(self) -> bool:
        """Removes what killed attempts have left."""
        listed = [self.model[part]["file"] for part in self.held]
        for name in files.names(self.fs, self.directory):
            if FILE.fullmatch(name) and name not in listed:
                files.remove(self.fs, f"{self.directory}/{name}")
        return True

    def _placed(self, found: _Found, notes: Mapping[str, bytes]) -> bool:
        """Puts what is beside a new model into the directory itself; whether all files there may hold as they are."""
        if found.generation is not chain.NONE or found.digest != self.model["digest"]:
            return False
        paths = {f"{self.directory}/{name}": content for name, content in notes.items()}
        return all(
            exclusive.claim(self.fs, path, [content]) or exclusive.read(self.fs, path) == content
            for path, content in paths.items()
        )

    def _commit(self, found: _Found, notes: Mapping[str, bytes], *, in_place: bool) -> None:
        written = {
            entry["file"]: files.WrittenFile(entry["bytes"], entry["sha256"])
            for entry in (self.model[part] for part in self.held)
        }
        with chain.attempt(self.fs, self.directory, found.generation, in_place=in_place) as attempt:
            self._publish(attempt.path)
            for name, content in notes.items():
                written[name] = attempt.write(name, [content])
            written[_MODEL] = attempt.write(_MODEL, itertools.chain(plain.pieces(dict(self.model), indent=1), [b"\n"]))
            attempt.commit(written, found.sha256)


# Where a model lies


@dataclass(frozen=True)
class _Found:
    """What a directory holds: a generation, or a model in the directory itself, or nothing.

    Attributes:
        digest: of the model; None when there is none, or it is damaged: see ``reason``.
        sha256: of the file ``model.json`` that holds.
    """

    fs: pafs.FileSystem
    directory: str
    generation: chain.Generation
    digest: str | None = None
    sha256: str = ""
    reason: str = ""

    @property
    def nothing(self) -> bool:
        return self.generation is chain.NONE and not self.sha256

    @classmethod
    def at(cls, fs: pafs.FileSystem, directory: str) -> _Found:
        """What is there, and why it cannot be read if so."""
        number = chain.newest(fs, directory)
        generation = chain.Generation(number) if number else chain.NONE
        top = f"{directory}/{_MODEL}"
        try:
            generation = chain.read(fs, directory, number) if number else chain.NONE
            if generation is chain.NONE and not files.exists(fs, top):
                return cls(fs, directory, generation)
            digest = str(read_record(fs, _where(directory, generation, _MODEL))["digest"])
            sha256 = _digested(fs, top) if generation is chain.NONE else generation.files[_MODEL].sha256
            return cls(fs, directory, generation, digest, sha256)
        except (ArtifactError, FileNotFoundError, KeyError) as error:
            return cls(fs, directory, generation, None, _digested(fs, top) or "damaged", str(error))

    def refuse(self, wanted: str, overwrite: bool, replacing: str | None) -> None:
        """Refuses to put the model ``wanted`` in the place of this one."""
        if replacing is not None and self.digest != replacing:
            now = f"{self.digest[:12]}, by another run" if self.digest else f"one that cannot be read: {self.reason}"
            raise chain.ConflictError(
                f"expected the model {replacing[:12]} at {self.directory}, from which this run went on, found {now}; "
                "run again"
            )
        if replacing is not None or overwrite:
            return
        if self.digest is None:
            raise OutputError(
                f"expected no other model, found one that cannot be read: {self.reason}; or use overwrite=True"
            )
        raise OutputError(
            f"expected {self.directory}/{_MODEL} to be absent or the same model (digest {wanted[:12]}), found "
            f"{self.digest[:12]}; choose another path, or save with overwrite=True"
        )

    def notes(self) -> dict[str, bytes]:
        """The files beside the model that are whole."""
        found = {}
        for name in self.generation.files:
            if name != _MODEL and not FILE.fullmatch(name):
                with contextlib.suppress(ArtifactError, FileNotFoundError):
                    found[name] = chain.read_bytes(self.fs, self.directory, self.generation, name)
        return found

    def whole(self, notes: Mapping[str, bytes] | None) -> bool:
        """Whether every file of the generation is what it was, and those beside the model are ``notes``, if given."""
        held = self.generation.files
        if not held or (notes is not None and self.notes() != notes):
            return False
        return all(_digested(self.fs, self.generation.path(self.directory, name)) == held[name].sha256 for name in held)


def _digested(fs: pafs.FileSystem, path: str) -> str:
    """The SHA-256 of a file; nothing when there is none."""
    if not files.exists(fs, path):
        return ""
    with files.storage_errors(path, "read"):
        return files.digest_file(fs, path).sha256


def _where(directory: str, generation: chain.Generation, name: str) -> str:
    return f"{directory}/{name}" if generation is chain.NONE else generation.path(directory, name)


def has_model(path: str | os.PathLike[str], filesystem: object = None) -> bool:
    """Whether a model has been saved at ``path``; it may be damaged."""
    fs, directory = places.resolve(path, filesystem)
    return bool(chain.newest(fs, directory)) or files.exists(fs, f"{directory}/{_MODEL}")


@contextlib.contextmanager
def changing(path: str | os.PathLike[str], doing: str, filesystem: object = None) -> Iterator[None]:
    """A turn to read the model at ``path`` and to save what becomes of it; another process of this machine waits.

    Raises:
        OutputError: the file system cannot tell two runs apart.
    """
    fs, directory = places.resolve(path, filesystem)
    if not has_model(path, filesystem):
        yield
        return
    exclusive.require(fs, directory, doing)
    with chain.turn(fs, directory):
        yield


def load_model(path: str | os.PathLike[str], filesystem: object = None) -> Loaded:
    """The model saved at ``path``.

    Raises:
        ArtifactError: there is none, it is damaged, or of a newer format.
    """
    fs, directory = places.resolve(path, filesystem)
    model, arrays = _load(fs, directory, "arrays")
    return Loaded(model["kind"], model["parameters"], arrays, model["meta"], model["digest"])


def load_state(path: str | os.PathLike[str], filesystem: object = None) -> LoadedState:
    """The state saved with the model at ``path``.

    Raises:
        ArtifactError: as :func:`load_model`, or the model was saved without a state.
    """
    fs, directory = places.resolve(path, filesystem)
    model, arrays = _load(fs, directory, "state")
    states: dict[str, dict[str, Array]] = {name: {} for name in model["state"]["empty"]}
    for name, array in arrays.items():
        state, _, inner = name.partition("/")
        states.setdefault(state, {})[inner] = array
    return LoadedState(states, model["state"]["meta"])


def load_beside(path: str | os.PathLike[str], name: str, filesystem: Any = None) -> bytes | None:
    """The bytes of a file that was saved beside the model at ``path``; None when there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    fs, directory = places.resolve(path, filesystem)

    def read(generation: chain.Generation) -> bytes | None:
        if generation is not chain.NONE:
            return chain.read_bytes(fs, directory, generation, name) if name in generation.files else None
        with contextlib.suppress(FileNotFoundError):
            return files.read_bytes(fs, f"{directory}/{name}", files.MAX_LISTS, ArtifactError)
        return None

    return _holding(fs, directory, read)


def _load(fs: pafs.FileSystem, directory: str, part: str) -> tuple[dict[str, Any], dict[str, Array]]:
    def read(generation: chain.Generation) -> tuple[dict[str, Any], dict[str, Array]]:
        where = _where(directory, generation, _MODEL)
        try:
            model = read_record(fs, where)
        except FileNotFoundError:
            if generation is not chain.NONE:
                raise
            raise ArtifactError(f"expected a saved model, found no {where}; give the directory of a model") from None
        _check_view(fs, directory, generation)
        entry = model[part]
        if entry is None:
            raise ArtifactError(f"expected a state in {where}, found none; save the model with state=True")
        return model, read_listed(fs, _where(directory, generation, entry["file"]), entry)

    return _holding(fs, directory, read)


def _holding(fs: pafs.FileSystem, directory: str, read: Callable[[chain.Generation], T]) -> T:
    """What ``read`` finds in the generation that holds; when another one holds meanwhile, in that one."""
    generation = chain.head(fs, directory)
    while True:
        try:
            return read(generation)
        except (ArtifactError, OSError) as error:
            before, generation = generation, chain.head(fs, directory)
            if generation != before:
                continue
            if isinstance(error, FileNotFoundError) and not isinstance(error, EigenmillError):
                raise damaged(
                    f"{os.path.basename(str(error.filename or error))} in {directory}", "no such file"
                ) from error
            if isinstance(error, EigenmillError):
                raise
            raise ArtifactError(f"expected to read the model at {directory}, found: {error}; run again") from error


def _check_view(fs: pafs.FileSystem, directory: str, generation: chain.Generation) -> None:
    """Refuses a view that no record knows: then the newest records are gone, and an older model would seem to hold."""
    if generation is chain.NONE:
        return
    top = f"{directory}/{_MODEL}"
    found = _digested(fs, top)
    known = itertools.chain([generation], chain.earlier(fs, directory, generation))
    if found and not any(found in (each.files[_MODEL].sha256, each.replaces) for each in known):
        raise ArtifactError(
            f"expected {top} to be a model that {directory}/{chain.FOLDER} records, found another: a record is gone, "
            "or something else has written the model; restore the directory, or save again with overwrite=True"
        )


__all__ = [
    "Beside",
    "Loaded",
    "LoadedState",
    "changing",
    "has_model",
    "load_beside",
    "load_model",
    "load_state",
    "save_model",
]
