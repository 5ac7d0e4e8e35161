from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

import fsspec
import pytest
from pyarrow import fs as pafs

from eigenmill.reduce.errors import ArtifactError, ConfigError, OutputError
from eigenmill.reduce.storage import files, places, plain

LOCAL = pafs.LocalFileSystem()


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.resolve("out")[1] == str(tmp_path / "out")
    assert places.resolve(Path("a") / ".." / "b")[1] == str(tmp_path / "b")
    fs, path = places.resolve(f"file://{tmp_path}/c/")
    assert places.is_local(fs)
    assert path == f"{tmp_path}/c"
    fs, path = places.resolve("d", pafs.SubTreeFileSystem(str(tmp_path), LOCAL))
    assert places.is_local(fs)
    assert path == str(tmp_path / "d")
    fs, path = places.resolve(tmp_path / "e", fsspec.filesystem("file"))
    assert places.is_local(fs)
    assert path == str(tmp_path / "e")
    fs, path = places.resolve("memory://a/b", fsspec.filesystem("memory"))
    assert not places.is_local(fs)
    assert path == "/a/b"
    with pytest.raises(ConfigError, match="nowhere"):
        places.resolve("nowhere://x")
    with pytest.raises(ConfigError, match="found int"):
        places.resolve("x", 3)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("nope://user:secret@host/path", "nope://***@host/path"),
        ("nope://user:se/cret?@host/path", "nope://***"),
        ("nope://host/path?key=secret", "nope://host/path?***"),
        ("nope://user:secret@host?key=secret", "nope://***@host?***"),
        ("s3://key:secret@bucket?nonsense=secret", "s3://***@bucket?***"),
        ("secret s3://bucket", "***"),
    ],
)
def test_uris_in_messages_are_masked(uri, shown):
    with pytest.raises(ConfigError, match=re.escape(f"found {shown!r} (")) as caught:
        places.resolve(uri)
    told = "".join(traceback.format_exception(caught.value, chain=True))
    assert "secret" not in told
    assert "cret?" not in told


def test_a_uri_that_hides_nothing_is_repeated_with_the_reason():
    with pytest.raises(ConfigError, match=r"found 'ftps://host/x' \(Unrecognized .*ftps"):
        places.resolve("ftps://host/x")


def test_publish_replaces_and_leaves_nothing_beside(tmp_path):
    path = str(tmp_path / "sub" / "x")
    assert files.write_bytes(LOCAL, path, b"one").bytes == 3
    written = files.write_bytes(LOCAL, path, b"two!")
    assert Path(path).read_bytes() == b"two!"
    assert files.digest_file(LOCAL, path) == written
    assert os.listdir(tmp_path / "sub") == ["x"]


def test_publish_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_bytes(LOCAL, str(tmp_path / "x"), b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "input/output")])
def test_an_exception_of_the_writer_passes_and_publishes_nothing(tmp_path, memory, failure):
    def write(fs, path):
        with files.draft(fs, path) as made:
            made.file.write(b"half")
            raise failure

    for fs, path in ((LOCAL, str(tmp_path / "x")), (memory, "/x")):
        with pytest.raises(type(failure)) as caught:
            write(fs, path)
        assert caught.value is failure
        assert not files.exists(fs, path)
    assert os.listdir(tmp_path) == []


def test_operating_system_errors_are_explained(tmp_path):
    with pytest.raises(OutputError, match="No space left") as caught, files.storage_errors("p"):
        raise OSError(errno.ENOSPC, "x")
    assert caught.value.errno == errno.ENOSPC
    assert "free some space" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.errno, str(again)) == (caught.value.errno, str(caught.value))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"expected to write .*file/x"):
        files.write_bytes(LOCAL, str(tmp_path / "file" / "x"), b"")


@pytest.mark.parametrize(
    ("doing", "call"),
    [
        ("look for", files.exists),
        ("list", files.names),
        ("list", files.visible_files),
        ("create", files.make_directory),
        ("write", lambda fs, path: files.write_json(fs, path, {})),
    ],
)
def test_what_the_system_refuses_is_named_with_what_was_asked_of_it(tmp_path, doing, call):
    path = str(tmp_path / ("x" * 300))
    with pytest.raises(OutputError, match=f"expected to {doing} {path}, found: File name too long") as caught:
        call(LOCAL, path)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_remote_files_are_whole(memory):
    written = files.write_bytes(memory, "/a/b", b"content")
    assert files.digest_file(memory, "/a/b") == written
    files.write_bytes(memory, "/a/b", b"")
    assert files.digest_file(memory, "/a/b").bytes == 0
    assert files.names(memory, "/a") == ["b"]
    files.remove(memory, "/a", "directory")
    assert not files.exists(memory, "/a/b")


def test_a_failed_upload_is_an_output_error(memory, monkeypatch):
    def refuse(self, data):
        raise OSError("connection lost")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, "write", refuse)
    with pytest.raises(OutputError, match="connection lost"):
        files.write_bytes(memory, "/a/b", b"content")


class Store(fsspec.AbstractFileSystem):
    """An object store: an object is there when its stream has been closed, by whomever."""

    protocol, cachable = "store", False

    def __init__(self):
        super().__init__()
        self.objects, self.largest, self.fail_at = {}, 0, -1

    def _open(self, path, mode="rb", **kwargs):
        return _Upload(self, path) if mode == "wb" else io.BytesIO(self.objects[path])

    def info(self, path, **kwargs):
        if path not in self.objects:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.objects[path]), "type": "file"}

    def makedirs(self, path, exist_ok=False): ...


class _Upload(io.BytesIO):
    def __init__(self, store, path):
        super().__init__()
        self.store, self.path = store, path

    def write(self, piece):
        self.store.largest = max(self.store.largest, len(piece))
        self.store.fail_at -= 1
        if self.store.fail_at == -1:
            raise OSError("connection lost")
        return super().write(piece)

    def close(self):
        if not self.closed:
            self.store.objects[self.path] = self.getvalue()
        super().close()


@pytest.fixture
def store():
    made = Store()
    return made, pafs.PyFileSystem(pafs.FSSpecHandler(made))


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 4000, 4500])
def test_an_upload_goes_in_pieces(store, monkeypatch, size):
    monkeypatch.setattr(files, "PIECE", 1000)
    monkeypatch.setattr(files, "IN_FLIGHT", 2000)
    content = os.urandom(size)
    written = files.write_bytes(store[1], "a/b", content)
    assert store[0].objects == {"a/b": content}
    assert written == files.WrittenFile(size, hashlib.sha256(content).hexdigest())
    assert store[0].largest == min(size, 1000)


@pytest.mark.parametrize("failing", ["store", "spool"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_upload_that_fails_midway_publishes_nothing(store, monkeypatch, failing, at):
    monkeypatch.setattr(files, "PIECE", 1000)
    if failing == "store":
        store[0].fail_at = at
    else:
        spools = []

        class Spool(io.FileIO):
            def read(self, size=-1):
                spools.append(size)
                if len(spools) == at + 1:
                    raise OSError(errno.EIO, "injected")
                return super().read(size)

        monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda **_: Spool(os.memfd_create("spool"), "r+"))
    with pytest.raises(OutputError, match="connection lost" if failing == "store" else "spool in"):
        files.write_bytes(store[1], "a/b", bytes(3000))
    gc.collect()
    assert store[0].objects == {}
    store[0].fail_at = -1
    monkeypatch.undo()
    files.write_bytes(store[1], "a/b", bytes(3000))
    assert len(store[0].objects["a/b"]) == 3000


def test_clean_takes_the_temporaries_of_the_dead_only(tmp_path):
    code = (
        "import os, sys, signal\nfrom pyarrow import fs\nfrom eigenmill.reduce.storage import files\n"
        "with files.draft(fs.LocalFileSystem(), sys.argv[1]) as made:\n"
        "    made.file.write(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sub" / "dead")], check=False)
    (dead,) = os.listdir(tmp_path / "sub")
    other = dead.replace(f".{files.HOST}-", ".otherhost-")
    (tmp_path / "sub" / other).write_bytes(b"")
    (tmp_path / "sub" / ".unrelated.tmp").write_bytes(b"")
    with files.draft(LOCAL, str(tmp_path / "live")):
        cleaned = files.clean(LOCAL, str(tmp_path))
    assert cleaned == [str(tmp_path / "sub" / dead)]
    assert (tmp_path / "live").exists()
    assert sorted(os.listdir(tmp_path / "sub")) == sorted([other, ".unrelated.tmp"])
    past = time.time() - 2 * files.SILENT_SECONDS
    os.utime(tmp_path / "sub" / other, (past, past))
    assert files.clean(LOCAL, str(tmp_path)) == [str(tmp_path / "sub" / other)]


def test_clean_leaves_the_young_where_locks_do_nothing(tmp_path, monkeypatch):
    """Then nobody can say whether a writer lives; a process of the same number may be another one."""
    with monkeypatch.context() as patch:
        patch.setattr(files.fcntl, "flock", lambda *_: None)
        with files.draft(LOCAL, str(tmp_path / "x")) as made:
            made.file.write(b"half")
            (temporary,) = tmp_path.iterdir()
            assert files.clean(LOCAL, str(tmp_path)) == []
            os.utime(temporary, (0, 0))
            assert files.clean(LOCAL, str(tmp_path)) == [str(temporary)]
            temporary.write_bytes(b"")  # for the draft to end


def test_a_temporary_taken_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    lock, seen = files.lock, []

    def slow(handle):
        if not seen:
            seen.extend(tmp_path.iterdir())  # as a cleaner on another host does
            seen[0].unlink()
        lock(handle)

    monkeypatch.setattr(files, "lock", slow)
    files.write_bytes(LOCAL, str(tmp_path / "x"), b"x")
    assert len(seen) == 1
    assert (tmp_path / "x").read_bytes() == b"x"


def test_json_is_exact_and_the_same_bytes(tmp_path):
    value = {"b": [0.1, 1e-300, -0.0, 2**70, None, True, "é\n"], "a": {}}
    path = str(tmp_path / "x.json")
    first = files.write_json(LOCAL, path, value)
    assert files.read_json(LOCAL, path) == value
    assert files.write_json(LOCAL, path, dict(reversed(value.items()))) == first
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(LOCAL, path, float("nan"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b"[" * 100 + b"]" * 100,
        b"[" * 1_000_000,
        b"1" * 10_000,
        b'"' + b"x" * 2000 + b'"',
    ],
)
def test_damaged_json_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    limit = 1500 if b"x" in text else files.MAX_JSON
    for refusal in (OutputError, ArtifactError):
        with pytest.raises(refusal, match=r"x\.json"):
            files.read_json(LOCAL, str(path), refusal, limit)


def test_json_that_is_absent_or_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_json(LOCAL, str(tmp_path / "x"))
    with pytest.raises(OutputError, match="a directory"):
        files.read_json(LOCAL, str(tmp_path))


def test_canonical_digest():
    assert plain.digest({"a": 1, "b": [1.5]}) == plain.digest(json.loads('{"b": [1.5], "a": 1}'))
    assert plain.digest({"a": 1}) != plain.digest({"a": 1.5})


def test_visible_files(tmp_path):
    for name in ("a", "_b", ".c", "k=1/d", "_k/e", ".k/f", "k=1/.g"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert files.visible_files(LOCAL, str(tmp_path)) == {"a": 1, "k=1/d": 1}
    assert files.visible_files(LOCAL, str(tmp_path / "none")) == {}
