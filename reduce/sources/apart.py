"""No output is ever an input: what a command reads and what it writes lie apart, links followed, or it is refused.

Every command gives its inputs and its outputs to :func:`refuse` before it reads anything. An output may lie neither in
a directory that is read, nor where a pattern would find what it will hold, and no input or other output may lie in it.
Names that readers skip (``_`` or ``.`` first) are outside of what they lie in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from eigenmill.reduce.errors import ConfigError, DataError, OutputError
from eigenmill.reduce.sources.base import Source
from eigenmill.reduce.sources.discovery import MAGIC, braces, discover, hidden, join
from eigenmill.reduce.storage import links
from eigenmill.reduce.storage.places import Location, Store, is_local, locate

PARTS = ("part-00000.parquet", "key=value/part-00000.parquet")
"""Names in a directory of features."""


@dataclass(frozen=True)
class Place:
    """Where something lies: the store, and the path in it with links followed."""

    store: str
    path: str

    def below(self, other: Place) -> list[str] | None:
        """The names that lead here from ``other``; none if this is the other, None if it lies elsewhere."""
        if self.store != other.store:
            return None
        if self.path == other.path:
            return []
        outer = other.path.rstrip("/") + "/"
        return self.path.removeprefix(outer).split("/") if self.path.startswith(outer) else None


def refuse(
    inputs: Mapping[str, Location | Sequence[Location] | None],
    outputs: Mapping[str, Location | None],
    *,
    holds: Iterable[str] = PARTS,
    look: bool = True,
) -> None:
    """Refuse outputs that are inputs, or would be of a later run.

    Args:
        inputs: files, directories and patterns, by the names that the user knows them by.
        outputs: files and directories.
        holds: names of files as the outputs will have them, for patterns.
        look: also at the files that the inputs stand for, as far as they lie on a local disk.

    Raises:
        ConfigError: see above; an output is a link that leads back to itself, a pipe, a socket or a device.
        DataError: an input is not there.
        OutputError: the store of an output does not answer.
    """
    written = {name: _written(name, path) for name, path in outputs.items() if path is not None}
    for name, place in written.items():
        for other, outer in written.items():
            if name != other:
                _refuse_within(name, place, other, outer)
    for name, given in inputs.items():
        items = [] if given is None else [given] if isinstance(given, str | os.PathLike) else list(given)
        for item in items:
            for pattern in braces(os.fspath(item)) or [os.fspath(item)]:
                _refuse_pattern(name, pattern, written, holds)
            if look and is_local(locate(item)[0].filesystem):
                _refuse_listed(name, item, written)


def refuse_files(source: Source, outputs: Mapping[str, Location]) -> None:
    """Refuse outputs in which a file of ``source`` lies, or which are one."""
    written = {name: _written(name, path) for name, path in outputs.items()}
    if any(place.store == "" for place in written.values()):
        _refuse_each("the input", source.real_files(), written)


def _refuse_listed(name: str, item: Location, written: Mapping[str, Place]) -> None:
    """Refuse outputs that hold a file of an input."""
    store, path = locate(item)
    if not store.filesystem.get_file_info(path).is_file and links.entry(path) is None and not MAGIC.search(path):
        return  # whoever reads it says that it is not there
    found = discover(item)
    _refuse_each(name, links.reals(join(found.root, file) for file in found.files), written)


def _refuse_each(name: str, reals: Iterable[str], written: Mapping[str, Place]) -> None:
    for real in reals:
        for output, place in written.items():
            if Place("", real).below(place) is not None:
                raise _within(name, real, output, place)


def _refuse_pattern(name: str, text: str, written: Mapping[str, Place], holds: Iterable[str]) -> None:
    root, patterns = _split(text)
    for output, place in written.items():
        if not patterns:
            _refuse_within(output, place, name, root)
            _refuse_within(name, root, output, place)
            continue
        inner = root.below(place)
        if inner is not None and not any(map(hidden, inner)):
            raise _within(name, root.path, output, place)
        names = place.below(root)
        if names is not None and any(covers(patterns, [*names, *each.split("/")]) for each in ("", *holds)):
            raise ConfigError(
                f"expected {output} where the pattern of {name} ({'/'.join(patterns)} in {root.path}) finds nothing of "
                f"it, found {place.path}; choose another place, or a narrower pattern"
            )


def _split(text: str) -> tuple[Place, list[str]]:
    """The place before a pattern, and the pattern; a path without one has none."""
    store, path = locate(text)
    local = is_local(store.filesystem)
    if not MAGIC.search(path) or (local and os.path.lexists(path)):
        return _place(text), []
    parts = path.split("/")
    fixed = next(
        i
        for i, part in enumerate(parts)
        if MAGIC.search(part) and not (local and os.path.lexists("/".join(parts[: i + 1])))
    )
    root = "/".join(parts[:fixed]) or "/"
    return _at(store, root), parts[fixed:]


def covers(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a pattern finds the file of these names: itself, or a directory in which it lies."""
    names = [name for name in names if name]
    if not names:
        return False
    if not patterns:
        return not any(map(hidden, names))
    first, rest = patterns[0], patterns[1:]
    skipped = hidden(names[0]) and not hidden(first)
    if first == "**":
        if not rest:
            return not any(map(hidden, names))
        return covers(rest, names) or (not skipped and covers(patterns, names[1:]))
    if skipped or not fnmatchcase(names[0], first):
        return False
    return (len(names) == 1 and not rest) or covers(rest, names[1:])


def _place(path: Location) -> Place:
    return _at(*locate(path))


def _at(store: Store, path: str) -> Place:
    if is_local(store.filesystem):
        return Place("", os.path.realpath(path))
    return Place((store.uri or "").partition("?")[0], path)


def _written(name: str, path: Location) -> Place:
    """Where an output lies; what cannot be one is refused."""
    try:
        store, inner = locate(path)
    except DataError as error:
        raise OutputError(str(error)) from None
    if is_local(store.filesystem) and os.path.lexists(inner):
        if os.path.islink(inner) and not os.path.exists(inner):
            try:
                os.path.realpath(inner, strict=True)
            except FileNotFoundError:
                return _place(path)  # a link to what is to be made
            except OSError:
                raise ConfigError(
                    f"expected a place for {name}, found a link that leads back to itself at {inner}; remove it"
                ) from None
        try:
            links.entry(inner)
        except DataError as error:
            raise ConfigError(f"{name}: {error}") from None
    return _place(path)


def _refuse_within(name: str, place: Place, other: str, outer: Place) -> None:
    inner = place.below(outer)
    # A model under a name that readers skip may lie in the features.
    if inner is not None and not any(map(hidden, inner)):
        raise _within(name, place.path, other, outer)


def _within(name: str, path: str, other: str, outer: Place) -> ConfigError:
    return ConfigError(f"expected {name} apart from {other}, found {path} in {outer.path}; choose another place")


__all__ = ["PARTS", "Place", "covers", "refuse", "refuse_files"]
