"""The day-by-day job's file and commands: what is refused, what is said, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eigenmill.jobs import cli
from eigenmill.jobs.cli import app
from eigenmill.jobs.daily import stages as daily
from eigenmill.jobs.daily.config import Daily, DailyFile, Drift, load_daily
from eigenmill.jobs.daily.records import Place
from eigenmill.reduce import ConfigError
from eigenmill.reduce.errors import OutputError
from tests.jobs.days import DAYS, config

CONF = Path(__file__).parents[2] / "conf"


# The job file


def test_the_example_is_valid_and_says_what_it_does() -> None:
    source = load_daily(CONF / "daily.yaml")
    assert source.job("2026-11-01").job.input.path == "data/daily/day=2026-11-01"
    assert Drift(mean=0.25, log_variance=0.5, angle=15.0) == source.daily.drift == Drift()
    assert set(Daily.model_fields) == {"input", "reduce", "drift", "output", "engine"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("input.path=data/daily", r"input: expected one path with \{day\} in it"),
        ("reduce={method: scale}", "reduce: expected method pca or svd.*found scale"),
        ("reduce.components=0.9", "whole number as components"),
        ("reduce.refine=true", "refine: false"),
        ("drift.angle=100", "drift.angle: expected a number <= 90.0, found 100"),
        ("drift.angel=1", r"drift.angel: expected a key of this section, found 'angel'; did you mean 'angle'\?"),
        ("output.keep=0", "output.keep: expected a number >= 1, found 0"),
        ("outputs.keep=0", r"outputs: expected a key of a day-by-day job, found 'outputs'; did you mean 'output'\?"),
        ("engine.memory=lots", "engine.memory"),
    ],
)
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_daily(CONF / "daily.yaml", [override])


def test_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("input: {path: 'a/{day}'}\nreduce: {components: 3}\noutput:\n  layout: list\n  keep: many\n")
    with pytest.raises(ConfigError) as error:
        load_daily(path)
    assert f"{path}:3: output.path: expected this key, found none" in str(error.value)
    assert f"{path}:5: output.keep: expected a whole number, found 'many'" in str(error.value)
    with pytest.raises(ConfigError, match="check the path"):
        load_daily(tmp_path / "none.yaml")
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="expected the sections input, reduce"):
        load_daily(path)


def test_what_must_stay_as_it_is_may_not_change(three_days: DailyFile, tmp_path: Path) -> None:
    daily.run_day(three_days, DAYS[0])
    with pytest.raises(ConfigError, match=r"daily.yaml:\d+: reduce.components: expected 3 .* found 2"):
        daily.run_day(config(tmp_path, reduce={"components": 2}), DAYS[1])
    daily.run_day(config(tmp_path, engine={"workers": 2}, drift={"angle": 30.0}), DAYS[1])


@pytest.mark.parametrize("day", ["2026-11-1", "20261101", "2026-13-01", "yesterday", "../../etc"])
def test_a_day_is_a_date(three_days: DailyFile, day: str) -> None:
    with pytest.raises(ConfigError, match="expected a day such as 2026-11-01"):
        daily.fit(three_days, day)


def test_a_damaged_record_is_refused(three_days: DailyFile, tmp_path: Path) -> None:
    daily.run_day(three_days, DAYS[0])
    path = tmp_path / f"out/days/{DAYS[0]}/gate.json"
    whole = path.read_text()
    path.write_text(whole.replace('"candidate": "', '"candidate": "0'))
    with pytest.raises(OutputError, match=r"expected .*gate.json to be as it was written, found other content"):
        daily.gate(three_days, DAYS[0])
    first = {**json.loads(whole), "version_of_format": 1, "candidates": "none"}  # which had no digests yet
    path.write_text(json.dumps({name: value for name, value in first.items() if name not in ("candidate", "digest")}))
    with pytest.raises(OutputError, match=r"expected the fields .* in .*gate.json"):
        daily.gate(three_days, DAYS[0])
    path.write_text("{}")
    with pytest.raises(OutputError, match="eigenmill-daily-gate"):
        daily.gate(three_days, DAYS[0])


def test_paths_below_a_uri_keep_its_query() -> None:
    assert Place("s3://bucket/daily?region=x").path("days", "a") == "s3://bucket/daily/days/a?region=x"
    assert Place("out/daily/").path("model") == "out/daily/model"


# The commands


def test_the_commands(three_days: DailyFile, tmp_path: Path) -> None:
    runner = CliRunner()

    def call(*arguments: str) -> str:
        options = ["--config", str(tmp_path / "daily.yaml")]
        result = runner.invoke(app, ["daily", *arguments, *options])
        assert result.exit_code == 0, result.output
        return str(result.output)

    assert "1 files, 400 rows" in call("fit", "--day", DAYS[0])
    assert "version 1 is due" in call("gate", "--day", DAYS[0])
    assert "1 days by version 1" in call("project", "--day", DAYS[0])
    assert "version 1\n" in call("publish", "--day", DAYS[0])
    assert call("run", "--day", DAYS[0]).count("(nothing to do)") == 4
    assert "version 1 stays" in call("run", "--day", DAYS[1])
    done = json.loads(call("gate", "--json", "--day", DAYS[1]))
    assert done["record"]["measures"]["angle"]["bound"] == 15.0
    assert len(json.loads(call("run", "--json", "--day", DAYS[2]))) == 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fit", "--day", "2026-12-01"], 3),
        (["gate", "--day", DAYS[0]], 2),
        (["fit"], 2),
        (["fit", "--day", DAYS[0]], 0),
    ],
)
def test_exit_codes_tell_a_scheduler_what_went_wrong(
    three_days: DailyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.setattr("sys.argv", ["eigenmill", "daily", *arguments, "--config", str(tmp_path / "daily.yaml")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
