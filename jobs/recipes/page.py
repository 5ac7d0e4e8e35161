"""The page of a compact model: sizes and errors, weights and sparsity, in one HTML file without a network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from eigenmill.jobs.recipes.report import CompactReport, Histogram, Stage
from eigenmill.jobs.recipes.target import limits
from eigenmill.jobs.shown.page import COLOURS, sheet, svg
from eigenmill.jobs.shown.words import count, number, percent

Point = tuple[str, int, float]


def page(report: CompactReport) -> str:
    """The report as HTML text."""
    before, after = report.test_before or report.before, report.test_after or report.after
    shown = percent if before.task == "classification" else number
    facts = [
        ("file", f"{count(after.bytes or 0)} bytes"),
        ("in single precision", f"{count(after.float_bytes)} bytes"),
        ("times smaller", number(after.ratio)),
        ("error before", shown(before.error)),
        ("error after", shown(after.error)),
        ("rows scored", count(after.rows)),
    ]
    points: list[Point] = [(stage.name, stage.packed_bytes, stage.packed_error) for stage in report.stages]
    if report.found is not None:
        points += [(f"trial {i}", t.bytes, t.error) for i, t in enumerate(report.found.trials)]
    last = report.stages[-1]
    sections = [
        ("Size and error", size_and_error(points), "Each step, or trial of the search, as the file that it makes: "
         "bytes to the right, error on the rows held out upwards."),
        ("Weights", histograms(report.histograms), "Weights other than 0 by step and layer, each on its own scale."),
        ("Sparsity by layer", sparsity(report.stages), f"Share of weights that are 0; in the end {count(last.nonzero)} "
         f"of {count(last.parameters)} parameters are not."),
    ]  # fmt: skip
    judged = "the test rows, scored once for this file" if report.test_after else "the rows held out"
    notes = [f"Errors are those on {judged}.", f"Use it: eigenmill predict {report.path} INPUT --out predictions"]
    if report.target is not None:
        rows = limits(report.target, report.after, report.found, report.machine)
        notes.insert(0, "The target: " + "; ".join(f"{what}, at most {most}: {found}" for what, most, found in rows))
    return sheet("A compact model", f"{report.path}", facts, sections, notes)


def size_and_error(points: Sequence[Point], width: int = 900, height: int = 320) -> str:
    """Points of bytes, on a logarithmic scale, and error; the staircase joins those that nothing beats."""
    left, right, top, bottom = 64, 20, 16, 36
    w, h = width - left - right, height - top - bottom
    logs = [math.log(max(size, 1)) for _, size, _ in points]
    low, high = min(logs) - 0.1, max(logs) + 0.1
    tallest = max((error for _, _, error in points), default=1.0) * 1.1 or 1.0

    def x(size: int) -> float:
        return left + w * (math.log(max(size, 1)) - low) / (high - low)

    def y(error: float) -> float:
        return top + h - h * error / tallest

    parts = [f'<path class="axis" d="M{left} {top}V{top + h}H{left + w}"/>']
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[1], p[2])):
        if not best or point[2] < best[-1][2]:
            best.append(point)
    line = " ".join(f"{x(size):.1f},{y(error):.1f}" for _, size, error in best)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[2]}" stroke-width="2"/>')
    for j, (name, size, error) in enumerate(points):
        text = html.escape(f"{name}: {count(size)} bytes, error {number(error)}")
        parts.append(
            f'<circle cx="{x(size):.1f}" cy="{y(error):.1f}" r="5" fill="{COLOURS[j % 10]}">'
            f"<title>{text}</title></circle>"
            f'<text x="{x(size) + 8:.1f}" y="{y(error) - 6:.1f}">{html.escape(name)}</text>'
        )
    for _, size, _ in (min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])):
        parts.append(f'<text x="{x(size):.0f}" y="{height - 12}" text-anchor="middle">{count(size)}</text>')
    for share in (0.0, tallest / 2, tallest):
        parts.append(f'<text x="{left - 6}" y="{y(share) + 4:.0f}" text-anchor="end">{number(round(share, 5))}</text>')
    return svg(width, height, parts, "size and error")


def histograms(stages: Sequence[tuple[str, Sequence[Histogram]]], width: int = 900) -> str:
    """One row per stage, one small histogram per layer."""
    tall, parts = 84, []
    most = max(len(layers) for _, layers in stages)
    each = (width - 130) / most
    for row, (name, layers) in enumerate(stages):
        base = tall * row + 66
        parts.append(f'<text class="strong" x="0" y="{base - 20}">{html.escape(name)}</text>')
        for column, (counts, edges) in enumerate(layers):
            start, peak = 130 + column * each, max(max(counts), 1)
            wide = (each - 16) / len(counts)
            for k, held in enumerate(counts):
                high = 54 * held / peak
                parts.append(
                    f'<rect x="{start + k * wide:.1f}" y="{base - high:.1f}" width="{wide * 0.9:.1f}" '
                    f'height="{high:.1f}" fill="var(--blue)" opacity=".75"/>'
                )
            ends = [(start, "start", edges[0]), (start + each - 16, "end", edges[-1])]
            for at, anchor, edge in ends:
                text = number(round(edge, 3))
                parts.append(f'<text x="{at:.0f}" y="{base + 13}" text-anchor="{anchor}">{text}</text>')
    return svg(width, tall * len(stages), parts, "weights by step and layer")


def sparsity(stages: Sequence[Stage], width: int = 900) -> str:
    """One bar per stage and layer."""
    parts, at = [], 0
    for stage in stages:
        parts.append(f'<text class="strong" x="0" y="{at + 16}">{html.escape(stage.name)}</text>')
        for k, share in enumerate(stage.sparsity):
            parts.append(
                f'<rect x="130" y="{at + 4}" width="{max(600 * share, 1):.1f}" height="14" '
                f'fill="{COLOURS[k % 10]}" opacity=".8"/>'
                f'<text x="{138 + 600 * share:.0f}" y="{at + 16}">layer {k}: {percent(share)}</text>'
            )
            at += 20
        at += 8
    return svg(width, max(at, 20), parts, "sparsity by layer")


__all__ = ["page"]
