"""The stages of a day as commands: ``eigenmill daily fit``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from eigenmill.jobs.daily import stages as daily
from eigenmill.jobs.daily.config import DailyFile, load_daily

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)

Config = Annotated[str, typer.Option("--config", "-c", metavar="CONF", help="The day-by-day job (YAML).")]
Day = Annotated[str, typer.Option("--day", metavar="DATE", help="The day, such as 2026-11-01.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set drift.angle=10. May be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, also about an error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


@commands.command()
def fit(config: Config, day: Day, set_: Overrides = None, json_: Json = False, debug: Debug = False) -> None:
    """Go on with the day's new files; known ones are not read again.

    Example: [cyan]eigenmill daily fit --config conf/daily.yaml --day 2026-11-01[/cyan]
    """
    _stage(daily.fit, config, day, set_, json_)


@commands.command()
def gate(config: Config, day: Day, set_: Overrides = None, json_: Json = False, debug: Debug = False) -> None:
    """Compare the day's model with the published one; past a bound of drift a new version is due.

    Example: [cyan]eigenmill daily gate --config conf/daily.yaml --day 2026-11-01[/cyan]
    """
    _stage(daily.gate, config, day, set_, json_)


@commands.command()
def project(config: Config, day: Day, set_: Overrides = None, json_: Json = False, debug: Debug = False) -> None:
    """Write the day's features by the published model, or those of all days by a new version.

    Example: [cyan]eigenmill daily project --config conf/daily.yaml --day 2026-11-01[/cyan]
    """
    _stage(daily.project, config, day, set_, json_)


@commands.command()
def publish(config: Config, day: Day, set_: Overrides = None, json_: Json = False, debug: Debug = False) -> None:
    """Point to what is whole now: the day's features, or the new version.

    Example: [cyan]eigenmill daily publish --config conf/daily.yaml --day 2026-11-01[/cyan]
    """
    _stage(daily.publish, config, day, set_, json_)


@commands.command("run")
def run_(config: Config, day: Day, set_: Overrides = None, json_: Json = False, debug: Debug = False) -> None:
    """All stages of a day, one after another.

    Example: [cyan]eigenmill daily run --config conf/daily.yaml --day 2026-11-01[/cyan]
    """
    found = daily.run_day(load_daily(config, set_ or ()), day)
    if json_:
        print(json.dumps([done.as_json() for done in found]))
        return
    for done in found:
        print(_sentence(done))


def _stage(
    stage: Callable[[DailyFile, str], daily.Done], config: str, day: str, overrides: list[str] | None, as_json: bool
) -> None:
    done = stage(load_daily(config, overrides or ()), day)
    print(json.dumps(done.as_json()) if as_json else _sentence(done))


def _sentence(done: daily.Done) -> str:
    found = done.record
    facts = {
        "fit": lambda: f"{len(found['files'])} files, {found['rows']:,} rows, model {found['candidate'][:12]}",
        "gate": lambda: _verdict(found),
        "project": lambda: f"{len(found['features'])} days by version {found['version']}",
        "publish": lambda: f"version {found['version']}",
    }[done.stage]()
    return f"{done.day} {done.stage}: {facts}" + ("" if done.changed else " (nothing to do)")


def _verdict(found: dict[str, Any]) -> str:
    if found["published"] is None:
        return "nothing is published yet: version 1 is due"
    shown = [
        f"{name} {'without bound' if m['value'] is None else format(m['value'], '.3g')} of {m['bound']}"
        + (f" ({m['column']})" if m["column"] and m["passed"] else "")
        for name, m in found["measures"].items()
    ]
    end = f"version {found['published']} stays" if found["version"] is None else f"version {found['version']} is due"
    return f"{', '.join(shown)}: {end}"


__all__ = ["commands"]
