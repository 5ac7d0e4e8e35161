"""Results as rich tables, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from eigenmill.jobs.reduction.report import RunReport
from eigenmill.jobs.reduction.results import Column, Texts, Update
from eigenmill.jobs.shown.words import SCANS, count, number, percent, seconds, visible
from eigenmill.reduce import Manifest
from eigenmill.reduce.engines.kinds import Cluster
from eigenmill.reduce.engines.memory import Memory, format_bytes
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.method import Bound
from eigenmill.reduce.plan import Plan
from eigenmill.reduce.scan import Scan
from eigenmill.reduce.storage import secrets

BLOCKS = "▁▂▃▄▅▆▇█"
KNOWN = {
    "footer": "by path, size and footer alone",
    "hint": "by path, size, footer and time of change",
    "content": "by its content and has been verified",
}
"""By what a file that was read before is known."""


def facts(title: str, rows: Sequence[tuple[str, RenderableType | None]]) -> RenderableType:
    """Names and values, those without a value left out; the title may name a URI, without what is secret in it."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, value)
    return Group(Text(visible(secrets.masked(title)), "bold"), table)


def grid(*columns: str, title: str | None = None) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """``values`` in [0, 1] as a line of blocks; longer ones are sampled evenly."""
    if len(values) == 0:
        return ""
    picked = np.asarray(values)[np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)]
    return "".join(BLOCKS[min(int(max(v, 0.0) * len(BLOCKS)), len(BLOCKS) - 1)] for v in picked)


def bar(share: float, width: int = 30) -> str:
    """A bar as long as ``share`` of ``width``."""
    return "█" * max(round(share * width), 1 if share > 0 else 0)


def plan(found: Plan) -> RenderableType:
    """What ``explain`` shows."""
    limit = "no limit" if found.memory_limit is None else format_bytes(found.memory_limit)
    output, once = found.output, all(scan.times.most == 1 for scan in found.scans)
    about = facts(
        "Plan",
        [
            ("solver", f"{found.solver}: {found.reason}"),
            ("input", f"{count(found.rows)} rows x {count(found.features)} {found.dtype} features"),
            ("files", f"{count(found.files)} in {count(found.fragments)} fragments, {count(found.leaves)} leaves"),
            ("bytes", f"{format_bytes(found.encoded_bytes)} encoded, {format_bytes(found.decoded_bytes)} decoded"),
            ("blocks", f"of {count(found.block_height)} rows"),
            ("components", bounded(found.components)),
            ("output", None if output is None else f"{sizes(output.bytes)} in {bounded(output.parts)} parts"),
            ("seed", None if found.seed is None else str(found.seed)),
            ("time", f"about {seconds(found.seconds)}"),
            ("kept blocks", None if found.cache is None else str(found.cache)),
            ("memory", Text(f"{format_bytes(found.peak)} at the peak, {limit}", "" if found.fits else "bold red")),
        ],
    )
    names = [
        f
        for f in Memory.__dataclass_fields__
        if f not in ("workers", "column") and any(getattr(s.memory, f) for s in found.scans)
    ]
    times = [] if once else ["times"]
    heads = ("scan", *times, "reads", "time", "workers", *names, "peak")
    table = grid(*heads, title="Scans, and what takes memory in each")
    for scan in found.scans:
        parts = [format_bytes(getattr(scan.memory, name)) for name in names]
        fits = found.memory_limit is None or scan.peak <= found.memory_limit
        table.add_row(
            f"{scan.name} ({SCANS[scan.name]})" if scan.name in SCANS else scan.name,
            *([] if once else [bounded(scan.times)]),
            format_bytes(scan.reads_bytes),
            seconds(scan.seconds),
            str(scan.memory.workers),
            *parts,
            Text(format_bytes(scan.peak), "" if fits else "bold red"),
        )
    loads: list[RenderableType] = [] if found.cluster is None else ["", _loads(found, found.cluster)]
    verdict = [] if found.fits else [Text(f"Does not fit: {found.advice}", "bold red")]
    return Group(about, "", table, facts("Why", [(s.name, why(s)) for s in found.scans]), *loads, *verdict)


def bounded(number: Bound) -> str:
    """A number, or from where to where."""
    return count(number.least) if number.known else f"{count(number.least)} to {count(number.most)}"


def sizes(number: Bound) -> str:
    """Bytes, or from where to where."""
    least, most = format_bytes(number.least), format_bytes(number.most)
    return f"about {least if number.known else f'{least} to {most}'}"


def why(scan: Scan) -> str:
    """What a scan is for, and how many there are."""
    return scan.why if scan.times.most == 1 else f"{scan.why}; {scan.times.rule}, usually {count(scan.usual)}"


def _loads(found: Plan, cluster: Cluster) -> RenderableType:
    """What the scans ask of a cluster."""
    title = f"On {cluster.kind}: {count(cluster.workers)} workers of {count(cluster.threads)} threads"
    heads = (
        "tasks",
        "merges",
        "described",
        "between workers",
        "to the driver",
        "driver",
        "worker",
        "scheduler",
        "merging",
    )
    table = grid("scan", *heads, title=title)
    for scan in found.scans:
        if (load := scan.load) is not None:
            table.add_row(
                scan.name,
                count(load.tasks),
                count(load.merges),
                *map(format_bytes, (load.described_bytes, load.moved_bytes, load.returned_bytes)),
                *map(format_bytes, (load.driver_bytes, load.worker_bytes)),
                *map(seconds, (load.scheduler_seconds, load.merge_seconds)),
            )
    return table


def variance(ratio: Sequence[float], *, listed: int = 10) -> RenderableType:
    """The explained variance: the first components one by one, and the whole curve."""
    table = grid("component", "share", "in all", title="Explained variance")
    table.add_column("")
    together = np.cumsum(ratio)
    for j, share in enumerate(ratio[:listed]):
        table.add_row(str(j + 1), percent(share), percent(together[j]), bar(share / max(ratio[0], 1e-300)))
    if len(ratio) > listed:
        table.add_row("...", "", "", "")
        table.add_row(
            str(len(ratio)), percent(ratio[-1]), percent(together[-1]), bar(ratio[-1] / max(ratio[0], 1e-300))
        )
    curve = Text.assemble(("in all, from 1 to ", "dim"), (str(len(ratio)), "dim"), "  ", sparkline(together.tolist()))
    return Group(table, curve)


def report(found: RunReport) -> RenderableType:
    """What ``reduce`` shows at its end."""
    if found.status == "unchanged":
        title = f"Nothing to do: everything was there already; the input is known {KNOWN[found.known_by or 'footer']}"
    else:
        title = "Done, going on from an interrupted run" if found.resumed else "Done"
    done = found.components
    output, quality = found.output, found.quality
    flaws = [
        f"{count(quality[key])} {word}"
        for key, word in [
            ("missing", "missing values"),
            ("non_finite", "infinities"),
            ("constant_columns", "constant columns"),
        ]
        if quality[key]
    ]
    model = f"{found.method}, solver {found.solver}" + ("" if found.fitted else ", fitted by an earlier run")
    kept = "" if found.explained_variance is None else f", {percent(found.explained_variance)} of the variance"
    about = facts(
        title,
        [
            ("input", f"{count(found.rows)} rows x {count(found.features)} features in {count(found.files)} files"),
            ("found in it", ", ".join(flaws) or "no gaps"),
            ("model", model),
            ("components", None if done is None else f"{count(done)}{kept}"),
            ("read", f"{format_bytes(found.bytes.read)} in {len(found.scans)} scans"),
            (
                "features",
                None
                if output.features is None
                else f"{output.features}: {count(output.rows or 0)} rows in {output.parts} files, "
                f"{format_bytes(found.bytes.written)}",
            ),
            ("model at", output.model),
            ("time", f"{seconds(found.seconds['total'])}, {count(found.rows_per_second)} rows/s"),
            ("memory", f"{format_bytes(found.peak_memory)} at the peak"),
        ],
    )
    return Group(about, "", stages(found))


def stages(found: RunReport) -> Table:
    """Seconds by stage, with the scans that ran in them."""
    table = grid("stage", "time", "rows/s")
    table.add_column("")
    total = max(found.seconds["total"], 1e-9)
    for name, duration in found.seconds.items():
        if name != "total":
            table.add_row(name, seconds(duration), "", bar(duration / total))
        for scan in found.scans if name in ("fit", "write") else ():
            if (scan.name == "write") == (name == "write"):
                word = SCANS.get(scan.name, scan.name)
                table.add_row(Text(f"  {word}", "dim"), seconds(scan.seconds), count(scan.rows_per_second), "")
    return table


def columns(table: Sequence[Column], rows: int, *, listed: int = 30) -> RenderableType:
    """The data-quality table, columns with flaws first."""
    shown = grid(
        "column", "n", "missing", "non-finite", "min", "max", "mean", "sd", "", title=f"Quality of {count(rows)} rows"
    )
    order = sorted(range(len(table)), key=lambda j: (not table[j].flawed, -(table[j].missing + table[j].non_finite), j))
    for j in order[:listed]:
        c = table[j]
        note = "empty" if c.n == 0 else "constant" if c.constant else ""
        gaps = [Text(count(v), "bold red" if v else "dim") for v in (c.missing, c.non_finite)]
        shown.add_row(
            c.name, number(c.n), *gaps, *(number(v) for v in (c.min, c.max, c.mean, c.sd)), Text(note, "yellow")
        )
    rest = len(table) - listed
    flawed = sum(c.flawed for c in table)
    notes = [Text(f"{count(flawed)} of {count(len(table))} columns have gaps or are constant", "dim")]
    if rest > 0:
        notes.append(Text(f"... and {count(rest)} columns more; --rows shows them, --json all", "dim"))
    return Group(shown, *notes)


def model(found: Snapshot, path: str, transforms: Mapping[str, str]) -> RenderableType:
    """A saved model in a few lines; ``transforms``: by precision, what its outputs name."""
    ratio = found.arrays.get("explained_variance_ratio_")
    parameters = ", ".join(f"{k}={v!r}" for k, v in found.parameters.items() if v is not None)
    seen = found.fingerprint
    about = facts(
        f"{found.kind} at {path}",
        [
            ("parameters", parameters),
            (
                "fitted to",
                f"{count(seen['rows'])} rows of {count(seen['files'])} files, {count(len(found.names))} features",
            ),
            (
                "components",
                None if ratio is None else f"{found['n_components_']}, {percent(float(ratio.sum()))} of the variance",
            ),
            ("solver", found.values.get("solver_")),
            ("state", "saved: eigenmill update goes on from it" if found.has_state else "none"),
            ("digest", found.digest),
            *((f"transforms in {dtype}", digest) for dtype, digest in transforms.items()),
        ],
    )
    return Group(about, "", variance(ratio.tolist())) if ratio is not None else about


def manifest(found: Manifest, path: str, model: str | None = None) -> RenderableType:
    """A finished output in a few lines; ``model``: the digest of the one that has made it, where it is known."""
    files = sum(len(p.files) for p in found.parts)
    shown = ", ".join(f"{name} {kind}" for name, kind in found.schema[:8]) + (" ..." if len(found.schema) > 8 else "")
    return facts(
        f"Output at {path}",
        [
            ("rows", f"{count(found.rows)} in {count(files)} files, {format_bytes(found.bytes)}"),
            ("columns", shown),
            ("made of", f"{count(int(found.input['rows']))} rows x {count(int(found.input['features']))} features"),
            ("model", model),
            ("transforms", found.model),
        ],
    )


def errors(found: dict[str, Any], *, listed: int = 10) -> RenderableType:
    """The error of reconstruction, the worst columns first."""
    about = facts(
        "Error of reconstruction",
        [
            ("rows", count(found["rows"])),
            ("root mean square", number(found["rmse_total"])),
            ("not explained", percent(found["unexplained"])),
        ],
    )
    table = grid("column", "rmse", title="Worst columns")
    for name, value in sorted(found["rmse"].items(), key=lambda item: -item[1])[:listed]:
        table.add_row(name, number(value))
    return Group(about, "", table)


def update(found: Update, path: str) -> RenderableType:
    """What ``update`` has added."""
    title = f"Model at {path} has seen all of it already" if not found.changed else f"Model at {path} goes on"
    return facts(
        title,
        [
            ("new", f"{count(found.rows)} rows of {count(found.files)} files" if found.changed else None),
            ("in all", f"{count(found.total_rows)} rows of {count(found.total_files)} files"),
            ("digest", found.digest),
        ],
    )


def text(found: Texts) -> RenderableType:
    """What ``text`` has written."""
    return facts(
        f"Sparse rows in {found.path}",
        [
            ("rows", f"{count(found.documents)} texts in {count(found.files)} files"),
            ("columns", f"{count(found.features)}, {count(found.stored / max(found.documents, 1))} stored per row"),
            ("a job's input", f"sparse: {{indices: indices, values: values, n_features: {found.features}}}"),
        ],
    )


def failure(console: Console, message: str) -> None:
    """An error, each of its lines as it is."""
    for i, line in enumerate(message.splitlines() or [message]):
        console.print(Text.assemble(("error: " if i == 0 else "       ", "bold red"), visible(line)), soft_wrap=True)


__all__ = [
    "bar",
    "columns",
    "errors",
    "failure",
    "manifest",
    "model",
    "plan",
    "report",
    "sparkline",
    "stages",
    "update",
    "variance",
]
