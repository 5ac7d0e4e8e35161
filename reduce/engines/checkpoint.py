"""A scan's merge tree on disk, in the engine's work directory: what a stopped run goes on from.

The file's name is the digest of the pass, the input and what the scan goes on from, so that it fits one scan only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from eigenmill.reduce.engines.base import Tree, one_blas_thread, restore_tree, tree_arrays
from eigenmill.reduce.errors import REMADE, ArtifactError, ChangedInputError
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.sources import seen
from eigenmill.reduce.sources.matrix import Matrix
from eigenmill.reduce.storage import files, places
from eigenmill.reduce.storage.array_file import load_arrays, save_arrays
from eigenmill.reduce.storage.digest import digest_of, tag_of

log = logging.getLogger("eigenmill")
S = TypeVar("S")
R = TypeVar("R")


def scanned(
    work: str | None, pass_: Pass[S, R], data: Matrix, tree: Tree[S] | None, fold: Callable[[Tree[S], bool], None]
) -> R:
    """The result of one scan on a cluster: ``fold(tree, keep)`` fills a tree, unless ``work`` has it finished.

    A given ``tree`` is continued and left complete (``keep``); of another one only the total matters.
    """
    keep, tree = tree is not None, Tree() if tree is None else tree
    saved = None
    if work is not None:
        saved = Checkpoint(work, pass_, data, tree, form="tree" if keep or tree.nodes else "total")
    if saved is None or not saved.resume():
        fold(tree, keep)
        if saved is not None:
            saved.save(whole=True)
    with one_blas_thread():
        return pass_.finalize(tree.total(pass_, keep=keep))


class Checkpoint:
    """The tree of one scan on disk.

    Args:
        work: the directory, a path or URI.
        pass_, data: the scan.
        tree: filled by the scan; what it holds now is what the scan goes on from.
        lock: held while the tree changes.
        every: seconds between two saves while the scan runs.
        form: distinguishes trees of which only the total is kept.
    """

    def __init__(
        self,
        work: str | os.PathLike[str],
        pass_: Pass[Any, Any],
        data: Matrix,
        tree: Tree[Any],
        lock: contextlib.AbstractContextManager[object] | None = None,
        every: float = 30.0,
        form: str = "tree",
    ) -> None:
        self.kind, self.tree, self.every = pass_.state_type(), tree, every
        self.tree_lock = lock or contextlib.nullcontext()
        # A tree that goes on from an earlier day cannot fold that day's leaves again, so it is saved only when whole.
        self.fresh = not tree.nodes and tree.open is None
        past = None if self.fresh else tree_arrays(tree)
        self.fs, directory = places.resolve(work)
        name = f"{directory}/{digest_of([tag_of(type(pass_)).name, pass_, data.digest, past, form])}"
        self.path, self.seen, self.source = f"{name}.state", f"{name}.seen.json", data.source
        self.last, self.lock, self.marked = time.monotonic(), threading.Lock(), False

    def resume(self) -> bool:
        """Take over what an earlier run has saved; true when that was the whole scan."""
        if not files.exists(self.fs, self.path):
            return False
        saved: Tree[Any] = Tree()
        try:
            seen.check(self.source, seen.read(self.fs, self.seen, ArtifactError))
            arrays, meta = load_arrays(self.path, filesystem=self.fs)
            restore_tree(arrays, meta, self.kind, saved)
        except ChangedInputError as error:
            log.warning("the scan begins anew, for its checkpoint is of another input: %s", error)
            self._forget()
            return False
        except ArtifactError as error:
            # A damaged checkpoint costs time, not correctness: the leaves are folded again.
            log.warning("the scan begins anew, for its checkpoint cannot be read: %s", error, extra=REMADE)
            self._forget()
            return False
        self.marked = True
        if meta.get("whole"):
            vars(self.tree).update(vars(saved))
            return True
        self.tree.nodes = saved.nodes
        return False

    def _forget(self) -> None:
        for path in (self.path, self.seen):
            files.remove(self.fs, path)

    def save_if_due(self, *, now: bool = False) -> None:
        """Save when the time has come, or ``now``, if a part of the scan is of use."""
        if self.fresh and (now or time.monotonic() - self.last > self.every):
            self.save()

    def save(self, *, whole: bool = False) -> None:
        """Write the states at rest; leaves in flight are simply folded again after a resume."""
        with self.lock, self.tree_lock:
            self.last = time.monotonic()
            files.make_directory(self.fs, files.split(self.path)[0])
            if not self.marked:
                seen.write(self.fs, self.seen, seen.absolute_files(self.source))
                self.marked = True
            arrays, meta = tree_arrays(self.tree)
            save_arrays(self.path, arrays, {**meta, "whole": whole}, filesystem=self.fs)
