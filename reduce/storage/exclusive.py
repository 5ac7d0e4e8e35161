"""Files that are created if they are absent, and by one writer only: what all commits rest on.

A local file is written beside its target, synced, and linked onto it: link(2) refuses a name that is taken, on NFS
too. An object of a store is put with a condition (``If-None-Match``), which needs obstore: pyarrow has no conditional
put, and fsspec's ``create`` looks and then writes. Where neither is to be had, :func:`require` says so in a sentence.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import time
from collections.abc import Iterable
from typing import Any

from pyarrow import fs as pafs

from eigenmill.reduce.errors import OutputError
from eigenmill.reduce.storage import files, secrets
from eigenmill.reduce.storage.places import is_local

RETRY_SECONDS = 30.0
"""How long a store that does not answer is asked again."""
ADVICE = "use a local file system, or S3, Google Cloud or Azure with obstore (pip install 'eigenmill[s3]')"
USUAL: dict[str, dict[str, object]] = {
    "s3": {"role_arn": "", "tls_ca_file_path": ""},
    "gcs": {"endpoint_override": "", "access_token": "", "target_service_account": ""},
    "abfs": {
        "blob_storage_authority": ".blob.core.windows.net",
        "blob_storage_scheme": "https",
        "dfs_storage_authority": ".dfs.core.windows.net",
        "dfs_storage_scheme": "https",
    },
}
"""Settings of pyarrow's file systems that obstore is not given, and the values with which both mean one store."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class UnableError(OutputError):
    """The file system has no way to create a file unless it is there."""


def create(fs: pafs.FileSystem, path: str, content: Iterable[bytes]) -> bool:
    """Publish ``content``, in pieces, as ``path`` unless something is there; whether this call did it.

    In a store, bytes that are there and the same count as created: a request may be repeated after its answer was lost.

    Raises:
        UnableError: the file system knows no such operation.
        OutputError: the file system refused.
    """
    return _link(path, content) if is_local(fs) else _put(fs, path, b"".join(content))


def claim(fs: pafs.FileSystem, path: str, content: Iterable[bytes]) -> bool:
    """As :func:`create`, for what is written once; where nothing better is known, the path is looked at first."""
    if is_local(fs):
        return create(fs, path, content)
    whole = b"".join(content)
    try:
        return create(fs, path, [whole])
    except UnableError:
        if files.exists(fs, path):
            return read(fs, path) == whole
        files.write_bytes(fs, path, whole)
        return True


def require(fs: pafs.FileSystem, directory: str, doing: str) -> None:
    """Make sure, before any work, that files in ``directory`` can be created by one writer only.

    Raises:
        OutputError: a name can be created twice, or not at all, or nobody knows how.
    """
    name, to = (
        f"{directory}/.probe.{files.attempt()}.tmp",
        f"expected to {doing} {directory} so that two at once are told apart",
    )
    files.make_directory(fs, directory)
    try:
        # Each with bytes of its own: the same ones would count as one request.
        twice = create(fs, name, [b"first"]) and create(fs, name, [b"second"])
    except UnableError as error:
        raise OutputError(f"{to}, which is refused here: {error}") from error
    finally:
        with contextlib.suppress(OutputError):
            files.remove(fs, name)
    if twice:
        raise OutputError(f"{to}, found a file system that creates one name twice; {ADVICE}")


def _link(path: str, content: Iterable[bytes]) -> bool:
    parent, name = os.path.split(path)
    files.make_directory(pafs.LocalFileSystem(), parent)
    with files.storage_errors(path):
        file, temporary = files.create_temporary(parent, name)
        try:
            with file:
                for piece in content:
                    files.write_all(file, piece)
                os.fsync(file.fileno())
                if not _linked(temporary, path, file.fileno()):
                    return False
                files.sync_directory(parent)
                return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _linked(temporary: str, path: str, handle: int) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may say so of a link that it made a moment ago, when its first answer was lost.
        return os.fstat(handle).st_nlink > 1
    except OSError as error:
        if error.errno in NO_LINKS:
            raise UnableError(f"expected hard links at {path}, found: {error.strerror}; {ADVICE}") from error
        raise
    return True


def _put(fs: pafs.FileSystem, path: str, content: bytes) -> bool:
    put, taken, failed = _conditional(fs, path)
    try:
        put(content)
        files.await_shown(fs, path, len(content))
        return True
    except taken:
        return read(fs, path) == content
    except failed as error:
        found = secrets.masked(next(iter(str(error).splitlines()), ""))
        raise OutputError(f"expected to create {path}, found {type(error).__name__}: {found}; run again") from None


def read(fs: pafs.FileSystem, path: str) -> bytes:
    """The bytes of an object that is there, and may be shown late."""
    until = time.monotonic() + files.SHOWN_SECONDS
    while True:
        try:
            return files.read_bytes(fs, path, files.MAX_LISTS)
        except FileNotFoundError as error:
            if time.monotonic() > until:
                raise OutputError(
                    f"expected to read {path}, which is there, found nothing for {files.SHOWN_SECONDS:.0f} s; run again"
                ) from error
            time.sleep(0.05)


def _conditional(fs: pafs.FileSystem, path: str) -> tuple[Any, Any, Any]:
    """A conditional put at ``path`` by obstore, what it raises for a name that is taken, and for all else."""
    if fs.type_name not in files.OBJECT_STORES:
        raise UnableError(
            f"expected a file system that can create {path} unless it is there, found {fs.type_name}; {ADVICE}"
        )
    try:
        import obstore
        from obstore import exceptions, store
    except ImportError:
        raise UnableError(
            f"expected obstore for a conditional put at {path}, found it is not installed; {ADVICE}"
        ) from None
    kind = {"s3": store.S3Store, "gcs": store.GCSStore, "abfs": store.AzureStore}[fs.type_name]
    bucket, _, key = path.partition("/")
    retries = {"max_retries": 5, "retry_timeout": datetime.timedelta(seconds=RETRY_SECONDS)}
    opened = kind(bucket, client_options={"allow_http": True}, retry_config=retries, **_options(fs))
    # In one request: a condition holds for no upload of several parts.
    return (
        lambda content: obstore.put(opened, key, content, mode="create", use_multipart=False),
        exceptions.AlreadyExistsError,
        (exceptions.BaseError, OSError),
    )


def _options(fs: pafs.FileSystem) -> dict[str, Any]:
    """What obstore calls the settings of a pyarrow file system; those that are not given come from the environment.

    Raises:
        UnableError: it has a setting that is not known there: another store might answer.
    """
    told: dict[str, Any] = fs.__reduce__()[1][0]
    strange = [name for name, usual in USUAL[fs.type_name].items() if told.get(name, usual) != usual]
    if strange:
        raise UnableError(f"expected a store without the setting {strange[0]}, which obstore is not given; {ADVICE}")
    names = {
        "s3": {"access_key": "access_key_id", "secret_key": "secret_access_key", "session_token": "session_token"}
        | {
            "region": "region",
            "anonymous": "skip_signature",
            "force_virtual_addressing": "virtual_hosted_style_request",
        },
        "gcs": {"anonymous": "skip_signature"},
        "abfs": {"account_name": "account_name", "account_key": "account_key", "sas_token": "sas_key"}
        | {"tenant_id": "tenant_id", "client_id": "client_id", "client_secret": "client_secret"},
    }[fs.type_name]
    options = {mine: told[theirs] for theirs, mine in names.items() if told.get(theirs)}
    if fs.type_name == "s3" and told["endpoint_override"]:
        scheme, _, host = told["endpoint_override"].rpartition("://")
        options["endpoint"] = f"{scheme or told['scheme']}://{host}"
    return options


__all__ = ["UnableError", "claim", "create", "read", "require"]
