"""What is below a directory, and what of it has been written again."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


def tree(folder: str | os.PathLike[str], *, without: str | None = None) -> dict[str, str]:
    """SHA-256 of every file and target of every link below, by relative path, hidden ones included.

    Args:
        without: the name of directories that are left out.
    """
    found, root = dict[str, str](), Path(folder)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if without in name.parts:
            continue
        if path.is_symlink():
            found[name.as_posix()] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def stamps(folder: Path, pattern: str = "*") -> dict[Path, tuple[int, int]]:
    """For each file below that is not a link what changes when it is written again."""
    files = [path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def numberless(found: dict[str, str]) -> dict[str, str]:
    """A tree without the numbers of versions: a run that was stopped before it wrote anything has taken one."""
    return {re.sub(r"\.v\d{6}", ".v", path): content for path, content in found.items()}
