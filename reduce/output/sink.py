"""Sink: where features go, as Parquet parts that appear whole, and an output that can be resumed.

An output is a directory. Its files, in the order in which they appear::

    _seen.json             when each input file was changed last: it lies beside the records, and is part of no digest
    _job.json              the job's key: what is written, from which input, by which model, in which parts
    part-00000.parquet     a part: the rows of a run of consecutive fragments, in order
    _parts/00000.json      its record: rows, bytes and SHA-256 of its files
    _manifest.json         all records, schema, input and model
    _SUCCESS               empty, and last; `_parts/` and `_job.json` are removed after it

With ``partition_by`` a part is one file per value, ``key=value/part-00000.parquet``.

Who lists the directory at any moment finds complete Parquet files only, for readers skip names that start
with ``_`` or ``.``. The bytes depend on data, model and options, not on who wrote them, when, or how often.

Overwriting writes a version elsewhere, in which no file is called ``*.parquet``, and lets it change places with the
directory (:mod:`eigenmill.reduce.output.versions`). The finished version before it is kept there, older ones are
removed. Who has listed the directory before the change and opens a file after it gets the new version's.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ChangedInputError, ConfigError, OutputError, SchemaError
from eigenmill.reduce.output import directory as output
from eigenmill.reduce.output import encode, partition
from eigenmill.reduce.output.encode import Encoding, Layout
from eigenmill.reduce.output.manifest import FORMAT, VERSION, Manifest, PartRecord, read_at, read_manifest
from eigenmill.reduce.output.needs import Writing, needed
from eigenmill.reduce.output.parts import Part, plan_parts
from eigenmill.reduce.output.versions import ASIDE, Versions, follow_foreign_links
from eigenmill.reduce.rows.blocks import NO_COLUMNS, Block
from eigenmill.reduce.sources import arrow
from eigenmill.reduce.sources.apart import refuse_files
from eigenmill.reduce.sources.base import Source
from eigenmill.reduce.sources.catalog import FileInfo, total_rows
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage import files, places, plain
from eigenmill.reduce.storage.long_lists import Mapped
from eigenmill.reduce.storage.sequences import Subset

LAYOUTS = ("list", "columns")
COMPRESSIONS = ("zstd", "snappy", "lz4", "gzip", "none")


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
        partition_by: a carried column that becomes directories ``column=value``; nulls go to
            ``__HIVE_DEFAULT_PARTITION__``, and empty text, which readers would take for null, is refused.
        part_bytes: least feature bytes of a part; None for about 64 parts of 4 to 128 MiB.
        compression: ``zstd`` (level 1), ``snappy``, ``lz4``, ``gzip`` or ``none``.
        overwrite: replace another job's output at ``path``; local file systems only.
        versions: the directory in which a version waits that replaces ``path``, or was replaced there: outside of what
            people read, on the same file system; beside ``path`` by default.

    Raises:
        ConfigError: an argument is out of range.
    """

    path: str | os.PathLike[str]
    filesystem: Any = None
    layout: Layout = "list"
    column: str = "features"
    prefix: str = "pc_"
    names: Sequence[str] | None = None
    dtype: npt.DTypeLike | None = None
    partition_by: str | None = None
    part_bytes: int | None = None
    compression: str = "zstd"
    overwrite: bool = False
    versions: str | os.PathLike[str] | None = None

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

    def writing(self, data: Matrix, n_features: int | None = None) -> Writing:
        """What writing ``data`` takes, from metadata alone: nothing is looked for at ``path``.

        A row group of features and of carried columns is gathered and encoded; a partitioned part gathers
        more; what goes to an object store is sent in pieces.

        Args:
            data: what is written.
            n_features: as many features of it, by default its own.
        """
        k, itemsize = data.n_features if n_features is None else n_features, np.dtype(self.dtype or data.dtype).itemsize
        parts = plan_parts(data.fragments, k, itemsize, self.part_bytes, data.format)
        local = places.is_local(places.resolve(self.path, self.filesystem)[0])
        return needed(data, parts, k, itemsize, by_columns=self.layout == "columns", by=self.partition_by, local=local)

    def check(self, data: Matrix, *, other: bool = False) -> None:
        """Refuses before the work what :meth:`open` or the write would refuse after it.

        Nothing is written; read are metadata and, with ``partition_by``, that column of the first part.

        Args:
            data: what is written, or what it will be made from by a model that is still to be fitted.
            other: whether it will certainly be another output than one that is there.

        Raises:
            OutputError: the place cannot be written to, or holds what is not replaced.
            ConfigError, SchemaError, DataError: the options do not fit the data.
        """
        carried = _carried(data)
        features = [self.column] if self.layout == "list" else list(self.names or ())
        _check_names([*carried.names, *features])
        self._check_partition(data, carried)
        fs, path = places.resolve(self.path, self.filesystem)
        files.check_writable(fs, path)
        found = output.look(fs, path)
        theirs = other or found.input != data.source.digest
        if found.state == "foreign" or (found.state != "nothing" and theirs and not self.overwrite):
            raise OutputError(output.refusal(found, path, "", data.source.digest))
        if found.state != "nothing" and theirs and not places.is_local(fs):
            raise _cannot_overwrite(fs, path)
        if not theirs and not self.overwrite:
            output.check_input(data.source, fs, path, begun=False)

    def _check_partition(self, data: Matrix, carried: pa.Schema) -> None:
        if self.partition_by is None:
            return
        partition.check_column(self.partition_by, carried)
        missing = data.cleaning.missing
        drops = any(step.drops for step in data.transforms)
        drops = drops or "drop" in (missing.values() if isinstance(missing, Mapping) else [missing])
        if self.partition_by in data.source.carried.names and not drops:
            # As many rows as any first part has: with fewer features parts are longer.
            first = plan_parts(data.fragments, max(data.n_features, 1), 8, self.part_bytes, data.format)[0]
            pieces = (data.source.values_of(self.partition_by, data.fragments[i]) for i in first.fragments)
            partition.check_values(self.partition_by, chain.from_iterable(pieces))

    def open(self, data: Matrix) -> WriteJob:
        """Begins the job that writes ``data`` here, or finds how far it came; reads what :meth:`check` reads.

        Raises:
            OutputError: the output belongs to another job or is damaged, or cannot be written.
            ConfigError, SchemaError, DataError: the options do not fit the data.
        """
        fs, path = places.resolve(self.path, self.filesystem)
        job, description = _describe(self, data, path)
        if places.is_local(fs):
            refuse_files(data.source, {"the output": path})
        there = self._versions(fs, path)
        if there is not None:
            there.settle()
            job = replace(job, directory=os.path.realpath(there.path))
        found = output.look(fs, job.directory)
        while found.state == "nothing":
            self._check_partition(data, job.encoding.carried)
            if output.begin(fs, job.directory, description):
                output.keep_input(data.source, fs, job.directory)
                return job
            found = output.look(fs, job.directory)  # another run was first
        try:
            if found.key == job.key:
                return _go_on(fs, job, found, data.source)
            raise OutputError(output.refusal(found, job.directory, job.key, description["input"]["digest"]))
        except OutputError:
            # A damaged output of the same job is replaced as well; a directory of someone else's never is.
            if not self.overwrite or found.state == "foreign":
                raise
        if there is None:
            raise _cannot_overwrite(fs, path)
        self._check_partition(data, job.encoding.carried)
        return _open_version(fs, job, description, there, data.source)

    def settle(self) -> None:
        """Ends what a crash has cut short while an output was replaced at ``path``; see ``Versions.settle``."""
        there = self._versions(*places.resolve(self.path, self.filesystem))
        if there is not None:
            there.settle()

    def _versions(self, fs: pafs.FileSystem, path: str) -> Versions | None:
        """Where the versions of the output are; None where there can be none."""
        if not places.is_local(fs):
            return None
        parent, name = os.path.split(follow_foreign_links(path))
        parent = os.path.realpath(parent)
        path = os.path.join(parent, name)
        place = parent if self.versions is None else os.path.realpath(places.resolve(self.versions)[1])
        if f"{place}/".startswith(f"{path}/"):
            raise ConfigError(f"expected a place for versions outside of {path}, found {place}; readers look there")
        return Versions(path, place)


def _cannot_overwrite(fs: pafs.FileSystem, path: str) -> OutputError:
    return OutputError(
        f"expected no other output at {path}, found one, and overwriting needs a local file system, "
        f"found {fs.type_name}; choose another path or remove the output first"
    )


def _one_of(option: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"expected {option} to be one of {', '.join(allowed)}, found {value!r}")


# What is planned: a function of data, model and options


def _input(source: Source) -> dict[str, Any]:
    """What identifies the input in a manifest."""
    listed = Mapped(_file, source.files)
    rows = total_rows(source.fragments)
    return {"digest": source.digest, "rows": rows, "features": len(source.names), "files": listed}


def _file(file: FileInfo) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "digest": file.digest}


def _extent(part: Part) -> list[int]:
    return [part.fragments.start, part.fragments.stop, part.rows]


def _describe(sink: Sink, data: Matrix, path: str) -> tuple[WriteJob, dict[str, Any]]:
    """The job, not yet looked for on disk, and the content of its ``_job.json``."""
    k, dtype = data.n_features, np.dtype(sink.dtype or data.dtype)
    if k == 0:
        raise SchemaError("expected at least one feature to write, found none; choose n_components >= 1")
    carried = _carried(data)
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
    _check_names(whole.names)
    if sink.partition_by is not None:
        partition.check_column(sink.partition_by, carried)
    parts = plan_parts(data.fragments, k, dtype.itemsize, sink.part_bytes, data.format)
    transforms = [t.digest for t in data.transforms]
    description: dict[str, Any] = {
        "format": FORMAT + "-job",
        "version": VERSION,
        "model": plain.digest(transforms),
        "transforms": transforms,
        "options": options,
        "input": _input(data.source),
        "schema": [[field.name, str(field.type)] for field in whole],
        "parts": Mapped(_extent, parts),
    }
    if changes := data.format.changes():
        description["constants"] = changes
    description["key"] = plain.digest(description)
    schema = pa.schema([field for field in whole if field.name != sink.partition_by])
    encoding = Encoding(
        model=description["model"],
        schema=schema,
        carried=carried,
        n_features=k,
        dtype=dtype.name,
        layout=sink.layout,
        column=sink.column,
        partition_by=sink.partition_by,
        compression=sink.compression,
        format=data.format,
    )
    return WriteJob(sink, path, description["key"], encoding, parts, parts), description


def _carried(data: Matrix) -> pa.Schema:
    """The carried columns as they are written; refused when Parquet cannot hold them."""
    carried = pa.schema([pa.field(f.name, f.type, f.nullable) for f in data.carried])
    encode.leaves(carried)
    return carried


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"expected different names for all columns, found {twice[:5]} twice; rename or do not carry")


# The job


@dataclass(frozen=True)
class WriteJob:
    """An output being written. Picklable; any worker may write any part, twice if need be.

    Attributes:
        sink: what the user asked for.
        directory: where the parts go: the output, or the version that will replace it.
        key: what the job is; an output with another key belongs to another job.
        encoding: what the files look like.
        parts: the plan.
        pending: the parts that have to be written.
        replaces: what ``directory`` is a version of, if it is one; the names of its Parquet files end otherwise.
        finished: the manifest when the output was complete already.
    """

    sink: Sink
    directory: str
    key: str
    encoding: Encoding
    parts: Sequence[Part]
    pending: Sequence[Part]
    replaces: Versions | None = None
    finished: Manifest | None = None

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The file system that ``directory`` is on."""
        return places.resolve(self.sink.path, self.sink.filesystem)[0]

    @property
    def ending(self) -> str:
        """How names of Parquet files in ``directory`` end beyond what the records say."""
        return ASIDE if self.replaces else ""

    @contextlib.contextmanager
    def writing(self, part: Part) -> Iterator[PartWriter]:
        """Writes one part and its record: the ``with`` statement gives the blocks, and must end well.

        Args:
            part: one of ``parts``.

        Raises:
            OutputError: the file system refused; nothing half-written is left, the part may be tried again.
        """
        fs = self.filesystem
        out = encode.PartFiles(fs, self.directory, self.encoding, part, self.ending)
        with (partition.partitioned_part if self.sink.partition_by else encode.whole_part)(out) as target:
            writer = PartWriter(self.encoding, part, target)
            yield writer
        writer.record = PartRecord(part.index, sum(f.rows for f in out.written), tuple(out.written), part.source)
        output.write_record(fs, self.directory, self.key, writer.record)

    def commit(self) -> Manifest:
        """Makes the output complete: manifest, ``_SUCCESS``, then the exchange of versions. May be repeated.

        Raises:
            OutputError: a part is missing, or the directory holds data files that no part has written.
        """
        fs = self.filesystem
        if self.replaces is not None and not self._has(self.directory) and self._complete(self.replaces.path, ""):
            return read_at(fs, self.replaces.path)  # another run of this job has published it
        if self._complete(self.directory, self.ending):
            manifest = self.finished or read_at(fs, self.directory)
        else:
            manifest = output.finish(fs, self.directory, self.key, self.parts, self.ending)
        output.remove_traces(fs, self.directory)
        if self.replaces is not None:
            self.replaces.publish(self.directory, self._complete)
        return manifest

    def _has(self, directory: str) -> bool:
        """Whether this job's output is in a directory, complete or not."""
        return output.look(self.filesystem, directory).key == self.key

    def _complete(self, directory: str, ending: str) -> bool:
        """Whether this job's output is in a directory, with all its files."""
        fs = self.filesystem
        found = output.look(fs, directory)
        if found.state != "finished" or found.key != self.key:
            return False
        with contextlib.suppress(OutputError):
            output.check_listing(fs, directory, read_at(fs, directory).parts, (), ending)
            return True
        return False


class PartWriter:
    """Takes the blocks of one part in order, each once.

    Attributes:
        record: what was written, once the part has ended.
    """

    record: PartRecord

    def __init__(self, encoding: Encoding, part: Part, target: encode.WholePart | partition.Values) -> None:
        self._encoding, self._part, self._target, self._rows = encoding, part, target, 0

    def add(self, block: Block) -> None:
        """Writes a block's rows, carried columns included, in the end.

        Raises:
            ChangedInputError, SchemaError: the block is not what was planned.
            DataError: a value does not fit the dtype.
            OutputError: the file system refused.
        """
        k, carried = self._encoding.n_features, self._encoding.carried
        found = NO_COLUMNS if block.carried is None else block.carried.schema
        if block.carried is not None and found != carried and _plain(found) == _plain(carried):
            # The schema of a source that has travelled: pickle forgets name and nullability of lists' elements.
            block, found = replace(block, carried=block.carried.cast(carried)), carried
        if block.n_features != k or found != carried:
            raise SchemaError(
                f"expected {k} features and the carried columns {carried.names}, found {block.n_features} and "
                f"{found.names} at {block.origin.at()}; draw blocks with carry=True"
            )
        self._rows += block.rows
        if self._rows > self._part.rows:
            raise ChangedInputError(
                f"expected at most {self._part.rows} rows in part {self._part.index}, found more at "
                f"{block.origin.at()}; the input has changed: plan again"
            )
        if block.rows:
            self._target.add(block)


def _plain(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, arrow.plain(field.type)) for field in schema]


# Beginning and going on


def _go_on(fs: pafs.FileSystem, job: WriteJob, found: output.Found, source: Source) -> WriteJob:
    """The job as it stands on disk; every finished file is read and compared with its record."""
    output.check_input(source, fs, job.directory, begun=found.state == "begun")
    if found.state == "finished":
        manifest = read_at(fs, job.directory)
        output.check_listing(fs, job.directory, manifest.parts, (), job.ending)
        output.verify(fs, job.directory, manifest.parts, job.ending)
        return replace(job, pending=(), finished=manifest)
    files.clean(fs, job.directory)
    done = output.read_records(fs, job.directory, job.key, job.parts)
    pending = Subset(job.parts, output.without_record(job.parts, done))
    output.check_listing(fs, job.directory, done, pending, job.ending)
    output.verify(fs, job.directory, done, job.ending)
    return replace(job, pending=pending)


def _open_version(
    fs: pafs.FileSystem, job: WriteJob, description: Mapping[str, Any], there: Versions, source: Source
) -> WriteJob:
    """The job of a version that will replace what is there: one that waits and is of this job, or a new one."""
    for directory in reversed(there.waiting()):
        version = replace(job, directory=directory, replaces=there)
        found = output.look(fs, directory)
        with contextlib.suppress(OutputError):
            if found.key == job.key:
                return _go_on(fs, version, found, source)
    while True:
        version = replace(job, directory=there.new(), replaces=there)
        if output.begin(fs, version.directory, description):
            output.keep_input(source, fs, version.directory)
            return version


__all__ = ["Manifest", "Part", "PartRecord", "Sink", "WriteJob", "Writing", "plan_parts", "read_manifest"]
