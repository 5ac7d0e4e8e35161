"""Discovery: which files a path, directory, glob, list or pyarrow dataset stands for, and where they live.

Hidden names (``_`` or ``.`` first) are skipped, as Spark and pyarrow do; every other file of a directory
counts, and one that is not Parquet is an error when its footer is read. A directory is read in the order of
its sorted paths, a list in its own order.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from urllib.parse import unquote

from pyarrow import fs

from eigenmill.reduce.errors import ConfigError, DataError, EigenmillError, SchemaError
from eigenmill.reduce.storage import links
from eigenmill.reduce.storage.links import Entry
from eigenmill.reduce.storage.places import Location, Store, is_local, locate
from eigenmill.reduce.storage.sequences import PackedTexts

log = logging.getLogger("eigenmill")
MAGIC = re.compile(r"[*?\[]")
BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

PartitionValue = int | str | None


@dataclass(frozen=True)
class Listing:
    """Files below ``root`` in ``store``; ``files`` are relative to it and use ``/``.

    ``partitions`` holds the hive keys of each file; ``listed`` says that the files are all that directories
    or patterns hold, as against files that were named one by one. ``hints`` say of each when it was changed last.
    """

    store: Store
    root: str
    files: Sequence[str]
    partitions: Sequence[Mapping[str, PartitionValue]]
    listed: bool = False
    hints: Sequence[str] = field(default=(), compare=False)


def join(root: str, relative: str) -> str:
    """The full path of a file below ``root``."""
    return posixpath.join(root, relative) if root else relative


def discover(path: Location | Sequence[Location], filesystem: object = None) -> Listing:
    """The files that ``path`` stands for: str or Path, or a sequence of them; directory, glob, file or URI.

    Raises:
        SchemaError: nothing is there, or it belongs to a Delta, Iceberg or Hudi table.
        DataError: a link leads nowhere, or there is a pipe, a socket or a device.
        ConfigError: ``filesystem`` is none, or paths of different file systems are mixed.
    """
    items: list[Location] = [path] if isinstance(path, str) or not isinstance(path, Sequence) else list(path)
    for item in items:
        if not isinstance(item, str | os.PathLike):
            raise ConfigError(f"expected a path (str or Path) or a list of paths, found {type(item).__name__}")
    if not items:
        raise SchemaError("expected at least one path, found an empty list")
    stores, paths = zip(*(locate(item, filesystem) for item in items), strict=True)
    store = stores[0]
    if any(other.filesystem != store.filesystem for other in stores):
        raise ConfigError(
            "expected all paths on one file system, found several; read them as one data set per file system"
        )
    found: list[Entry] = []
    roots: list[str] = []
    named = False
    for item in paths:
        root, search = _expand(store.filesystem, item, alone=items[0] is path)
        roots.append(root)
        found.extend(search.files())
        named = named or search.named
        if search.again:
            log.warning(
                "%d name(s) in %s lead to what is read under another name, such as %s; every file counts once",
                *(len(search.again), item, search.again[0]),
            )
    common = posixpath.commonpath(roots) if all(roots) else ""
    names = [entry.path for entry in found]
    _refuse_twice(names if not is_local(store.filesystem) else list(links.reals(names)))
    hints = PackedTexts(store.hint(entry.path, entry.modified) for entry in found)
    return replace(listing(store, names, common, listed=not named), hints=hints)


def _refuse_twice(files: Sequence[str]) -> None:
    if len(set(files)) < len(files):
        twice = min(file for file, times in Counter(files).items() if times > 1)
        raise SchemaError(f"expected every file once, found {twice} more than once; remove it, or weight its rows")


def listing(store: Store, files: Sequence[str], root: str, *, listed: bool = False) -> Listing:
    """The listing of full paths ``files``, with the hive keys in them."""
    _refuse_twice(files)
    relative = PackedTexts(posixpath.relpath(file, root) if root else file for file in files)
    return Listing(store, root, relative, hive_partitions(files), listed)


def from_dataset(dataset: object) -> Listing:
    """The live files of a pyarrow dataset over Parquet, as deltalake and pyarrow.dataset make it.

    Raises:
        ConfigError: it is no dataset of Parquet files, or it carries a filter.
    """
    import pyarrow.dataset as ds

    if not isinstance(dataset, ds.FileSystemDataset) or not isinstance(dataset.format, ds.ParquetFileFormat):
        raise ConfigError(
            f"expected a pyarrow dataset of Parquet files, found {type(dataset).__name__}; for anything else "
            "use Dataset.from_arrow(dataset.to_table()) if it fits into memory"
        )
    if (getattr(dataset, "_scan_options", None) or {}).get("filter") is not None:
        raise ConfigError("expected a pyarrow dataset without a filter, found one; give the filter as filters=")
    files = list(dataset.files)
    if not files:
        raise SchemaError("expected a pyarrow dataset with at least one file, found none")
    store = Store(given=dataset.filesystem)
    found = listing(store, files, posixpath.commonpath([posixpath.dirname(f) for f in files]))
    infos = store.filesystem.get_file_info(files)
    found = replace(found, hints=PackedTexts(store.hint(info.path, info.mtime_ns) for info in infos))
    keys = tuple(ds.get_partition_keys(fragment.partition_expression) for fragment in dataset.get_fragments())
    return replace(found, partitions=keys) if any(keys) else found


def hive_partitions(files: Sequence[str]) -> tuple[Mapping[str, PartitionValue], ...]:
    """The ``key=value`` directories of each path. A key with whole numbers in all files holds ints.

    Files of one directory have one mapping in common.
    """
    raw = {d: dict(p.split("=", 1) for p in d.split("/") if _is_hive(p)) for d in {posixpath.dirname(f) for f in files}}
    keys = {key for values in raw.values() for key in values}
    texts = {k: {unquote(v[k]) for v in raw.values() if k in v} - {HIVE_NULL} for k in keys}
    whole = {k: bool(texts[k]) and all(WHOLE_NUMBER.fullmatch(text) for text in texts[k]) for k in keys}

    def value(key: str, text: str) -> PartitionValue:
        return None if text == HIVE_NULL else int(text) if whole[key] else unquote(text)

    made = {directory: {unquote(k): value(k, v) for k, v in values.items()} for directory, values in raw.items()}
    return tuple(made[posixpath.dirname(f)] for f in files)


def _is_hive(part: str) -> bool:
    return part.find("=") > 0


def _expand(filesystem: fs.FileSystem, path: str, *, alone: bool) -> tuple[str, _Search]:
    """The root of one path, and the files it stands for."""
    search = _Search(filesystem)
    there = search.entry(path)
    if there is None and (alternatives := braces(path)):
        found = [_expand(filesystem, each, alone=alone) for each in alternatives]
        for _, other in found:
            search.take(other)
        return posixpath.commonpath([root for root, _ in found]), search
    if there is None and MAGIC.search(path):
        root, patterns = _fixed(search, path)
        _refuse_table(filesystem, root)
        search.run(root, patterns)
        if not search.found:
            raise SchemaError(
                f"expected files that match {path}, found none (hidden ones do not count); check the pattern"
            )
        return root, search
    if there is None:
        raise SchemaError(f"expected a file, directory or glob pattern, found nothing at {path}; check the path")
    if not there.directory:
        # One file is a path like any other; in a list it is the user's word that the file is live.
        if alone:
            _refuse_table(filesystem, posixpath.dirname(path))
        search.add(there)
        search.named = True
        return posixpath.dirname(path), search
    _refuse_table(filesystem, path)
    search.run(path, ["**"])
    if not search.found:
        raise SchemaError(f"expected files in the directory {path}, found none (hidden ones do not count)")
    return path, search


def braces(path: str) -> list[str]:
    """The paths that ``{a,b}`` in a path stands for, each of which must be there; none without such braces."""
    inner = BRACES.search(path)
    if inner is None:
        return []
    made = [path[: inner.start()] + each + path[inner.end() :] for each in inner[1].split(",")]
    return list(dict.fromkeys(all_ for each in made for all_ in braces(each) or [each]))


def _fixed(search: _Search, path: str) -> tuple[str, list[str]]:
    """The directory before a pattern, and the patterns below it. A name that is there as it stands is no pattern."""
    root, parts = "/" if path.startswith("/") else "", path.strip("/").split("/")
    while len(parts) > 1:
        below = join(root, parts[0])
        if MAGIC.search(parts[0]) and not (search.local and os.path.lexists(below)):
            break
        root, parts = below, parts[1:]
    return root, parts


class _Search:
    """The files that a path stands for, each real file once: under its own name rather than that of a link.

    Attributes:
        found: by where they really lie.
        again: names that lead to what was found under another name.
        named: whether a file was named by itself.
    """

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self.filesystem, self.local = filesystem, is_local(filesystem)
        self.real = links.Reals() if self.local else str
        self.found: dict[str, Entry] = {}
        self.again: list[str] = []
        self.named = False

    def files(self) -> list[Entry]:
        """What was found, in the order of the paths."""
        return sorted(self.found.values(), key=lambda entry: entry.path)

    def entry(self, path: str) -> Entry | None:
        """What a path stands for."""
        if self.local:
            return links.entry(path)
        try:
            info = self.filesystem.get_file_info(path)
        except OSError as error:
            raise DataError(
                f"expected to find {path}, found an error: {error}; check the path, permissions and network"
            ) from error
        return None if info.type == fs.FileType.NotFound else _of(info)

    def add(self, entry: Entry) -> None:
        """A file that was found, perhaps under another name before."""
        real = self.real(entry.path)
        before = self.found.setdefault(real, entry)
        if before.path != entry.path:
            self.found[real] = min(before, entry, key=lambda each: (each.path != real, each.path))
            self.again.append(max(before, entry, key=lambda each: (each.path != real, each.path)).path)

    def take(self, other: _Search) -> None:
        """What another search has found as well."""
        for each in other.found.values():
            self.add(each)
        self.again += other.again
        self.named = self.named or other.named

    def run(self, root: str, patterns: list[str]) -> None:
        """Files below ``root`` that match; a matching directory stands for its files.

        ``**`` is any number of directories. Links wait until all else has been looked at, and a directory that was
        looked at is not looked at again: a link to a directory above itself adds nothing.
        """
        if self.local:
            links.entry(root)
        waiting, linked = deque([(root, patterns)]), deque[tuple[str, list[str]]]()
        seen = set[tuple[str, int]]()
        while waiting or linked:
            directory, left = (waiting or linked).popleft()
            at = self.real(directory), len(left)
            if at in seen:
                self.again.append(directory)
                continue
            seen.add(at)
            for entry, rest in self._below(directory, left):
                (linked if entry.link else waiting).append((entry.path, rest))

    def _below(self, directory: str, patterns: list[str]) -> Iterator[tuple[Entry, list[str]]]:
        """The directories to look at next, with what must match below them; files that match are added."""
        pattern, rest = patterns[0], patterns[1:]
        if pattern == "**" and rest:
            yield from self._below(directory, rest)
        everything = pattern == "**" and not rest
        for entry in self._list(directory, pattern, flat=everything):
            matches = pattern == "**" or fnmatchcase(posixpath.basename(entry.path), pattern)
            if not entry.directory:
                if matches and not rest:
                    self.add(entry)
            elif pattern == "**":
                yield entry, patterns
            elif matches:
                _refuse_table(self.filesystem, entry.path, parents=False)
                yield entry, rest or ["**"]

    def _list(self, directory: str, pattern: str, *, flat: bool) -> Iterator[Entry]:
        """What lies in a directory and is not hidden; of a store also all below it if ``flat``."""
        if self.local:
            found = list(links.names(directory))
            _refuse_markers([path for _, path in found])
            for name, path in found:
                if not _skipped(name, pattern) and (pattern == "**" or fnmatchcase(name, pattern)):
                    there = links.entry(path)
                    if there is not None:  # else it was removed meanwhile
                        yield there
            return
        infos = _list(self.filesystem, directory, recursive=flat)
        _refuse_markers([info.path for info in infos])
        prefix = len(directory.rstrip("/")) + 1 if directory else 0
        for info in infos:
            if flat and (info.type != fs.FileType.File or any(map(hidden, info.path[prefix:].split("/")))):
                continue
            if flat or not _skipped(posixpath.basename(info.path), pattern):
                yield _of(info)


def _of(info: fs.FileInfo) -> Entry:
    directory = info.type == fs.FileType.Directory
    return Entry(info.path, directory, modified=None if directory else info.mtime_ns)


def _list(filesystem: fs.FileSystem, directory: str, *, recursive: bool = False) -> list[fs.FileInfo]:
    try:
        infos: list[fs.FileInfo] = filesystem.get_file_info(
            fs.FileSelector(directory, recursive=recursive, allow_not_found=True)
        )
    except OSError as error:
        raise DataError(
            f"expected to list the directory {directory}, found an error: {error}; check permissions and network"
        ) from error
    return infos


def _skipped(name: str, pattern: str) -> bool:
    return hidden(name) and not hidden(pattern)


def hidden(name: str) -> bool:
    """Whether readers skip a file or directory of this name."""
    # Spark and Hive read _key=value directories: an underscore may begin a partition key.
    return name.startswith(".") or (name.startswith("_") and not _is_hive(name))


_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}


def _refuse_markers(paths: Sequence[str]) -> None:
    """Refuse a listing in which a table's metadata shows up."""
    for path in paths:
        directory, name = posixpath.split(path)
        if name in _LOGS:
            raise _table(_LOGS[name], directory)
        if name.endswith(".metadata.json") and posixpath.basename(directory) == "metadata":
            raise _table("Iceberg", posixpath.dirname(directory))


def _refuse_table(filesystem: fs.FileSystem, directory: str, *, parents: bool = True) -> None:
    """Refuse a directory that is, or lies in, a table whose log says which of its files are live."""
    directories = [directory]
    while parents and (parent := posixpath.dirname(directories[-1])) not in ("", directories[-1]):
        directories.append(parent)
    try:
        for place in directories:
            logs = filesystem.get_file_info([join(place, name) for name in (*_LOGS, "metadata")])
            for info, kind in zip(logs, _LOGS.values(), strict=False):
                if info.type == fs.FileType.Directory:
                    raise _table(kind, place)
            if logs[-1].type == fs.FileType.Directory:
                _refuse_markers([info.path for info in _list(filesystem, logs[-1].path)])
    except EigenmillError:
        raise
    except OSError:
        return  # An object store may hide the parents from us; then they cannot be looked at.


def _table(kind: str, directory: str) -> SchemaError:
    how = {
        "Delta": "Dataset.from_pyarrow(deltalake.DeltaTable(path).to_pyarrow_dataset())",
        "Iceberg": "Dataset.from_parquet([task.file.file_path for task in table.scan().plan_files()]), "
        "once no task has delete_files (rewrite the table if one has)",
        "Hudi": "Dataset.from_parquet([...]) with the files of the latest commit",
    }[kind]
    return SchemaError(
        f"expected plain Parquet files, found a {kind} table in {directory}: it also holds files whose rows "
        f"were deleted or replaced, and reading them all would count those; give its live files: {how}"
    )
