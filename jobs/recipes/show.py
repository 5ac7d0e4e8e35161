"""What ``eigenmill compress`` says to people: the stages, and the model before and after."""

from __future__ import annotations

from rich.console import Group, RenderableType

from eigenmill.compress.judging.evaluate import Evaluation
from eigenmill.jobs.recipes.report import CompactReport
from eigenmill.jobs.recipes.target import limits
from eigenmill.jobs.shown.show import facts, grid
from eigenmill.jobs.shown.words import count, number, percent, seconds


def report(found: CompactReport) -> RenderableType:
    """A table of the stages, one of before and after, and of a search its front."""
    before, after = found.test_before or found.before, found.test_after or found.after
    shown = percent if before.task == "classification" else number
    stages = grid(
        "step", "layers", "nonzero", "sparsity", "error", "file of 8 bits", "its error", "time",
        title="Steps, judged by the rows held out",
    )  # fmt: skip
    for stage in found.stages:
        stages.add_row(
            stage.name,
            "-".join(map(str, stage.widths)),
            count(stage.nonzero),
            percent(1 - stage.nonzero / max(stage.parameters, 1)),
            shown(stage.error),
            f"{count(stage.packed_bytes)} B",
            shown(stage.packed_error),
            "done before" if stage.resumed else seconds(stage.seconds),
        )
    parts: list[RenderableType] = [stages]
    if found.taught is not None:
        parts.append(f"The teachers together: {shown(found.taught)} of the same rows")
    parts += ["", before_and_after(before, after, tested=found.test_after is not None, machine=found.machine)]
    if found.target is not None:
        asked = grid("limit", "at most", "found", title=_verdict(found))
        for row in limits(found.target, found.after, found.found, found.machine):
            asked.add_row(*row)
        parts += ["", asked]
    if found.found is not None:
        timed = found.target is not None and found.target.max_latency_us is not None
        names = ["bytes", "error", *(["a call"] if timed else []), "widths", "bits", "price of a bit"]
        trials = grid(*names, title=f"Of {len(found.found.trials)} trials those that none beats in bytes and error")
        for t in found.found.front:
            took = [f"{t.latency_us or 0:,.1f} µs"] if timed else []
            net = ["-".join(map(str, t.candidate.hidden)), str(t.candidate.bits), f"{t.candidate.penalty:.2g}"]
            trials.add_row(count(t.bytes), shown(t.error), *took, *net)
        parts += ["", trials]
    if found.exported.bytes:
        parts += ["", _exports(found)]
    return Group(*parts, "", f"packed: {found.path}")


def _exports(found: CompactReport) -> RenderableType:
    """Sizes of the other forms, what the C takes, and how ONNX agrees."""
    rows: list[tuple[str, RenderableType | None]] = [
        (name, f"{count(size)} bytes") for name, size in found.exported.bytes.items()
    ]
    c, same = found.exported.footprint, found.exported.agreement
    if c is not None:
        sizes = f"{count(c.flash)} bytes of flash, {count(c.ram)} of RAM, {count(c.stack)} of stack"
        rows.append((f"  compiled by {c.compiler}", sizes))
    if same is not None:
        rows.append(
            ("  onnxruntime", f"same class on {count(same.same)} of {count(same.rows)} rows, probabilities within "
             f"{same.difference:.1e}")
        )  # fmt: skip
    return facts("Exports", rows)


def _verdict(found: CompactReport) -> str:
    assert found.target is not None
    if found.found is None:
        return "The steps alone meet the target"
    excess = found.target.excess(found.after.bytes or 0, found.after.error, found.found.best.latency_us)
    said = "met" if excess <= 0 else f"missed by {percent(excess)}"
    return f"The target is {said} after {len(found.found.trials)} trials"


def before_and_after(before: Evaluation, after: Evaluation, *, tested: bool, machine: str) -> RenderableType:
    """Size, ratio, errors and times of two evaluations, in one table; ``machine`` is where times were measured."""
    table = grid("", "before", "after", title=f"On {count(after.rows)} {'test rows' if tested else 'rows held out'}")
    shown = percent if after.task == "classification" else number
    table.add_row("size", f"{before.float_bytes / 1000:,.1f} KB", f"{(after.bytes or 0) / 1000:,.2f} KB")
    table.add_row("times smaller", "1", number(after.ratio))
    table.add_row("error", shown(before.error), shown(after.error))
    if before.accuracy is not None and after.accuracy is not None:
        ranges = [f"{percent(1 - s.high)} to {percent(1 - s.low)}" for s in (before.accuracy, after.accuracy)]
        table.add_row("  95 % interval", *ranges)
    for name, first, last in (
        ("log loss", before.log_loss, after.log_loss),
        ("calibration error", before.calibration_error, after.calibration_error),
        ("auc", before.auc, after.auc),
        ("r2", before.r2, after.r2),
    ):
        if last is not None:
            table.add_row(name, number(first), number(last))
    if after.mcnemar is not None:
        only = f"{after.mcnemar.only_before} / {after.mcnemar.only_after}"
        table.add_row("right alone (before / after)", only, f"p = {number(after.mcnemar.p_value)}")
    table.add_row("multiply-adds, not by 0", count(before.nonzero_multiply_adds), count(after.nonzero_multiply_adds))
    if after.latency:
        table.caption = f"times of a call, one thread of: {machine}"
    times = {(t.backend, t.batch): t for t in before.latency}
    for t in after.latency:
        was = times.get((t.backend, t.batch))
        table.add_row(
            f"{t.backend}, {count(t.batch)} rows: p50 / p95",
            "–" if was is None else f"{was.p50_us:,.0f} / {was.p95_us:,.0f} µs",
            f"{t.p50_us:,.0f} / {t.p95_us:,.0f} µs",
        )
    return table


__all__ = ["before_and_after", "report"]
