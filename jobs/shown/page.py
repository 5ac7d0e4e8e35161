"""The demonstration's page: one HTML file with inline SVG, to be opened from disk without a network."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eigenmill.jobs.shown.words import SCANS, count, percent, seconds

Floats = npt.NDArray[Any]
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #6b7280; --line: #d7dae0; --back: #fbfbfa; --blue: #4269d0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --dim: #9aa0a6; --line: #3a3d42; --back: #17181a } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back) }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem } p { margin: .3rem 0 }
.dim, figcaption { color: var(--dim) } figure { margin: 0 } svg { width: 100%; height: auto; display: block }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem 1.5rem }
dt { color: var(--dim); font-size: .85rem } dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums }
text { fill: var(--dim); font: 12px system-ui, sans-serif } .axis { stroke: var(--line); fill: none }
.strong { fill: var(--ink) }
code { font: .9em ui-monospace, monospace } image { image-rendering: pixelated }
"""


@dataclass(frozen=True)
class Content:
    """What the page shows.

    Attributes:
        title: of the page; ``origin`` says where the data comes from.
        facts: (name, value) pairs at the top.
        ratio: (k,) explained variance ratios; ``rank`` of the original columns.
        originals, reconstructed: (m, side, side) digits in 0..255.
        points: (m, 2) first two components; ``labels`` (m,) digits 0..9.
        stages: (name, seconds); ``scans``: (name, seconds, rows per second).
        notes: sentences at the end.
    """

    title: str
    origin: str
    facts: Sequence[tuple[str, str]]
    ratio: Floats
    features: int
    originals: Floats
    reconstructed: Floats
    points: Floats
    labels: npt.NDArray[Any]
    stages: Sequence[tuple[str, float]]
    scans: Sequence[tuple[str, float, float]]
    notes: Sequence[str]


def render(content: Content) -> str:
    """The page as HTML text."""
    k = len(content.ratio)
    sections = [
        (
            "Explained variance",
            scree(content.ratio),
            f"Share of each of the {count(k)} components (bars) and of all up to it (line).",
        ),
        (
            "Digits before and after",
            digits(content.originals, content.reconstructed),
            f"Above as they are, {count(content.features)} numbers each; below rebuilt from {count(k)} components.",
        ),
        (
            "The first two components",
            scatter(content.points, content.labels),
            f"{count(len(content.points))} digits, coloured by label.",
        ),
        (
            "Seconds by stage",
            bars(content.stages),
            "; ".join(
                f"{SCANS.get(name, name)}: {seconds(took)}, {count(rate)} rows/s" for name, took, rate in content.scans
            ),
        ),
    ]
    return sheet(content.title, content.origin, content.facts, sections, content.notes)


def sheet(
    title: str,
    origin: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[tuple[str, str, str]],
    notes: Sequence[str],
) -> str:
    """A page: facts are (name, value), sections (title, figure, caption); all but the figures is escaped."""
    listed = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    body = "".join(
        f"<h2>{html.escape(name)}</h2><figure>{figure}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for name, figure, caption in sections
    )
    then = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f'<h1>{html.escape(title)}</h1><p class="dim">{html.escape(origin)}</p>'
        f"<dl>{listed}</dl>{body}<h2>And then</h2>{then}</html>\n"
    )


def svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    """A figure that scales to the page's width; ``label`` is what it is read out as."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'


def scree(ratio: Floats, width: int = 900, height: int = 260) -> str:
    """Bars of the shares, on their own scale, and the line of their sum, from 0 to 100 %."""
    left, right, top, bottom = 48, 48, 12, 28
    w, h, k = width - left - right, height - top - bottom, max(len(ratio), 1)
    tallest = float(ratio.max()) if len(ratio) and ratio.max() > 0 else 1.0
    step = w / k
    parts = [f'<path class="axis" d="M{left} {top}V{top + h}H{left + w}V{top}"/>']
    for j, share in enumerate(ratio):
        tall = h * float(share) / tallest
        parts.append(
            f'<rect x="{left + j * step:.2f}" y="{top + h - tall:.2f}" '
            f'width="{max(step * 0.8, 0.6):.2f}" height="{tall:.2f}" fill="var(--blue)" opacity=".75">'
            f"<title>component {j + 1}: {percent(float(share))}</title></rect>"
        )
    together = np.cumsum(ratio)
    line = " ".join(f"{left + (j + 0.5) * step:.1f},{top + h - h * float(v):.1f}" for j, v in enumerate(together))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[2]}" stroke-width="2"/>')
    for tick in (0.0, 0.5, 1.0):
        y = top + h - h * tick + 4
        parts.append(f'<text x="{left - 6}" y="{y:.0f}" text-anchor="end">{percent(tick * tallest)[:-2]}%</text>')
        parts.append(f'<text x="{left + w + 6}" y="{y:.0f}">{tick:.0%}</text>')
    for j in sorted({1, k // 2 or 1, k}):
        parts.append(f'<text x="{left + (j - 0.5) * step:.0f}" y="{height - 8}" text-anchor="middle">{j}</text>')
    return svg(width, height, parts, "explained variance by component")


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """An 8-bit grey image (h, w) as PNG (ISO/IEC 15948)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w = image.shape
    lines = np.zeros((h, w + 1), np.uint8)
    lines[:, 1:] = image
    header = struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def digits(originals: Floats, reconstructed: Floats) -> str:
    """Two rows of digits, dark on light."""
    m, gap, size = max(len(originals), 1), 8, 900
    side = (size - gap * (m - 1)) / m
    parts = []
    for row, images in enumerate((originals, reconstructed)):
        for j, image in enumerate(images):
            grey = (255 - np.clip(np.round(image), 0, 255)).astype(np.uint8)
            data = base64.b64encode(png(grey)).decode()
            place = f'x="{j * (side + gap):.1f}" y="{row * (side + gap):.1f}" width="{side:.1f}" height="{side:.1f}"'
            parts.append(f'<image {place} href="data:image/png;base64,{data}"/>')
    return svg(size, round(2 * side + gap), parts, "digits and their reconstructions")


def scatter(points: Floats, labels: npt.NDArray[Any], width: int = 900, height: int = 490) -> str:
    """Points in the plane under a legend; the outermost hundredth is drawn on the border."""
    top = 30
    parts = [f'<rect class="axis" x=".5" y="{top}.5" width="{width - 1}" height="{height - top - 1}"/>']
    if len(points):
        low, high = np.quantile(points, [0.005, 0.995], axis=0)
        share = np.clip((points - low) / np.where(high > low, high - low, 1.0), 0, 1)
        for (x, y), label in zip(share, labels, strict=True):
            parts.append(
                f'<circle cx="{12 + x * (width - 24):.1f}" cy="{height - 12 - y * (height - top - 24):.1f}" r="2.6" '
                f'fill="{COLOURS[int(label) % 10]}" opacity=".7"/>'
            )
    for j, label in enumerate(np.unique(labels)):
        x = 8 + 40 * j
        parts.append(
            f'<circle cx="{x}" cy="14" r="6" fill="{COLOURS[int(label) % 10]}"/>'
            f'<text class="strong" x="{x + 10}" y="18">{label}</text>'
        )
    return svg(width, height, parts, "first two components by label")


def bars(stages: Sequence[tuple[str, float]], width: int = 900) -> str:
    """One bar per stage."""
    longest = max((took for _, took in stages), default=0.0) or 1.0
    parts = []
    for j, (name, took) in enumerate(stages):
        y, long = 26 * j, 640 * took / longest
        parts.append(f'<text class="strong" x="92" y="{y + 17}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(
            f'<rect x="100" y="{y + 4}" width="{max(long, 1):.1f}" height="18" fill="var(--blue)" opacity=".75"/>'
        )
        parts.append(f'<text x="{106 + long:.0f}" y="{y + 17}">{seconds(took)}</text>')
    return svg(width, 26 * max(len(stages), 1), parts, "seconds by stage")


__all__ = ["COLOURS", "Content", "png", "render", "sheet", "svg"]
