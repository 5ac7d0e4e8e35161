"""References: what the eigenmill of commit ba05dba writes, made by a kept wheel of it.

``make goldens`` at the top of the repository, which is ``python -m tests.golden.make``, makes all of them again::

    ba05dba/eigenmill-0.1.0-py3-none-any.whl   kept; its packages are the top-level `reduce`, `compress` and `jobs`
    ba05dba/inputs/                            kept: see inputs.py
    ba05dba/ROOM.tar.xz                        the references of one room: see rooms/
    ba05dba/versions.json                      for each room, what its bytes depend on: see :func:`versions`

``python -m tests.golden.make ROOM ...`` makes some rooms. Without a change of machine or versions the same files come
out, to the byte (Spark's apart, which have times in them). With ``inputs`` for a room the inputs are made; all
references must follow.

The wheel writes in a process of its own, ``python -P -m tests.golden.make ROOM --into DIRECTORY``, whose PYTHONPATH
begins with the unpacked wheel. Tests call it where this machine's versions are others than the kept ones.

A room is written by the public interface only, so that today's code can be asked to write it as well. It is written
in its directory, in which ``inputs`` is a link. A saved state holds full paths of input files: below ``HERE`` they are
the same everywhere.
"""

from __future__ import annotations

import json
import lzma
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import inputs
from tests.golden.library import Library
from tests.golden.rooms import clusters, fits, jobs, recipes

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "ba05dba"
WHEEL = KEPT / "eigenmill-0.1.0-py3-none-any.whl"
INPUTS = KEPT / "inputs"
ROOMS: dict[str, Callable[[Library], None]] = {
    "models": fits.models,
    "states": fits.states,
    "scans": fits.scans,
    "outputs": fits.outputs,
    "jobs": jobs.jobs,
    "daily": jobs.daily,
    "recipes": recipes.recipes,
    "dask": clusters.dask,
    "spark": clusters.spark,
}
MORE = {"recipes": ("torch", "constriction", "zstandard", "onnx"), "dask": ("distributed",), "spark": ("pyspark",)}
"""What else the bytes of a room depend on."""


def versions(room: str) -> dict[str, Any]:
    """What a room's bytes depend on, of this process."""
    from scipy import linalg  # noqa: F401 - brings a BLAS of its own
    from threadpoolctl import threadpool_info

    blas = {
        f"{i['internal_api']} {i['version']} {i['architecture']}" for i in threadpool_info() if i["user_api"] == "blas"
    }
    packages = ["numpy", "scipy", "pyarrow", *MORE.get(room, ())]
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "libc": " ".join(platform.libc_ver()),
        "blas": sorted(blas),
        "simd": np.show_config("dicts")["SIMD Extensions"]["found"],
        **{name: version(name) for name in packages},
    }


def in_directory(lib: Library, room: str, directory: Path) -> None:
    """Write a room into a directory, as the working directory of this process."""
    directory.mkdir(parents=True, exist_ok=True)
    before = os.getcwd()
    os.chdir(directory)
    os.symlink(INPUTS, "inputs")
    try:
        ROOMS[room](lib)
    finally:
        os.unlink("inputs")
        os.chdir(before)


def by_the_wheel(room: str, directory: Path) -> None:
    """Write a room by the kept wheel, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(WHEEL) as wheel:
            wheel.extractall(temporary)
        # Coverage is of today's code: in the child it would measure packages that are gone afterwards.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        environment |= {"PYTHONPATH": f"{temporary}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-P", "-W", "ignore", "-m", "tests.golden.make", room, "--into", str(directory)]
        subprocess.run(command, cwd=temporary, env=environment, check=True)


def pack(directory: Path, archive: Path) -> None:
    """A directory as an archive of the same bytes wherever and whenever it is made."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    def members(path: Path) -> Iterator[Path]:
        for child in sorted(path.iterdir()):
            yield child
            if child.is_dir() and not child.is_symlink():
                yield from members(child)

    with lzma.open(archive, "wb", preset=9) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in members(directory):
            tar.add(path, str(path.relative_to(directory)), recursive=False, filter=plain)


def unpack(room: str, directory: Path) -> Path:
    """A room's references in a directory: the kept ones where this machine's versions are theirs."""
    kept = json.loads((KEPT / "versions.json").read_text())
    if kept[room] != versions(room):
        by_the_wheel(room, directory)
    else:
        with tarfile.open(KEPT / f"{room}.tar.xz") as tar:
            tar.extractall(directory, filter="data")
    return directory


def main(arguments: list[str]) -> None:
    if arguments[1:2] == ["--into"]:
        in_directory(Library(""), arguments[0], Path(arguments[2]))
    elif arguments == ["inputs"]:
        inputs.write(INPUTS)
    else:
        for room in arguments or ROOMS:
            with tempfile.TemporaryDirectory() as temporary:
                by_the_wheel(room, Path(temporary) / room)
                pack(Path(temporary) / room, KEPT / f"{room}.tar.xz")
        found = {room: versions(room) for room in ROOMS}
        (KEPT / "versions.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
