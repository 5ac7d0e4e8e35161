"""No credential travels in a task's description: planted anywhere in what is packed, it is refused or not packed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from eigenmill.reduce import ConfigError, Dataset, Sink
from eigenmill.reduce.engines.ship import pack, workplace
from eigenmill.reduce.storage.places import Store
from tests.sink.made import made
from tests.storage.test_secrets import PIECES, secret, shows

PLANTED = "".join(PIECES)
NAMES = ("secret_key", "token", "password", "key", "sig", "accountKey", "X-Amz-Signature", "client_secret", "sas_token")


def places() -> Iterator[tuple[str, Any]]:
    """Where a URI may hold a credential."""
    yield "password", f"s3://user:{PLANTED}@bucket/a"
    yield "user", f"s3://{PLANTED}@bucket/a"
    yield "cut", f"s3://user:{PLANTED}"
    for name in NAMES:
        yield f"?{name}", f"s3://bucket/a?region=x&{name}={PLANTED}"
        yield f"#{name}", f"https://host/a#{name}={PLANTED}"
        yield f";{name}", f"https://host/a;{name}={PLANTED}/b"


def filesystems() -> Iterator[tuple[str, Any]]:
    """What a file system may be made with."""
    for name in NAMES:
        for where, options in (
            ("", {name: PLANTED}),
            ("client_kwargs.", {"client_kwargs": {name: PLANTED}}),
            ("listed.", {"clients": [{name: PLANTED}]}),
        ):
            yield f"fsspec {where}{name}", fsspec.filesystem("memory", skip_instance_cache=True, **options)
    yield (
        "headers",
        fsspec.filesystem("memory", skip_instance_cache=True, headers={"Authorization": f"Bearer {PLANTED}"}),
    )
    yield "proxy", fsspec.filesystem("memory", skip_instance_cache=True, proxy=f"http://u:{PLANTED}@host:1")
    inner = fsspec.filesystem("memory", skip_instance_cache=True, secret=PLANTED)
    yield "within", DirFileSystem("/a", inner)
    yield "Arrow's subtree of fsspec", pafs.SubTreeFileSystem("/a", pafs.PyFileSystem(pafs.FSSpecHandler(inner)))
    yield "by position", Positional(PLANTED)
    keys = {"access_key": "k", "secret_key": PLANTED}
    yield "S3", pafs.S3FileSystem(**keys)
    yield "S3 below", pafs.SubTreeFileSystem("a/b", pafs.S3FileSystem(**keys, session_token="t"))
    proxy = {"scheme": "http", "host": "h", "port": 1, "username": "u", "password": PLANTED}
    yield "S3 behind a proxy", pafs.S3FileSystem(anonymous=True, proxy_options=proxy)


class Positional(MemoryFileSystem):
    """A file system that takes its token as first argument."""

    cachable = False

    def __init__(self, api_token: str) -> None:
        super().__init__()


def refused(thing: Any) -> None:
    with pytest.raises(ConfigError, match="without credentials, found some in it") as caught:
        pack({"task": [thing]})
    assert not shows(str(caught.value))


@pytest.mark.parametrize("uri", [uri for _, uri in places()], ids=[name for name, _ in places()])
def test_a_uri(uri: str) -> None:
    refused(Sink(uri))
    refused(Store(uri=uri))
    refused(dataclasses.replace(Sink("s3://bucket/a"), path=uri, filesystem=None))
    with pytest.raises(ConfigError, match="without credentials"):
        workplace(uri)


@pytest.mark.parametrize("filesystem", [found for _, found in filesystems()], ids=[name for name, _ in filesystems()])
def test_a_file_system(filesystem: Any) -> None:
    refused(Sink("a/b", filesystem=filesystem))
    refused(Store(given=filesystem))


def test_a_job_of_a_sink_and_a_data_set_of_a_store(tmp_path: Path) -> None:
    """Whatever holds them: the object that travels is found within it."""
    data = made(50)
    job = Sink(tmp_path / "out").open(data)
    memory = fsspec.filesystem("memory", skip_instance_cache=True, secret=PLANTED)
    refused(dataclasses.replace(job, sink=dataclasses.replace(job.sink, filesystem=memory)))
    pq.write_table(pa.table({"a": np.arange(4.0)}), tmp_path / "a.parquet")
    files = Dataset.from_parquet(tmp_path / "a.parquet")
    refused(dataclasses.replace(files, source=dataclasses.replace(files.source, store=Store(given=memory))))


OPEN: list[Any] = [
    Sink("out"),
    Sink("s3://bucket/a?region=eu&endpoint_override=h:1&scheme=http"),
    Sink("a", filesystem=pafs.LocalFileSystem()),
    Sink("a", filesystem=pafs.S3FileSystem(anonymous=True, region="x")),
    Sink(
        "a", filesystem=fsspec.filesystem("memory", skip_instance_cache=True, client_kwargs={"region": "x"}, token=None)
    ),
    Store(uri="hdfs://host:8020"),
    Store(given=pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())),
]


@pytest.mark.parametrize("thing", OPEN, ids=range(len(OPEN)))
def test_what_holds_none_travels(thing: Any) -> None:
    assert pack(thing)
    assert workplace("s3://bucket/a?region=eu") == "s3://bucket/a?region=eu"
    assert workplace("a") == os.path.abspath("a")


@given(it=secret("/:=%+.~@;,"), name=st.sampled_from(NAMES), depth=st.integers(0, 3), listed=st.booleans())
def test_planted_at_any_depth(it: str, name: str, depth: int, listed: bool) -> None:
    held: Any = {name: it}
    for i in range(depth):
        held = [held] if listed and i % 2 else {"options": held}
    filesystem = fsspec.filesystem("memory", skip_instance_cache=True, kwargs=held)
    refused(Sink("a", filesystem=filesystem))
    refused(Store(given=filesystem))
