"""Discovery: which files a path, directory, glob, list or pyarrow dataset stands for, and where they live.

Hidden names (``_`` or ``.`` first) are skipped, as Spark and pyarrow do; every other file of a directory
counts, and one that is not Parquet is an error when its footer is read. A directory is read in the order of
its sorted paths, a list in its own order.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote

from pyarrow import fs

from eigenmill.reduce.errors import ConfigError, DataError, EigenmillError, SchemaError
from eigenmill.reduce.storage.places import Location, Store, locate
from eigenmill.reduce.storage.sequences import PackedTexts

MAGIC = re.compile(r"[*?\[]")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

PartitionValue = int | str | None


@dataclass(frozen=True)
class Listing:
    """Files below ``root`` in ``store``; ``files`` are relative to it and use ``/``.

    ``partitions`` holds the hive keys of each file; ``listed`` says that the files are all that directories
    or patterns hold, as against files that were named one by one.
    """

    store: Store
    root: str
    files: Sequence[str]
    partitions: Sequence[Mapping[str, PartitionValue]]
    listed: bool = False


def join(root: str, relative: str) -> str:
    """The full path of a file below ``root``."""
    return posixpath.join(root, relative) if root else relative


def discover(path: Location | Sequence[Location], filesystem: object = None) -> Listing:
    """The files that ``path`` stands for: str or Path, or a sequence of them; directory, glob, file or URI.

    Raises:
        SchemaError: nothing is there, or it belongs to a Delta, Iceberg or Hudi table.
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
    found: list[str] = []
    roots: list[str] = []
    for item in paths:
        root, files = _expand(store.filesystem, item, alone=items[0] is path)
        roots.append(root)
        found.extend(files)
    common = posixpath.commonpath(roots) if all(roots) else ""
    return listing(store, found, common, listed=not set(found) & set(paths))


def listing(store: Store, files: Sequence[str], root: str, *, listed: bool = False) -> Listing:
    """The listing of full paths ``files``, with the hive keys in them."""
    if len(set(files)) < len(files):
        twice = min(file for file, times in Counter(files).items() if times > 1)
        raise SchemaError(f"expected every file once, found {twice} more than once; remove it, or weight its rows")
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
    found = listing(Store(given=dataset.filesystem), files, posixpath.commonpath([posixpath.dirname(f) for f in files]))
    keys = tuple(ds.get_partition_keys(fragment.partition_expression) for fragment in dataset.get_fragments())
    return Listing(found.store, found.root, found.files, keys) if any(keys) else found


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


def _expand(filesystem: fs.FileSystem, path: str, *, alone: bool) -> tuple[str, list[str]]:
    """The root of one path, and the files it stands for."""
    info = _info(filesystem, path)
    if info.type == fs.FileType.NotFound and MAGIC.search(path):
        parts = path.split("/")
        fixed = next(i for i, part in enumerate(parts) if MAGIC.search(part))
        root = "/".join(parts[:fixed]) or ("/" if path.startswith("/") else "")
        _refuse_table(filesystem, root)
        files = sorted(_glob(filesystem, root, parts[fixed:]))
        if not files:
            raise SchemaError(
                f"expected files that match {path}, found none (hidden ones do not count); check the pattern"
            )
        return root, files
    if info.type == fs.FileType.NotFound:
        raise SchemaError(f"expected a file, directory or glob pattern, found nothing at {path}; check the path")
    if info.type == fs.FileType.File:
        # One file is a path like any other; in a list it is the user's word that the file is live.
        if alone:
            _refuse_table(filesystem, posixpath.dirname(path))
        return posixpath.dirname(path), [path]
    _refuse_table(filesystem, path)
    files = sorted(_walk(filesystem, path))
    if not files:
        raise SchemaError(f"expected files in the directory {path}, found none (hidden ones do not count)")
    return path, files


def _info(filesystem: fs.FileSystem, path: str) -> fs.FileInfo:
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise DataError(
            f"expected to find {path}, found an error: {error}; check the path, permissions and network"
        ) from error


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


def _walk(filesystem: fs.FileSystem, directory: str) -> Iterator[str]:
    """All files below a directory that are not hidden and not in a hidden directory."""
    infos = _list(filesystem, directory, recursive=True)
    _refuse_markers(infos)
    prefix = len(directory.rstrip("/")) + 1
    for info in infos:
        if info.type == fs.FileType.File and not any(map(_hidden, info.path[prefix:].split("/"))):
            yield info.path


def _glob(filesystem: fs.FileSystem, directory: str, patterns: Sequence[str]) -> set[str]:
    """Files that match; a matching directory stands for its files. ``**`` is any number of directories."""
    pattern, rest = patterns[0], patterns[1:]
    if pattern == "**" and not rest:
        return set(_walk(filesystem, directory))
    found = _glob(filesystem, directory, rest) if pattern == "**" else set()
    infos = _list(filesystem, directory)
    _refuse_markers(infos)
    for info in infos:
        name = posixpath.basename(info.path)
        if _hidden(name) and not _hidden(pattern):
            continue
        is_file = info.type == fs.FileType.File
        if pattern == "**":
            found |= set() if is_file else _glob(filesystem, info.path, patterns)
        elif fnmatchcase(name, pattern):
            if is_file:
                found |= set() if rest else {info.path}
            else:
                _refuse_table(filesystem, info.path, parents=False)
                found |= _glob(filesystem, info.path, rest) if rest else set(_walk(filesystem, info.path))
    return found


def _hidden(name: str) -> bool:
    # Spark and Hive read _key=value directories: an underscore may begin a partition key.
    return name.startswith(".") or (name.startswith("_") and not _is_hive(name))


_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}


def _refuse_markers(infos: Sequence[fs.FileInfo]) -> None:
    """Refuse a listing in which a table's metadata shows up."""
    for info in infos:
        directory, name = posixpath.split(info.path)
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
                _refuse_markers(_list(filesystem, logs[-1].path))
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
