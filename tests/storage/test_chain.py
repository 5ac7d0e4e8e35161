"""Records of a chain: written whole, read strictly; and where a conditional put goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError
from eigenmill.reduce.storage import chain, exclusive, plain

LOCAL = pafs.LocalFileSystem()


def committed(folder: Path, base: chain.Generation, name: str = "a.json") -> chain.Generation:
    with chain.attempt(LOCAL, str(folder), base) as made:
        return made.commit({name: made.write(name, [b"{", b"}"])})


def test_one_number_is_taken_once(tmp_path: Path) -> None:
    first = committed(tmp_path, chain.NONE)
    assert chain.head(LOCAL, str(tmp_path)) == first
    with pytest.raises(chain.ConflictError, match="another run has changed it"):
        committed(tmp_path, chain.NONE)
    attempts = [path.name for path in (tmp_path / chain.FOLDER).iterdir() if path.is_dir()]
    assert attempts == [first.attempt], "what has lost is gone"
    second = committed(tmp_path, first, "b.json")
    assert list(chain.earlier(LOCAL, str(tmp_path), second)) == [first]
    assert chain.read_bytes(LOCAL, str(tmp_path), second, "b.json") == b"{}"


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": "../../elsewhere"},
        {"attempt": 3},
        {"attempt": None},
        {"files": {"../a.json": [2, "x"]}},
        {"files": {"/etc/hostname": [2, "x"]}},
        {"files": {"a.json": [2]}},
        {"files": {"a.json": "x"}},
        {"files": {"a.json": ["x", "y"]}},
        {"files": []},
        {"number": 7},
    ],
)
def test_a_strange_record_is_refused_however_well_it_is_signed(tmp_path: Path, change: dict[str, Any]) -> None:
    committed(tmp_path, chain.NONE)
    path = tmp_path / chain.FOLDER / "00000001.json"
    record = {**json.loads(path.read_text()), **change}
    del record["digest"]
    path.write_text(json.dumps({**record, "digest": plain.digest(record)}))
    with pytest.raises(ArtifactError, match=r"00000001\.json to be as it was written"):
        chain.head(LOCAL, str(tmp_path))


@pytest.mark.parametrize(
    "store",
    [
        pafs.GcsFileSystem(anonymous=True, endpoint_override="127.0.0.1:9", scheme="http"),
        pafs.AzureFileSystem("name", account_key="a2V5", blob_storage_authority="127.0.0.1:9"),
        pafs.S3FileSystem(region="r", access_key="a", secret_key="b", tls_ca_file_path="/nowhere"),
    ],
)
def test_a_store_that_obstore_might_take_for_another_is_refused(store: pafs.FileSystem) -> None:
    with pytest.raises(exclusive.UnableError, match="which obstore is not given"):
        exclusive.create(store, "bucket/key", [b""])
