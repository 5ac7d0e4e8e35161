"""Sink: where features go, as Parquet parts that appear whole, and an output that can be resumed.

An output is a directory. Its files, in the order in which they appear::

    _job.json              the job's key: what is written, from which input, by which model, in which parts
    part-00000.parquet     a part: the rows of a run of consecutive fragments, in order
    _parts/00000.json      its record: rows, bytes and SHA-256 of its files
    _manifest.json         all records, schema, input and model
    _SUCCESS               empty, and last; `_parts/` and `_job.json` are removed after it

With ``partition_by`` a part is one file per value, ``key=value/part-00000.parquet``.

Who lists the directory at any moment finds complete Parquet files only, for readers skip names that start
with ``_`` or ``.``. The bytes depend on data, model and options, not on who wrote them, when, or how often.

Overwriting writes a hidden version beside (``.NAME.v000002``) and then makes ``NAME`` a link to it. The last
finished version before it is kept, older ones are removed. A reader that must not see the change between
listing and opening reads ``os.path.realpath(NAME)``. One job at a time writes to one path.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from reduce import files
from reduce.blocks import Array, Block
from reduce.dataset import Dataset, Fragment, Source
from reduce.errors import ChangedInputError, ConfigError, DataError, OutputError, SchemaError

FORMAT, VERSION = "eigenmill-output", 1
PART_BYTES = (4 << 20, 128 << 20)
"""Bounds of a part's feature bytes; between them an output has about 64 parts. Format constants."""
GROUP_BYTES, GROUP_ROWS = 32 << 20, 1_000_000
"""A row group ends at so many bytes of features, or of carried columns, or rows. Format constants."""
PARTITION_BYTES = 128 << 20
"""What a partitioned part gathers before it writes one file per value. A format constant."""
PARTITION_VALUES = 4096
"""Most values of ``partition_by`` within one part."""
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

Layout = Literal["list", "columns"]
LAYOUTS = ("list", "columns")
COMPRESSIONS = ("zstd", "snappy", "lz4", "gzip", "none")

_JOB, _MANIFEST, _SUCCESS, _RECORDS = "_job.json", "_manifest.json", "_SUCCESS", "_parts"
_PART_FILE = re.compile(r"(?:[^/]+=[^/]+/)?part-(\d{5,})(?:-\d+)?\.parquet")


# What a user asks for


@dataclass(frozen=True)
class Sink:
    """An output to be written.

    Args:
        path: the directory: a local path, or a URI such as ``s3://bucket/features``.
        filesystem: a ``pyarrow.fs`` or fsspec file system that ``path`` is on.
        layout: ``"list"`` one fixed-size-list column; ``"columns"`` one column per feature.
        column: name of the list column.
        prefix: columns are called ``prefix`` and a number from 1 with at least four digits ...
        names: ... or these names, as many as there are features.
        dtype: ``float32``, ``float64``, or None for the data's.
        partition_by: a carried column that becomes directories ``column=value``; nulls and empty strings
            go to ``__HIVE_DEFAULT_PARTITION__``, as in Spark.
        part_bytes: least feature bytes of a part; None for about 64 parts of 4 to 128 MiB.
        compression: ``zstd`` (level 1), ``snappy``, ``lz4``, ``gzip`` or ``none``.
        overwrite: replace another job's output at ``path``; local file systems only.

    Raises:
        ConfigError: an argument is out of range.
    """

    path: str | os.PathLike[str]
    filesystem: Any = None
    layout: Layout = "list"
    column: str = "features"
    prefix: str = "pc_"
    names: Sequence[str] | None = None
    dtype: Any = None
    partition_by: str | None = None
    part_bytes: int | None = None
    compression: str = "zstd"
    overwrite: bool = False

    def __post_init__(self) -> None:
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("compression", self.compression, COMPRESSIONS)
        if self.dtype is not None:
            try:
                name = np.dtype(self.dtype).name
            except TypeError:
                name = repr(self.dtype)
            object.__setattr__(self, "dtype", name)
            _one_of("dtype", name, ("float32", "float64"))
        if self.part_bytes is not None and (isinstance(self.part_bytes, bool) or self.part_bytes < 1):
            raise ConfigError(f"expected part_bytes to be a positive number of bytes, found {self.part_bytes!r}")
        if self.names is not None:
            if self.layout == "list":
                raise ConfigError("expected names only with layout='columns', found layout='list'; drop one")
            object.__setattr__(self, "names", tuple(str(n) for n in self.names))

    def open(self, data: Dataset) -> Job:
        """Begins the job that writes ``data`` here, or finds how far it came. Reads no input but metadata.

        Raises:
            OutputError: the output belongs to another job or is damaged, or cannot be written.
            ConfigError, SchemaError: the options do not fit the data.
        """
        fs, path = files.resolve(self.path, self.filesystem)
        job, description = _describe(self, data, path)
        if files.is_local(fs):
            path = files.follow_foreign_links(path)
            files.finish_pointing(path)
            link = path if files.current_version(path) else None
            job = replace(job, directory=os.path.realpath(path), link=link)
        try:
            found = _look(fs, job.directory)
            if found.state == "nothing":
                return _start(fs, job, description)
            if found.key == job.key:
                return _go_on(fs, job)
            raise OutputError(_refusal(found, job))
        except OutputError:
            # A damaged output of the same job is replaced as well; a directory of someone else's never is.
            if not self.overwrite or _look(fs, job.directory).state not in ("begun", "finished"):
                raise
        return _open_version(fs, job, description, path)


def _one_of(option: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"expected {option} to be one of {', '.join(allowed)}, found {value!r}")


# What is planned and what is done


@dataclass(frozen=True, slots=True)
class Part:
    """A run of consecutive fragments that becomes one part.

    ``rows`` is an upper bound: transforms may drop rows. ``source`` lists (file, start, stop): row groups
    ``start:stop`` of the input file with that number (rows ``start:stop`` of an array).
    """

    index: int
    fragments: range
    rows: int
    source: tuple[tuple[int, int, int], ...]

    @property
    def name(self) -> str:
        return f"part-{self.index:05d}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A finished file: ``path`` relative to the output directory, its rows and bytes, SHA-256 in hex."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A finished part: its files (none when a partitioned part has no rows), and where it came from."""

    index: int
    rows: int
    files: tuple[FileRecord, ...]
    source: tuple[tuple[int, int, int], ...]

    @classmethod
    def from_json(cls, value: Any, where: str) -> PartRecord:
        """Raises OutputError when ``value`` is not what ``asdict`` made of a record."""
        _expect(value, {"index": int, "rows": int, "files": list, "source": list}, where)
        for item in value["files"]:
            _expect(item, {"path": str, "rows": int, "bytes": int, "sha256": str}, where)
            _check_relative(item["path"], where)
        for item in value["source"]:
            if not (isinstance(item, list) and len(item) == 3 and all(type(i) is int for i in item)):
                raise OutputError(f"expected sources (file, start, stop) in {where}, found {item!r}; {_RESTORE}")
        if sum(item["rows"] for item in value["files"]) != value["rows"]:
            raise OutputError(f"expected the rows of part {value['index']} to add up in {where}; {_RESTORE}")
        return cls(
            value["index"],
            value["rows"],
            tuple(FileRecord(**item) for item in value["files"]),
            tuple((a, b, c) for a, b, c in value["source"]),
        )


@dataclass(frozen=True)
class Manifest:
    """What an output is: ``_manifest.json``, checked.

    Attributes:
        key: digest of options, input, model and part plan.
        model: digest of the chain of transforms; ``transforms`` has one digest for each.
        options: how features are laid out.
        input: what was read: rows, features, and files (path, size, digest) or the content's digest.
        schema: (name, type) of every column, the partition column included.
        rows: rows written.
        parts: their records, in order.
        versions: of the packages that wrote the manifest.
    """

    key: str
    model: str
    transforms: tuple[str, ...]
    options: Mapping[str, Any]
    input: Mapping[str, Any]
    schema: tuple[tuple[str, str], ...]
    rows: int
    parts: tuple[PartRecord, ...]
    versions: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for part in self.parts for file in part.files)

    def as_json(self) -> dict[str, Any]:
        """The content of ``_manifest.json``."""
        value = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return {**value, "digest": files.digest(value)}


def read_manifest(path: str | os.PathLike[str], filesystem: Any = None) -> Manifest:
    """The manifest of a finished output.

    Raises:
        OutputError: there is none, or it is damaged, of a newer format, or names files outside the directory.
    """
    fs, directory = files.resolve(path, filesystem)
    return _read_manifest(fs, directory)


def _read_manifest(fs: pafs.FileSystem, directory: str) -> Manifest:
    where = f"{directory}/{_MANIFEST}"
    try:
        value = files.read_json(fs, where)
    except FileNotFoundError as error:
        raise OutputError(f"expected a finished output in {directory}, found no {_MANIFEST}; finish the job") from error
    _expect_format(value, FORMAT, where)
    fields: dict[str, type] = {
        "key": str,
        "model": str,
        "transforms": list,
        "options": dict,
        "input": dict,
        "schema": list,
    }
    fields |= {"rows": int, "parts": list, "versions": dict, "format": str, "version": int, "digest": str}
    _expect(value, fields, where)
    stated = value.pop("digest")
    if stated != files.digest(value):
        raise OutputError(f"expected {where} to have the digest {stated}, found {files.digest(value)}; {_RESTORE}")
    del value["format"], value["version"]
    parts = tuple(PartRecord.from_json(part, where) for part in value.pop("parts"))
    if [p.index for p in parts] != list(range(len(parts))) or sum(p.rows for p in parts) != value["rows"]:
        raise OutputError(f"expected the parts in {where} to be whole and to have {value['rows']} rows; {_RESTORE}")
    schema, transforms = value.pop("schema"), value.pop("transforms")
    pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in schema)
    if not pairs or not all(isinstance(text, str) for text in [*transforms, *(t for pair in schema for t in pair)]):
        raise OutputError(f"expected pairs (name, type) as schema and digests as transforms in {where}; {_RESTORE}")
    columns = tuple((name, kind) for name, kind in schema)
    return Manifest(**value, transforms=tuple(transforms), schema=columns, parts=parts)


_RESTORE = "the file is damaged or not ours: restore it, or write the output again"


def _expect(value: Any, fields: Mapping[str, type], where: str) -> None:
    if not isinstance(value, dict) or set(value) != set(fields):
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise OutputError(f"expected the fields {sorted(fields)} in {where}, found {found}; {_RESTORE}")
    for name, kind in fields.items():
        if type(value[name]) is not kind or (kind is int and value[name] < 0):
            raise OutputError(
                f"expected {name} in {where} to be {kind.__name__}, found {value[name]!r:.80}; {_RESTORE}"
            )


def _expect_format(value: Any, kind: str, where: str) -> None:
    found = (value.get("format"), value.get("version")) if isinstance(value, dict) else (None, None)
    if found != (kind, VERSION):
        raise OutputError(
            f"expected {where} to be {kind} of version {VERSION}, found {found[0]!r:.40} {found[1]!r:.9}; "
            "read it with the eigenmill that wrote it, or choose another path"
        )


def _check_relative(path: str, where: str) -> None:
    names = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(n[:1] in ("", ".", "_") for n in names):
        raise OutputError(f"expected paths inside the output directory in {where}, found {path!r}; do not trust it")


# The plan: a function of data, model and options


def plan_parts(
    fragments: Sequence[Fragment], n_features: int, itemsize: int, part_bytes: int | None
) -> tuple[Part, ...]:
    """Cuts ``fragments`` into parts: runs, closed as soon as they hold the target's rows.

    The target depends on the numbers of rows and features and on ``itemsize`` (bytes of one value) only.
    Data without fragments make one empty part, so that an output always has a schema.
    """
    row_bytes = max(n_features * itemsize, 1)
    total = sum(f.rows for f in fragments) * row_bytes
    target = max((part_bytes or min(max(total // 64, PART_BYTES[0]), PART_BYTES[1])) // row_bytes, 1)
    parts, start, rows = list[Part](), 0, 0
    for i, fragment in enumerate(fragments):
        rows += fragment.rows
        if rows >= target or i + 1 == len(fragments):
            parts.append(Part(len(parts), range(start, i + 1), rows, _sources(fragments[start : i + 1])))
            start, rows = i + 1, 0
    return tuple(parts) or (Part(0, range(0), 0, ()),)


def _sources(fragments: Sequence[Fragment]) -> tuple[tuple[int, int, int], ...]:
    found: list[tuple[int, int, int]] = []
    for f in fragments:
        if found and found[-1][0] == f.file and found[-1][2] == f.start:
            found[-1] = (f.file, found[-1][1], f.stop)
        else:
            found.append((f.file, f.start, f.stop))
    return tuple(found)


def _input(source: Source) -> dict[str, Any]:
    """What identifies the input in a manifest."""
    listed = [{"path": f.path, "size": f.size, "digest": f.digest} for f in source.files]
    rows = sum(f.rows for f in source.fragments)
    return {"digest": source.digest, "rows": rows, "features": len(source.names), "files": listed}


def _describe(sink: Sink, data: Dataset, path: str) -> tuple[Job, dict[str, Any]]:
    """The job, not yet looked for on disk, and the content of its ``_job.json``."""
    k, dtype = data.n_features, np.dtype(sink.dtype or data.dtype)
    if k == 0:
        raise SchemaError("expected at least one feature to write, found none; choose n_components >= 1")
    carried = pa.schema([pa.field(f.name, f.type, f.nullable) for f in data.source.carried])
    _leaves(carried)
    value_type = pa.from_numpy_dtype(dtype)
    options: dict[str, Any] = {"layout": sink.layout, "dtype": dtype.name, "compression": sink.compression}
    options |= {"part_bytes": sink.part_bytes, "partition_by": sink.partition_by}
    if sink.layout == "list":
        element = pa.field("element", value_type, nullable=False)
        features = [pa.field(sink.column, pa.list_(element, k), nullable=False)]
        options["column"] = sink.column
    else:
        digits = max(4, len(str(k)))
        names = sink.names or [f"{sink.prefix}{j:0{digits}d}" for j in range(1, k + 1)]
        if len(names) != k:
            raise ConfigError(f"expected {k} names, one per feature, found {len(names)}")
        features = [pa.field(name, value_type, nullable=False) for name in names]
        options["names"] = list(sink.names) if sink.names else sink.prefix
    whole = pa.schema([*carried, *features])
    _check_names(whole.names, carried, sink.partition_by)
    parts = plan_parts(data.fragments, k, dtype.itemsize, sink.part_bytes)
    transforms = [t.digest for t in data.transforms]
    description: dict[str, Any] = {
        "format": FORMAT + "-job",
        "version": VERSION,
        "model": files.digest(transforms),
        "transforms": transforms,
        "options": options,
        "input": _input(data.source),
        "schema": [[field.name, str(field.type)] for field in whole],
        "parts": [[p.fragments.start, p.fragments.stop, p.rows] for p in parts],
    }
    description["key"] = files.digest(description)
    schema = pa.schema([field for field in whole if field.name != sink.partition_by])
    job = Job(sink, path, description["key"], description["model"], schema, carried, k, dtype.name, parts, parts)
    return job, description


def _check_names(names: Sequence[str], carried: pa.Schema, partition_by: str | None) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"expected different names for all columns, found {twice[:5]} twice; rename or do not carry")
    if partition_by is None:
        return
    if partition_by not in carried.names:
        raise ConfigError(
            f"expected partition_by to be one of the carried columns {carried.names}, found {partition_by!r}"
        )
    if partition_by[:1] in ("_", ".") or re.search(r"[/=%\\\0]", partition_by):
        raise ConfigError(
            f"expected partition_by to be a name that can be a directory, found {partition_by!r}: readers "
            "skip or misread such directories; rename the column"
        )
    kind = carried.field(partition_by).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise ConfigError(f"expected partition_by to hold text, numbers or dates, found {kind}; choose another column")


# The job


@dataclass(frozen=True)
class Job:
    """An output being written. Picklable; any worker may write any part, twice if need be.

    Attributes:
        sink: what the user asked for.
        directory: where the parts go: the output, or the hidden version of it that will replace it.
        key: what the job is; an output with another key belongs to another job.
        model: digest of the chain of transforms, also in every file's metadata.
        schema: of the files.
        carried: schema of the carried columns, the partition column included.
        n_features, dtype: of the features.
        parts: the plan.
        pending: the parts that have to be written.
        link: the path that :meth:`commit` makes a link to ``directory``, if it does.
        finished: the manifest when the output was complete already.
    """

    sink: Sink
    directory: str
    key: str
    model: str
    schema: pa.Schema
    carried: pa.Schema
    n_features: int
    dtype: str
    parts: tuple[Part, ...]
    pending: tuple[Part, ...]
    link: str | None = None
    finished: Manifest | None = None

    def __getstate__(self) -> dict[str, Any]:
        # As Arrow bytes: pickle forgets name and nullability of a fixed-size list's element (pyarrow 26).
        schemas = {name: getattr(self, name).serialize().to_pybytes() for name in ("schema", "carried")}
        return {**self.__dict__, **schemas}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        for name in ("schema", "carried"):
            self.__dict__[name] = pa.ipc.read_schema(pa.py_buffer(state[name]))

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The file system that ``directory`` is on."""
        return files.resolve(self.sink.path, self.sink.filesystem)[0]

    @property
    def memory(self) -> int:
        """Bytes that writing one part takes at most, the block and long carried values apart (an estimate).

        A row group of features and of carried columns is gathered and encoded; a partitioned part gathers
        more; what goes to an object store is held once more, encoded.
        """
        largest = max(p.rows for p in self.parts) * self.n_features * np.dtype(self.dtype).itemsize
        gathered = PARTITION_BYTES if self.sink.partition_by else GROUP_BYTES
        spool = 0 if files.is_local(self.filesystem) else largest
        return 3 * min(largest, gathered) + (GROUP_BYTES if len(self.carried) else 0) + spool + (8 << 20)

    def write_part(self, part: Part, blocks: Iterable[Block]) -> PartRecord:
        """Writes one part and its record.

        Args:
            part: one of ``parts``.
            blocks: the blocks of its fragments in order, carried columns included; drawn once, in order.

        Raises:
            OutputError: the file system refused; nothing half-written is left, the part may be tried again.
            DataError: the blocks are not what was planned.
        """
        if self.finished is not None:
            return self.finished.parts[part.index]
        fs = self.filesystem
        counted = self._checked(part, blocks)
        written = (
            _write_values(fs, self, part, counted)
            if self.sink.partition_by
            else [
                _write_file(
                    fs,
                    self,
                    part,
                    f"{part.name}.parquet",
                    lambda writer: _write_groups(self, part, writer, counted),
                )
            ]
        )
        record = PartRecord(part.index, sum(f.rows for f in written), tuple(written), part.source)
        files.write_json(fs, _record_path(self.directory, part.index), {"key": self.key, "part": asdict(record)})
        return record

    def _checked(self, part: Part, blocks: Iterable[Block]) -> Iterator[Block]:
        rows = 0
        unpickled = pickle.loads(pickle.dumps(self.carried))  # what the blocks of a worker's source carry
        for block in blocks:
            rows += block.rows
            found = block.carried.schema if block.carried is not None else pa.schema([])
            if block.carried is not None and found != self.carried and found == unpickled:
                block, found = replace(block, carried=block.carried.cast(self.carried)), self.carried
            if block.n_features != self.n_features or found != self.carried:
                raise SchemaError(
                    f"expected {self.n_features} features and the carried columns {self.carried.names}, "
                    f"found {block.n_features} and {found.names} at {block.origin.at()}; "
                    "draw blocks with carry=True"
                )
            if rows > part.rows:
                raise ChangedInputError(
                    f"expected at most {part.rows} rows in part {part.index}, found more at "
                    f"{block.origin.at()}; the input has changed: plan again"
                )
            if block.rows:
                yield block

    def commit(self) -> Manifest:
        """Makes the output complete: manifest, then ``_SUCCESS``, then the link. May be repeated.

        Raises:
            OutputError: a part is missing, or the directory holds data files that no part has written.
        """
        fs = self.filesystem
        manifest = self.finished
        if manifest is None:
            found = _look(fs, self.directory)
            done = found.state == "finished" and found.key == self.key
            manifest = _read_manifest(fs, self.directory) if done else _finish(fs, self)
        _remove_traces(fs, self.directory)
        if self.link is not None:
            files.point(self.link, self.directory)
            _retire(self.link)
        return manifest


def _record_path(directory: str, index: int) -> str:
    return f"{directory}/{_RECORDS}/{index:05d}.json"


def _finish(fs: pafs.FileSystem, job: Job) -> Manifest:
    description = _read_job(fs, job.directory)
    if description["key"] != job.key:
        raise OutputError(_refusal(_Found("begun", description["key"]), job))
    records = _read_records(fs, job)
    missing = [p.index for p in job.parts if p.index not in records]
    if missing:
        raise OutputError(
            f"expected records of {len(job.parts)} parts in {job.directory}, found {len(records)}; "
            f"write the parts {missing[:10]} first"
        )
    parts = tuple(records[p.index] for p in job.parts)
    _check_listing(fs, job.directory, parts, pending=())
    manifest = Manifest(
        key=job.key,
        model=description["model"],
        transforms=tuple(description["transforms"]),
        options=description["options"],
        input=description["input"],
        schema=tuple((name, kind) for name, kind in description["schema"]),
        rows=sum(p.rows for p in parts),
        parts=parts,
        versions={name: _version(name) for name in ("eigenmill", "numpy", "pyarrow")},
    )
    files.write_json(fs, f"{job.directory}/{_MANIFEST}", manifest.as_json())
    files.write_bytes(fs, f"{job.directory}/{_SUCCESS}", b"")
    return manifest


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _remove_traces(fs: pafs.FileSystem, directory: str) -> None:
    """What only an unfinished job needs, and what dead attempts left."""
    files.remove(fs, f"{directory}/{_RECORDS}", "directory")
    files.remove(fs, f"{directory}/{_JOB}")
    files.clean(fs, directory)


# Beginning and going on


@dataclass(frozen=True, slots=True)
class _Found:
    """What is at a path: whose output it is (``key``; None when it is damaged: see ``reason``)."""

    state: Literal["nothing", "begun", "finished", "foreign"]
    key: str | None = None
    reason: str = ""


def _look(fs: pafs.FileSystem, directory: str) -> _Found:
    with files.explained(directory, "look into"):
        kind = fs.get_file_info(directory).type
    if kind == pafs.FileType.File:
        return _Found("foreign", reason="a file")
    present = set(files.names(fs, directory))
    try:
        if {_SUCCESS, _MANIFEST} <= present:
            return _Found("finished", _read_manifest(fs, directory).key)
        if _JOB in present:
            return _Found("begun", _read_job(fs, directory)["key"])
    except OutputError as error:
        return _Found("finished" if _SUCCESS in present else "begun", reason=str(error))
    visible = list(files.visible_files(fs, directory))
    return _Found("foreign", reason=f"files such as {visible[0]}") if visible else _Found("nothing")


def _refusal(found: _Found, job: Job) -> str:
    what = {"begun": "an unfinished output", "finished": "a finished output", "foreign": "files"}[found.state]
    if found.reason:
        what = found.reason
    elif found.key != job.key:
        what += f" of another job (key {str(found.key)[:12]})"
    advice = "choose another path" + ("" if found.state == "foreign" else ", or write with overwrite=True")
    return (
        f"expected {job.directory} to be absent, empty, or an output of the same data, model and options "
        f"(key {job.key[:12]}), found {what}; {advice}"
    )


def _read_job(fs: pafs.FileSystem, directory: str) -> dict[str, Any]:
    where = f"{directory}/{_JOB}"
    try:
        value = files.read_json(fs, where)
    except FileNotFoundError as error:
        raise OutputError(f"expected a job in {directory}, found no {_JOB}; open the sink again") from error
    _expect_format(value, FORMAT + "-job", where)
    fields: dict[str, type] = {
        "format": str,
        "version": int,
        "key": str,
        "model": str,
        "transforms": list,
        "options": dict,
    }
    _expect(value, {**fields, "input": dict, "schema": list, "parts": list}, where)
    if value["key"] != files.digest({name: v for name, v in value.items() if name != "key"}):
        raise OutputError(f"expected {where} to match its key {value['key']}, found other content; {_RESTORE}")
    return dict(value)


def _start(fs: pafs.FileSystem, job: Job, description: Mapping[str, Any]) -> Job:
    files.make_directory(fs, job.directory)
    files.clean(fs, job.directory)
    # A manifest or marker without the other is left of something else, and would make a later look go wrong.
    files.remove(fs, f"{job.directory}/{_SUCCESS}")
    files.remove(fs, f"{job.directory}/{_MANIFEST}")
    files.write_json(fs, f"{job.directory}/{_JOB}", description)
    return job


def _go_on(fs: pafs.FileSystem, job: Job) -> Job:
    """The job as it stands on disk; every finished file is read and compared with its record."""
    if _look(fs, job.directory).state == "finished":
        manifest = _read_manifest(fs, job.directory)
        _check_listing(fs, job.directory, manifest.parts, pending=())
        _verify(fs, job, manifest.parts)
        return replace(job, pending=(), finished=manifest)
    files.clean(fs, job.directory)
    records = _read_records(fs, job)
    pending = tuple(p for p in job.parts if p.index not in records)
    done = [records[i] for i in sorted(records)]
    _check_listing(fs, job.directory, done, pending)
    _verify(fs, job, done)
    return replace(job, pending=pending)


def _read_records(fs: pafs.FileSystem, job: Job) -> dict[int, PartRecord]:
    """The records by part. One that cannot be read is none: its part is written again."""
    found: dict[int, PartRecord] = {}
    for part in job.parts if files.names(fs, f"{job.directory}/{_RECORDS}") else ():
        where = _record_path(job.directory, part.index)
        with contextlib.suppress(FileNotFoundError):
            try:
                value = files.read_json(fs, where)
                _expect(value, {"key": str, "part": dict}, where)
                record = PartRecord.from_json(value["part"], where)
            except OutputError:
                continue
            if value["key"] != job.key or record.index != part.index or record.source != part.source:
                raise OutputError(
                    f"expected {where} to be of this job (key {job.key[:12]}), found the record of part "
                    f"{record.index} of the job {value['key'][:12]}; remove it to have the part written again"
                )
            found[part.index] = record
    return found


def _check_listing(fs: pafs.FileSystem, directory: str, records: Sequence[PartRecord], pending: Sequence[Part]) -> None:
    """Refuses files of another size, and data files without a record; pending parts may have left some."""
    recorded = {file.path: file for record in records for file in record.files}
    expected = {part.index for part in pending}
    visible = files.visible_files(fs, directory)
    for path in visible:
        match = _PART_FILE.fullmatch(path)
        if path not in recorded and not (match and int(match[1]) in expected):
            raise OutputError(
                f"expected only files of this output in {directory}, found {path}, which readers would take "
                "for a part of it; move it away"
            )
    for path, file in recorded.items():
        if visible.get(path) != file.bytes:
            found = f"{visible[path]} bytes" if path in visible else "no such file"
            raise OutputError(_other_file(f"{directory}/{path}", f"{file.bytes} bytes", found))


def _verify(fs: pafs.FileSystem, job: Job, records: Sequence[PartRecord]) -> None:
    recorded = [file for record in records for file in record.files]

    def check(file: FileRecord) -> None:
        path = f"{job.directory}/{file.path}"
        with files.explained(path, "read"):
            found = files.digest_file(fs, path)
        if (found.bytes, found.sha256) != (file.bytes, file.sha256):
            raise OutputError(_other_file(path, f"the digest {file.sha256[:16]}", found.sha256[:16]))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(check, recorded):
            pass


def _other_file(path: str, expected: str, found: str) -> str:
    return (
        f"expected {path} to have {expected} as recorded, found {found}: it is damaged, or a part of another "
        "output; restore it, or remove its record in _parts/ to have it written again, or use overwrite=True"
    )


def _open_version(fs: pafs.FileSystem, job: Job, description: Mapping[str, Any], path: str) -> Job:
    if not files.is_local(fs):
        raise OutputError(
            f"expected no other output at {path}, found one, and overwriting needs a local file system, "
            f"found {fs.type_name}; choose another path or remove the output first"
        )
    current = files.current_version(path)
    for number in reversed(files.version_numbers(path)):
        if number > current:
            version = replace(job, directory=files.version_path(path, number), link=path)
            found = _look(fs, version.directory)
            if found.state == "nothing":  # stopped before it had begun
                return _start(fs, version, description)
            with contextlib.suppress(OutputError):
                if found.key == job.key:
                    return _go_on(fs, version)
    number = max([current, *files.version_numbers(path)]) + 1 + (current == 0)
    return _start(fs, replace(job, directory=files.version_path(path, number), link=path), description)


def _retire(path: str) -> None:
    """Removes all versions but the current one and the last finished one before it."""
    current = files.current_version(path)
    kept = 1
    for number in reversed(files.version_numbers(path)):
        version = files.version_path(path, number)
        if number < current and kept and os.path.exists(os.path.join(version, _SUCCESS)):
            kept -= 1
        elif number != current:
            with files.explained(version, "remove"):
                shutil.rmtree(version)


# Encoding


def _write_file(
    fs: pafs.FileSystem, job: Job, part: Part, name: str, fill: Callable[[pq.ParquetWriter], int]
) -> FileRecord:
    path = f"{job.directory}/{name}"
    rows = 0

    def write(file: BinaryIO) -> None:
        nonlocal rows
        with files.explained(path):
            writer = _parquet_writer(job, file)
        try:
            rows = fill(writer)
            with files.explained(path):
                writer.add_key_value_metadata({"eigenmill.model": job.model, "eigenmill.part": str(part.index)})
                writer.close()
        except BaseException:
            # The file is a local temporary that is never published now; closing only frees the encoder.
            with contextlib.suppress(Exception):
                writer.close()
            writer.is_open = False
            raise

    written = files.publish(fs, path, write)
    return FileRecord(name, rows, written.bytes, written.sha256)


def _parquet_writer(job: Job, file: BinaryIO) -> pq.ParquetWriter:
    """Dictionaries and statistics for carried columns only: features are noise to both.

    Plain encoding, for byte-stream splitting saves 9 % of a list column, nothing of scalar columns, and not
    every reader knows it. zstd at level 1 is as fast as no compression (0.47 s for 400,000 x 50 float32).
    """
    leaves = _leaves(pa.schema([field for field in job.schema if field.name in job.carried.names]))
    return pq.ParquetWriter(
        file,
        job.schema,
        compression=job.sink.compression,
        compression_level=1 if job.sink.compression == "zstd" else None,
        use_dictionary=leaves or False,
        write_statistics=leaves or False,
    )


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of a schema's leaf columns; refuses types that Parquet does not know."""
    out = pa.BufferOutputStream()
    try:
        pq.ParquetWriter(out, schema).close()
    except pa.ArrowNotImplementedError as error:
        raise SchemaError(f"expected carried columns that Parquet can hold, found: {error}; leave it out") from error
    leaves = pq.ParquetFile(pa.BufferReader(out.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves))]


class _Rows:
    """Rows gathered for a row group: features copied into an array, carried columns into an Arrow stream."""

    def __init__(self, job: Job, capacity: int) -> None:
        self._job, self._list = job, job.sink.layout == "list"
        self._carried = pa.schema([f for f in job.schema if f.name in job.carried.names])
        self._features = self._empty(max(capacity, 1))
        self._clear()

    def _empty(self, rows: int) -> Array:
        k = self._job.n_features
        return np.empty((rows, k) if self._list else (k, rows), self._job.dtype)

    def _clear(self) -> None:
        self.count = 0
        self._out = pa.BufferOutputStream()
        self._stream: Any = None  # opened with the first rows: an empty stream has a size

    @property
    def carried_bytes(self) -> int:
        return int(self._out.tell())

    @property
    def nbytes(self) -> int:
        return self.count * self._job.n_features * self._features.itemsize + self.carried_bytes

    def add(self, X: Array, carried: pa.RecordBatch | None) -> None:
        """Appends rows: X (h, k) of any order, and the carried columns of the files' schema."""
        stop = self.count + len(X)
        capacity = self._features.shape[0 if self._list else 1]
        if stop > capacity:
            old, self._features = self._features, self._empty(max(stop, 2 * capacity))
            if self._list:
                self._features[: self.count] = old[: self.count]
            else:
                self._features[:, : self.count] = old[:, : self.count]
        if self._list:
            self._features[self.count : stop] = X
        else:
            self._features[:, self.count : stop] = X.T
        if len(self._carried):
            if self._stream is None:
                self._stream = pa.ipc.new_stream(self._out, self._carried)
            self._stream.write_batch(carried)
        self.count = stop

    def table(self) -> pa.Table:
        """The rows as a table over this buffer, valid until the next :meth:`add`; none are left."""
        columns, features, job = [], self._features, self._job
        if self._stream is not None:
            self._stream.close()
            columns = pa.ipc.open_stream(self._out.getvalue()).read_all().columns
        if self._list:
            flat = pa.array(features[: self.count].reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=job.schema.field(job.sink.column).type))
        else:
            columns += [pa.array(column[: self.count]) for column in features]
        self._clear()
        return pa.Table.from_arrays(columns, schema=job.schema)


def _matrix(job: Job, block: Block) -> Array:
    """The block's features, dense, in the dtype to be written."""
    with np.errstate(over="raise"):
        try:
            X = block.X if isinstance(block.X, np.ndarray) else block.dense(job.dtype, name="sink")
            return X.astype(job.dtype, copy=False)
        except FloatingPointError as error:
            raise DataError(
                f"expected features within the range of {job.dtype}, found larger ones in the "
                f"{block.rows} rows from {block.origin.at()}; write dtype='float64'"
            ) from error


def _group_rows(job: Job) -> int:
    row_bytes = job.n_features * np.dtype(job.dtype).itemsize
    return min(max(GROUP_BYTES // row_bytes, 1), GROUP_ROWS)


def _write_groups(job: Job, part: Part, writer: pq.ParquetWriter, blocks: Iterable[Block]) -> int:
    """Streams blocks into row groups; the number of rows."""
    limit, written = _group_rows(job), 0
    rows = _Rows(job, min(limit, part.rows))

    def flush() -> int:
        count = rows.count
        if count:
            with files.explained(f"{job.directory}/{part.name}.parquet"):
                writer.write_table(rows.table(), row_group_size=count)
        return count

    for block in blocks:
        X, start = _matrix(job, block), 0
        while start < len(X):
            stop = min(start + limit - rows.count, len(X))
            rows.add(X[start:stop], None if block.carried is None else block.carried[start:stop])
            if rows.count == limit or rows.carried_bytes >= GROUP_BYTES:
                written += flush()
            start = stop
    return written + flush()


def _write_values(fs: pafs.FileSystem, job: Job, part: Part, blocks: Iterable[Block]) -> list[FileRecord]:
    """One file per value of the partition column; more when the part is larger than ``PARTITION_BYTES``."""
    gathered: dict[str, _Rows] = {}
    values: set[str] = set()
    written: list[FileRecord] = []
    rounds = 0

    def flush() -> None:
        for value in sorted(gathered):
            rows = gathered[value]
            name = f"{job.sink.partition_by}={value}/{part.name}{f'-{rounds}' if rounds else ''}.parquet"

            def fill(writer: pq.ParquetWriter, rows: _Rows = rows, name: str = name) -> int:
                count = rows.count
                with files.explained(f"{job.directory}/{name}"):
                    writer.write_table(rows.table(), row_group_size=_group_rows(job))
                return count

            written.append(_write_file(fs, job, part, name, fill))
        gathered.clear()

    for block in blocks:
        for value, X, carried in _split(job, block):
            values.add(value)
            if value not in gathered:
                gathered[value] = _Rows(job, len(X))
            gathered[value].add(X, carried)
        if len(values) > PARTITION_VALUES:
            raise ConfigError(
                f"expected at most {PARTITION_VALUES} values of {job.sink.partition_by!r} within a part, "
                f"found {len(values)} by {block.origin.at()}; partition by a column with fewer values"
            )
        if sum(rows.nbytes for rows in gathered.values()) >= PARTITION_BYTES:
            flush()
            rounds += 1
    flush()
    return written


def _split(job: Job, block: Block) -> Iterator[tuple[str, Array, pa.RecordBatch]]:
    """The block by value of the partition column: directory's value, features, carried columns; row order."""
    if block.carried is None:  # _checked has seen to it
        return
    X, carried = _matrix(job, block), block.carried
    column = carried.column(job.sink.partition_by)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = pc.dictionary_encode(column.cast(pa.string()), null_encoding="encode")
    directories = [_hive(value) for value in encoded.dictionary.to_pylist()]
    values, position = np.unique(directories, return_inverse=True)  # null and the empty string share one
    codes = position[encoded.indices.to_numpy()]
    rest = carried.select([f.name for f in job.carried if f.name != job.sink.partition_by])
    if len(values) > 1:
        order = np.argsort(codes, kind="stable")
        X, rest, codes = X[order], rest.take(pa.array(order)), codes[order]
    for code, value in enumerate(values.tolist()):
        a, b = (int(i) for i in np.searchsorted(codes, [code, code + 1]))
        yield value, X[a:b], rest[a:b]


def _hive(value: str | None) -> str:
    """A value in a directory's name. Only ASCII is escaped: Spark decodes byte by byte, Arrow as UTF-8."""
    if not value:
        return HIVE_NULL
    return "".join(c if c.isalnum() or c in "_.-" or ord(c) > 127 else f"%{ord(c):02X}" for c in value)
