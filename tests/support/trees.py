"""What is below a directory, and what of it has been written again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from eigenmill.reduce.storage.chain import FOLDER


def tree(
    folder: str | os.PathLike[str], *, without: str | None = None, form: Callable[[bytes], bytes] = bytes
) -> dict[str, str]:
    """SHA-256 of every file and target of every link below, by relative path, hidden ones included.

    Chains of what changes are left out: their names are drawn at random.

    Args:
        without: the name of directories that are left out.
        form: what is digested of a file's content.
    """
    found, root = dict[str, str](), Path(folder)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if without in name.parts or FOLDER in name.parts:
            continue
        if path.is_symlink():
            found[name.as_posix()] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name.as_posix()] = hashlib.sha256(form(path.read_bytes())).hexdigest()
    return found


def stamps(folder: Path, pattern: str = "*") -> dict[Path, tuple[int, int]]:
    """For each file below that is not a link, chains left out, what changes when it is written again."""
    files = [p for p in folder.rglob(pattern) if p.is_file() and not p.is_symlink() and FOLDER not in p.parts]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def numberless(found: dict[str, str]) -> dict[str, str]:
    """A tree without the numbers of versions: a run that was stopped before it wrote anything has taken one."""
    return {re.sub(r"\.v\d{6}", ".v", path): content for path, content in found.items()}
