"""What all commands print with: results to standard output, progress and messages to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from eigenmill.jobs.reduction.report import finite
from eigenmill.jobs.shown.progress import Bars
from eigenmill.jobs.shown.words import visible
from eigenmill.reduce.storage import secrets


def stderr() -> Console:
    """The console of messages."""
    return Console(stderr=True)


class Plain(Console):
    """A console to which text is data: names neither style it nor steer the terminal, and URIs show no credentials."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(secrets.masked(text)), **options | {"markup": False, "emoji": False})


def notice(text: str) -> None:
    """Say something beside the result."""
    stderr().print(visible(secrets.masked(text)), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Bars | None]:
    """Progress bars when someone is looking."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield None
        return
    with Bars(console) as shown:
        yield shown


def show(table: RenderableType, plain: dict[str, Any], as_json: bool) -> None:
    """Print a result, for people or for machines."""
    if as_json:
        print(json.dumps(finite(plain)))
        return
    # Into a file or pipe, lines are as long as they are.
    console = Plain(width=None if sys.stdout.isatty() else max(int(os.environ.get("COLUMNS", 0)), 160))
    console.print(table)
    console.print()


def split(columns: Sequence[str] | None) -> list[str] | None:
    """Names separated by commas, of an option that may be repeated."""
    if not columns:
        return None
    return [name.strip() for each in columns for name in each.split(",") if name.strip()]


__all__ = ["bars", "notice", "show", "split", "stderr"]
