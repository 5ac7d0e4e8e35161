"""Keep credentials out of what is printed and written: reports, errors and logs go to more eyes than a job file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s'\"<>]+)")
_VALUE = re.compile(r"=([^&#;]*)")
_SECRET = re.compile(
    r"secret|token|passw|credential|signature|(^|[_-])(api|access|account|private)?[_-]?key$", re.IGNORECASE
)


def text(message: str) -> str:
    """``message`` with the user, password and query values of every URI in it masked."""
    return _URI.sub(_masked, message)


def _masked(match: re.Match[str]) -> str:
    rest, question, query = match["rest"].partition("?")
    authority, slash, path = rest.partition("/")
    # The last @ before the path: a password may hold one.
    user, at, host = authority.rpartition("@")
    if not at and "@" in path and ":" in authority:
        # A password with a slash in it, which ought to have been escaped.
        user, at, host = rest.rpartition("@")
        slash, path = "", ""
    kept = f"{MASK}@{host}" if user else authority
    return f"{match['scheme']}{kept}{slash}{path}{question}{_VALUE.sub(f'={MASK}', query)}"


def value(plain: Any) -> Any:
    """The same nested value with secrets masked: in URIs, and under names such as ``secret_key`` or ``token``."""
    if isinstance(plain, str):
        return text(plain)
    if isinstance(plain, Mapping):
        return {
            name: MASK if isinstance(name, str) and _SECRET.search(name) and isinstance(held, str) else value(held)
            for name, held in plain.items()
        }
    if isinstance(plain, list | tuple):
        return [value(item) for item in plain]
    return plain
