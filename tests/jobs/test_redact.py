"""Credentials stay out of what is printed and written."""

from __future__ import annotations

import pytest

from eigenmill.jobs.documents import redact
from eigenmill.jobs.reduction.config import read_job


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:SECRET@bucket/a", "s3://***@bucket/a"),
        ("s3://AKIA:SEC/RET@bucket/a", "s3://***@bucket/a"),
        ("s3://AKIA:SEC@RET@bucket/a", "s3://***@bucket/a"),
        ("s3://bucket/a?secret_key=SECRET&region=SECRET", "s3://bucket/a?secret_key=***&region=***"),
        ("found 's3://SECRET@bucket' and hdfs://SECRET@host:1/x.", "found 's3://***@bucket' and hdfs://***@host:1/x."),
        ("data/year=2026/a@b", "data/year=2026/a@b"),
        ("s3://bucket/user@home/year=2026", "s3://bucket/user@home/year=2026"),
    ],
)
def test_uris_lose_user_password_and_query(text: str, shown: str) -> None:
    assert redact.text(text) == shown
    assert "SECRET" not in redact.text(text)


def test_values_under_secret_names_are_masked() -> None:
    plain = {
        "secret_key": "S",
        "token": "S",
        "Password": "S",
        "key": "S",
        "inner": [{"api_key": "S"}],
        "monkey": "ape",
        "n": 1,
    }
    assert "S" not in str(redact.value(plain))
    assert redact.value(plain)["monkey"] == "ape"
    assert redact.value(plain)["n"] == 1


def test_the_echo_of_a_job_holds_no_credentials() -> None:
    text = "input: {path: 's3://K:SECRET@b/x?secret_key=SECRET'}\noutput: {model: 's3://K:SECRET@b/m'}\n"
    assert "SECRET" not in str(read_job(text, "job.yaml").job.echo())
