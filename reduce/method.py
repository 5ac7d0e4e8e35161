"""How an estimator would fit data of some shape: a solver and its stages, with numbers that are exact or bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from eigenmill.reduce.engines.base import Tree, plan_leaves, scan_name
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.transforms import Transform
from eigenmill.reduce.sources.matrix import Matrix


@dataclass(frozen=True)
class Bound:
    """A number that the metadata bound: from ``least`` to ``most``, by ``rule``. It is exact when these are equal."""

    least: int
    most: int
    rule: str = ""

    @classmethod
    def exact(cls, value: int) -> Bound:
        return cls(value, value)

    @property
    def known(self) -> bool:
        """Whether it is exact."""
        return self.least == self.most

    def __contains__(self, value: int) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{self.least:,}" if self.known else f"{self.least:,} to {self.most:,}"

    def as_json(self) -> int | dict[str, int | str]:
        """A number when it is exact, else ``least``, ``most`` and ``rule``."""
        return self.least if self.known else {"least": self.least, "most": self.most, "rule": self.rule}


ONCE = Bound.exact(1)


@dataclass(frozen=True, eq=False)
class Stage:
    """Scans of one kind that a fit asks for.

    Attributes:
        pass_: the pass, as large as it gets; its arrays may be zeros that are never touched and take no memory.
        why: what the scans are for.
        products: multiply-adds of one scan.
        times: how many scans; ``usual``: as a rule, for the estimate of seconds.
        held: bytes that the fit holds beside them in this process; ``kept``: beside their result, from then on.
        refusal: given ``need(pass_, held)``, the bytes that a scan takes, and the limit: what does not fit, and what
            to change (``"block_size=5, "``); by default the scan as such, and fewer columns.
    """

    pass_: Pass[Any, Any]
    why: str
    products: float
    times: Bound = ONCE
    usual: int = 1
    held: int = 0
    kept: int = 0
    refusal: Callable[[Callable[[Pass[Any, Any], int], int], int], tuple[str, str]] | None = None

    @property
    def name(self) -> str:
        return scan_name(self.pass_)


@dataclass(frozen=True, eq=False)
class Method:
    """How an estimator fits data of some shape.

    Attributes:
        solver: its name. reason: why this one.
        stages: in order.
        components: columns of the features.
        outline: the fitted model with so many components as a transform, with zeros for its numbers.
        seed: of random numbers, where the solver takes any.
        reserve: bytes held by the last scan, when the scans read the same files many times.
        limits: whether the first stage is not the solver's, but learns the limits of clipping.
    """

    solver: str
    reason: str
    stages: tuple[Stage, ...]
    components: Bound
    outline: Callable[[int], Transform]
    seed: int | None = None
    reserve: int | None = None
    limits: bool = False

    @property
    def first(self) -> Stage:
        """The solver's first stage."""
        return self.stages[int(self.limits)]


def keeping(method: Method, data: Matrix, rows: int, before: Tree[Any] | None) -> Method:
    """The method when its states are kept, to go on from: what they and copies of them take is counted.

    Args:
        method: whose solver is exact.
        data: what is read.
        rows: of it and of what came before.
        before: the tree that it goes on from.
    """
    first, leaves = method.first, plan_leaves(data, after=before)
    state = first.pass_.sizes(0, rows)[0]

    def size(leaves: int) -> int:
        # A node for every power of two and the open leaf; rows are in one of them only.
        return state * (1 if method.solver == "dual" else leaves.bit_length() + 1)

    tree = size(leaves.first + len(leaves))
    copied = 0 if before is None else size(before.leaves)
    stages = list(method.stages)
    at = int(method.limits)
    # The states stay while a copy of them becomes the result.
    stages[at] = replace(first, held=first.held + copied, kept=2 * tree)
    stages[at + 1 :] = [replace(stage, held=stage.held + tree) for stage in stages[at + 1 :]]
    return replace(method, stages=tuple(stages))
