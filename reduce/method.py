"""How an estimator would fit data of some shape: a solver and its stages, with numbers that are exact or bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eigenmill.reduce.engines.base import scan_name
from eigenmill.reduce.passes.base import Pass
from eigenmill.reduce.rows.transforms import Transform


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


@dataclass(frozen=True)
class Stage:
    """Scans of one kind that a fit asks for.

    Attributes:
        pass_: the pass, as large as it gets; its arrays may be zeros that are never touched and take no memory.
        why: what the scans are for.
        products: multiply-adds of one scan.
        times: how many scans; ``usual``: as a rule, for the estimate of seconds.
        held: bytes that the fit holds beside them in this process.
        refusal: given ``need(pass_, held)``, the bytes that a scan takes, and the limit: what does not fit, and what
            to change (``"block_size=5, "``); by default the scan as such, and fewer columns.
    """

    pass_: Pass[Any, Any]
    why: str
    products: float
    times: Bound = ONCE
    usual: int = 1
    held: int = 0
    refusal: Callable[[Callable[[Pass[Any, Any], int], int], int], tuple[str, str]] | None = None

    @property
    def name(self) -> str:
        return scan_name(self.pass_)


@dataclass(frozen=True)
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
