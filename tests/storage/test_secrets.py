"""Credentials stay out of what is printed, logged and written, wherever they stand and however the text was cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenmill.jobs.reduction.config import read_job
from eigenmill.reduce.storage import secrets

# Literals


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
        # No hosts before the first slash: a password, or what a cut has left of one.
        ("s3://AKIA:SECRET", "s3://***"),
        ("'s3://AKIA:SEC/RET...", "'s3://***"),
        ("s3://u:SEC?RET@bucket/a", "s3://***"),
        ("s3://u:it's SECRET@bucket/a and b", "s3://***@bucket/a and b"),
        ("https://host/a;token=SECRET/b?SECRET#access_token=SECRET", "https://host/a;token=***/b?***#access_token=***"),
        ("sc://host:15002/;token=SECRET;user_id=SECRET", "sc://host:15002/;token=***;user_id=***"),
        ("jdbc:postgresql://u:SECRET@h,s3://v:SECRET@b", "jdbc:postgresql://***@h,s3://***@b"),
        # Hosts: nothing to hide.
        ("tcp://127.0.0.1:8786: refused", "tcp://127.0.0.1:8786: refused"),
        ("spark://a:7077,b:7077, tcp://[::1]:8786; give", "spark://a:7077,b:7077, tcp://[::1]:8786; give"),
        ("file:///a/b, s3://bucket.", "file:///a/b, s3://bucket."),
        # Named values outside a URI.
        ("AWS_SECRET_ACCESS_KEY=SECRET, n=1", "AWS_SECRET_ACCESS_KEY=***, n=1"),
        ("{'key': 'SEC RET', \"token\": \"SECRET\", 'n': 1}", "{'key': ***, \"token\": ***, 'n': 1}"),
        ("AccountName=a;AccountKey=SECRET==;", "AccountName=a;AccountKey=***;"),
        ("Authorization: Basic SECRET\nHost: h", "Authorization: ***\nHost: h"),
        (
            "expected section.key=value, found none of the tokens",
            "expected section.key=value, found none of the tokens",
        ),
    ],
)
def test_uris_lose_user_password_and_query_and_names_their_secrets(text: str, shown: str) -> None:
    assert secrets.masked(text) == shown
    assert secrets.masked(shown) == shown
    assert "SECRET" not in secrets.masked(text).replace("AWS_SECRET_ACCESS_KEY", "")


NAMES = {
    True: [
        *("secret_key", "token", "Password", "passwd", "key", "api_key", "sig", "sas", "sasToken", "secretAccessKey"),
        *("X-Amz-Signature", "X-Amz-Credential", "x-amz-security-token", "AccountKey", "SharedAccessKey", "apikey"),
        *("aws_access_key_id", "private_key", "connection_string", "Authorization", "client.secret", "session_token"),
    ],
    False: ["monkey", "n", "design", "keys", "keyspace", "signal", "path", "region", "sasquatch", "passes", "features"],
}


@pytest.mark.parametrize(("name", "secret"), [(name, secret) for secret, names in NAMES.items() for name in names])
def test_one_list_of_names(name: str, secret: bool) -> None:
    assert secrets.is_secret(name) == secret
    assert secrets.holds({"options": [{name: "x"}]}) == secret
    assert secrets.masked_values([{name: "x"}]) == [{name: "***" if secret else "x"}]
    assert secrets.holds(f"s3://bucket/a?region=x&{name}=x") == secret
    assert not secrets.holds({name: None})


def test_values_under_secret_names_are_masked() -> None:
    plain = {
        "secret_key": "S",
        "token": "S",
        "Password": 12345,
        "key": ["S", {"a": "S"}],
        "inner": [{"api_key": "S"}],
        "monkey": "ape",
        "no token": None,
        "n": 1,
    }
    masked = secrets.masked_values(plain)
    assert "S" not in str(masked)
    assert "12345" not in str(masked)
    assert (masked["monkey"], masked["no token"], masked["n"]) == ("ape", None, 1)


def test_the_echo_of_a_job_holds_no_credentials() -> None:
    text = "input: {path: 's3://K:SECRET@b/x?secret_key=SECRET'}\noutput: {model: 's3://K:SECRET@b/m'}\n"
    assert "SECRET" not in str(read_job(text, "job.yaml").job.echo())


# Planted at random

PIECES = ("Zk4p", "Wv9t", "Yj2m")
"""What no text has but by a secret: not one of them may be seen."""


def secret(between: str) -> st.SearchStrategy[str]:
    """The pieces with characters between them that end a URI, a name or a password elsewhere; no URI within a URI."""
    gap = st.text(st.sampled_from(between), max_size=3).filter(lambda gap: "://" not in gap)
    return st.tuples(gap, gap).map(lambda gaps: PIECES[0] + gaps[0] + PIECES[1] + gaps[1] + PIECES[2])


def one_quote(it: str) -> bool:
    return it.count("'") + it.count('"') < 2


SCHEMES = st.sampled_from(["s3", "gs", "hdfs", "https", "abfss", "sc", "jdbc:postgresql", "s3+x"])
NAMED = st.sampled_from(NAMES[True])
UNKNOWN = st.sampled_from(["x", "region", "sv", "endpoint_override"])
# Blanks, quotes, slashes, question marks: all that ought to be escaped in a password, and is not.
PASSWORDS = st.builds(lambda scheme, it: f"{scheme}://user:{it}@host:1/a", SCHEMES, secret("/@:?#=&;%+,.~ '\"<>\\"))
USERS = st.builds(lambda scheme, it: f"{scheme}://{it}@host", SCHEMES, secret(":@=&;%+,.~"))
# In queries and parameters, where a blank ends a URI, and a quote before a comma or another quote.
QUERIES = st.builds(
    lambda scheme, start, name, it: f"{scheme}://host/a{start}y=1&{name}={it}",
    SCHEMES,
    st.sampled_from("?#"),
    st.one_of(NAMED, UNKNOWN),
    secret("/:=%+.~'\"@").filter(one_quote),
)
PARAMETERS = st.builds(
    lambda scheme, name, it, end: f"{scheme}://host/a;{name}={it}{end}",
    SCHEMES,
    st.one_of(NAMED, UNKNOWN),
    secret(":=%+.~'\"").filter(one_quote),
    st.sampled_from(["", "/b", "?y=1"]),
)
# Outside a URI: as environments, options and dictionaries are written.
VALUES = st.one_of(
    st.builds(lambda name, it: f"{name}={it}", NAMED.filter(lambda name: name != "key"), secret("/:=%+.~@")),
    st.builds(lambda name, it: repr({"a": 1, name: it}), NAMED, secret("/:=%+.~@ ,;&{}'\"")),
    st.builds(lambda name, it: json.dumps({name: it, "b": 2}), NAMED, secret("/:=%+.~@ ,;&{}'\"")),
    st.builds(lambda it: f"Authorization: Bearer {it}", secret("/+.~-")),
)
PLANTED = st.one_of(PASSWORDS, USERS, QUERIES, PARAMETERS, VALUES)
AROUND = st.sampled_from(
    ["{}", "expected a file, found {}; give another", "'{}': no such file", "({})", "at {}\nb", "<{}>"]
)


def shows(text: str) -> list[str]:
    return [piece for piece in PIECES if piece in text]


@given(planted=st.lists(st.tuples(AROUND, PLANTED), min_size=1, max_size=3))
def test_nothing_that_was_planted_is_seen(planted: list[tuple[str, str]]) -> None:
    text = "\n".join(around.replace("{}", it) for around, it in planted)
    assert not shows(secrets.masked(text)), text
    assert not shows(secrets.masked(secrets.masked(text)))


@given(planted=st.one_of(PASSWORDS, USERS, QUERIES, PARAMETERS))
def test_what_was_given_as_a_uri_is_masked_and_known_to_hold_one(planted: str) -> None:
    assert not shows(secrets.masked_uri(planted))
    assert not shows(str(secrets.masked_values({"a": [planted, {planted: planted}]})))


@given(
    planted=st.one_of(PASSWORDS, USERS),
    named=st.builds(lambda name, it: f"s3://bucket/a?region=x&{name}={it}", NAMED, secret("/:=%+,.~")),
)
def test_what_holds_a_credential_is_known_to(planted: str, named: str) -> None:
    for held in (planted, named, {"path": ["x", planted]}, {"proxy": {"uri": named}}):
        assert secrets.holds(held)


CUT = st.builds(lambda scheme, it: f"{scheme}://user:{it}@host/a", SCHEMES, secret("/:=&;%+,.~"))
"""Without a blank or quote, which ends a URI whose @ is gone: what may hold these is masked before it is cut."""


@given(
    planted=st.one_of(CUT, QUERIES, PARAMETERS, VALUES), rest=st.integers(0, 60), end=st.sampled_from(["", "...", "'"])
)
def test_a_text_that_was_cut_shows_no_start_of_it(planted: str, rest: int, end: str) -> None:
    """Where an @ or a quote is gone, what stands before it is still no host, or still has its name."""
    cut = planted[: max(len(planted) - rest, 0)] + end
    shown = secrets.masked(cut)
    begun = [piece[:length] for piece in PIECES for length in (2, 3, 4) if piece[:length] in shown]
    assert not begun, (cut, shown)


@given(st.text())
def test_any_text_is_masked_once(text: str) -> None:
    assert secrets.masked(secrets.masked(text)) == secrets.masked(text)
    if "://" not in text and "=" not in text and ":" not in text and "earer" not in text.lower():
        assert secrets.masked(text) == text


@pytest.mark.parametrize("piece", ["a", "a,", "a:", "s3://", "s3://a:b ", "token=", "'", "@", "x=y&", ";a="])
def test_a_long_text_takes_no_time_to_speak_of(piece: str) -> None:
    secrets.masked(piece * 20_000)
    secrets.masked("s3://" + piece * 20_000 + "@")
    secrets.holds("s3://" + piece * 20_000)


def test_values_of_any_kind_are_left_as_they_are() -> None:
    plain: Any = {"a": [1, 2.5, None, True, ("x", b"y")], "b": {}}
    assert secrets.masked_values(plain) == {"a": [1, 2.5, None, True, ["x", b"y"]], "b": {}}
