"""What this process does to the files below a directory, in order: what a power failure leaves is decided by it.

Only what cannot be seen afterwards is recorded from calls: ``fsync`` and the moment of a rename or link. All else
(files made, written and removed, directories made) is read off the tree before each of them, so that it does not matter
how the code writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Event = tuple[str, str]
"""What was done (write, sync, rename, remove, mkdir, rmdir, link) and to which path below the directory."""


@dataclass
class FileEvents:
    """The events so far; a temporary file has the name under which it is published."""

    root: Path
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._seen = self._tree()

    def _tree(self) -> dict[str, tuple[str, Any]]:
        """Kind and content of everything below the directory; hard to hold still, so what vanishes is left out."""
        found: dict[str, tuple[str, Any]] = {}
        for folder, folders, names in os.walk(self.root):
            for name in sorted([*folders, *names]):
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.islink(path):
                        found[self._name(path)] = ("link", os.readlink(path))
                    elif os.path.isdir(path):
                        found[self._name(path)] = ("directory", None)
                    else:
                        found[self._name(path)] = ("file", hashlib.sha256(Path(path).read_bytes()).hexdigest())
        return found

    def _name(self, path: str | os.PathLike[str]) -> str:
        return os.path.relpath(os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path), self.root)

    def _inside(self, path: str | os.PathLike[str]) -> bool:
        return os.path.realpath(os.path.dirname(path) or ".").startswith(str(self.root)) or str(path) == str(self.root)

    def look(self) -> None:
        """Note what has changed in the tree."""
        before, self._seen = self._seen, self._tree()
        for name in sorted(self._seen):
            kind = self._seen[name][0]
            if self._seen[name] != before.get(name):
                self.events.append(({"link": "link", "directory": "mkdir", "file": "write"}[kind], name))
        for name in sorted(set(before) - set(self._seen), reverse=True):
            if not self._temporary(name):
                self.events.append(("rmdir" if before[name][0] == "directory" else "remove", name))

    def synced(self, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if self._inside(path):
            with self._lock:
                self.look()
                self.events.append(("sync", self._name(path) if path != str(self.root) else "."))

    @contextlib.contextmanager
    def renaming(self, source: Any, target: Any) -> Iterator[None]:
        if not self._inside(os.fspath(target)):
            yield
            return
        with self._lock:
            self.look()
            yield
            old, new = self._name(os.fspath(source)), self._name(os.fspath(target))
            self._seen = self._tree()
            self.events = [(what, new if name == old and self._temporary(old) else name) for what, name in self.events]
            self.events.append(("rename", new))

    def linked(self, source: Any, target: Any) -> None:
        """A second name: of a temporary file, which is published by it, or of one that was published before."""
        if self._inside(os.fspath(target)):
            with self._lock:
                self._seen = self._tree()
                old, new = self._name(os.fspath(source)), self._name(os.fspath(target))
                if self._temporary(old):
                    self.events = [(what, new if name == old else name) for what, name in self.events]
                self.events.append(("rename" if self._temporary(old) else "link", new))

    @staticmethod
    def _temporary(name: str) -> bool:
        return name.rpartition("/")[2].startswith(".") and name.endswith((".tmp", ".next"))

    def named(self, *kinds: str) -> list[Event]:
        """The events of these kinds."""
        return [(what, name) for what, name in self.events if what in kinds]


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[FileEvents]:
    """Record what happens below ``root`` while the context lasts."""
    found = FileEvents(Path(os.path.realpath(root)))
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def syncing(handle: Any) -> None:
        fsync(handle)
        found.synced(handle if isinstance(handle, int) else handle.fileno())

    def moving(move: Any) -> Any:
        def moved(source: Any, target: Any, **options: Any) -> None:
            with found.renaming(source, target):
                move(source, target, **options)

        return moved

    link = os.link

    def linking(source: Any, target: Any, **options: Any) -> None:
        found.look()
        link(source, target, **options)
        found.linked(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", syncing)
        patch.setattr(os, "link", linking)
        patch.setattr(os, "replace", moving(replace))
        patch.setattr(os, "rename", moving(rename))
        yield found
        found.look()


def holds_after_power_failure(found: FileEvents) -> None:
    """Assert that whatever was published stays: each file, its name, and the directories that lead to it.

    A file is written, synced, renamed, and then its directory synced, with nothing between: nothing is removed and no
    other file begun before that. A directory is synced into the one above before anything in it is named.
    """
    events, folders = found.events, dict[str, int]()
    for at, (what, name) in enumerate(events):
        above = os.path.dirname(name) or "."
        if what == "mkdir":
            folders[name] = at
        if what == "rename":
            before = [(i, did) for i, (did, other) in enumerate(events[:at]) if other == name and did != "remove"]
            last = [did for _, did in before[-2:]]
            assert last == ["write", "sync"] or last[-1:] == ["link"], f"{name} renamed after {last}: {events}"
            assert events[at + 1 : at + 2] == [("sync", above)], f"{name} named, {above} not synced: {events}"
            assert last[-1] == "link" or before[-1][0] == at - 1, (
                f"{events[at - 1]} between the sync and the name of {name}"
            )
    for folder, at in folders.items():
        above = os.path.dirname(folder) or "."
        named = [i for i, (what, name) in enumerate(events) if what == "rename" and name.startswith(folder + "/")]
        synced = [i for i, event in enumerate(events) if event == ("sync", above) and i > at]
        assert not named or (synced and synced[0] < named[0]), f"{folder} made, {above} not synced: {events}"
