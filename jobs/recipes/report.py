"""What a recipe has come to, as records; :mod:`eigenmill.jobs.recipes.run` fills them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from eigenmill.compress.exports.native import Footprint
from eigenmill.compress.exports.onnx import Agreement
from eigenmill.compress.judging.evaluate import Evaluation
from eigenmill.compress.search import Search, Target
from eigenmill.reduce.storage import about


@dataclass(frozen=True)
class Stage:
    """What is known after a step.

    Attributes:
        name: number and kind of the step.
        error: on the rows held out; ``log_loss`` of a classification.
        parameters, nonzero: weights and biases.
        sparsity: by layer, share of the weights that are 0.
        widths: results of every layer.
        packed_bytes: of the file that the model makes, with weights of 8 bits if it is not quantized yet.
        packed_error: of that file, on the rows held out.
        seconds: of the step.
        resumed: whether an earlier run had done it.
    """

    name: str
    error: float
    log_loss: float | None
    parameters: int
    nonzero: int
    sparsity: tuple[float, ...]
    widths: tuple[int, ...]
    packed_bytes: int
    packed_error: float
    seconds: float
    resumed: bool = False


@dataclass(frozen=True)
class Exported:
    """Other forms of the model, and how they compare.

    Attributes:
        bytes: of each file, by name.
        footprint: what the C takes, where a compiler is at hand: for a Cortex-M4 if that one is, else for this machine.
        agreement: of ONNX with the packed file on the rows held out, where onnxruntime is at hand.
        backends: ways to predict, for timing.
    """

    bytes: dict[str, int] = field(default_factory=dict)
    footprint: Footprint | None = None
    agreement: Agreement | None = None
    backends: dict[str, Callable[[Any], Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        footprint, agreement = self.footprint, self.agreement
        return {
            "bytes": self.bytes,
            "footprint": None if footprint is None else asdict(footprint),
            "agreement": None if agreement is None else asdict(agreement),
        }


Histogram = tuple[list[int], list[float]]
"""Counts, and the edges between which they lie."""


@dataclass(frozen=True)
class CompactReport:
    """What a recipe has come to.

    Attributes:
        path: of the packed file.
        stages: in order.
        taught: error of the teachers together on the rows held out, if there were some.
        before: the model of the first step in single precision, on the rows held out; ``after``: the file.
        test_before: the same on the test rows, if the recipe has some; ``test_after`` likewise.
        found: the search, if there was one.
        exported: what was written beside the packed file.
        histograms: of the weights other than 0, by stage and layer.
        target: what the file must keep to, if anything.
        machine: the processor on which times were measured.
        recipe: with its defaults.
    """

    path: str
    stages: tuple[Stage, ...]
    taught: float | None
    before: Evaluation
    after: Evaluation
    test_before: Evaluation | None
    test_after: Evaluation | None
    found: Search | None
    exported: Exported
    histograms: tuple[tuple[str, tuple[Histogram, ...]], ...] = field(repr=False)
    target: Target | None
    machine: str
    recipe: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        tested = {"before": self.test_before, "after": self.test_after}
        trials = None
        if self.found is not None:
            trials = {
                "met": self.found.met,
                "machine": self.machine,
                "excess": self.found.best.excess,
                "best": asdict(self.found.best),
                "trials": [asdict(trial) for trial in self.found.trials],
                "front": [asdict(trial) for trial in self.found.front],
            }
        return {
            "model": self.path,
            "stages": [asdict(stage) for stage in self.stages],
            "teachers": None if self.taught is None else {"error": self.taught},
            "validation": {"before": self.before.as_json(), "after": self.after.as_json()},
            "test": {name: None if e is None else e.as_json() for name, e in tested.items()},
            "machine": self.machine,
            "target": None if self.target is None else asdict(self.target),
            "search": trials,
            "exports": self.exported.as_json(),
            "versions": about.versions(),
            "recipe": self.recipe,
        }


__all__ = ["CompactReport", "Exported", "Histogram", "Stage"]
