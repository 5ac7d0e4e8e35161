"""Credentials: the names that hold them, and text without them: messages, logs and reports go to more eyes than a URI.

Rather too much is masked than too little. In a URI, user, password, query and parameters are masked whatever their
names are; elsewhere one list of names decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ANYWHERE = re.compile(
    "secret|token|passw|passphrase|pwd|credential|signature|authorization|connection_?string|(access|account)_?key_?id"
)
_LAST = re.compile("(^|_)(sig|sas|((api|access|account|private|secret|shared|storage|encryption|master)_?)?key)$")
_WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z])|[-. ]")
_START = re.compile(r"(?<![\w+.-])[\w+.-]+://")
_UNBROKEN = re.compile(r"(?:[^\s'\"<>]|['\"<>]+(?=[:=%+.~/@&?#-]*\w))*")
_NEXT = re.compile(rf"(?<=[\s,;|'\"<>()\[\]{{}}=])(?={_START.pattern})|\n")
_HOST = r"(\[[0-9A-Fa-f:.]*\]|[^:\[\]@,]*)(:\d*)?"
_HOSTS = re.compile(rf"{_HOST}(,{_HOST})*[.,;:!)\]}}]*")
_PARAMETER = re.compile(r"(;[^=;/]*=)[^;/]+")
_OPTION = re.compile(r"([^&;?#=]*=)?([^&;?#]+)")
_NAME = re.compile(r"[?#&;]([^=&;?#/]+)=")
_VALUE = r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[^\s,;&)\]}'"]+"""
_PAIR = re.compile(rf"""(?<![\w.-])(?P<name>[A-Za-z][\w.-]*)(?P<sign>\s?=\s?|['"]\s?[:=]\s?)(?P<value>{_VALUE})""")
_HEADER = re.compile(r"""(authorization['"]?\s?[:=]\s?)[^\n,}]+|(bearer )[\w.~+/=-]{8,}""", re.IGNORECASE)


# Names


def is_secret(name: str) -> bool:
    """Whether what is called ``name`` is a credential: ``secret_key``, ``sasToken``, ``X-Amz-Signature``, ``sig``."""
    words = _WORDS.sub("_", name).lower()
    return bool(_ANYWHERE.search(words) or _LAST.search(words))


def holds(plain: object) -> bool:
    """Whether a nested value holds a credential: under the name of one, or in a URI, of which a user is one too."""
    if isinstance(plain, str):
        return any(scheme and _opens(rest) for scheme, rest in _parts(plain))
    if isinstance(plain, Mapping):
        return any((bool(held) and is_secret(str(name))) or holds(held) for name, held in plain.items())
    return isinstance(plain, list | tuple) and any(map(holds, plain))


def _opens(rest: str) -> bool:
    return "@" in rest or not _HOSTS.fullmatch(_authority(rest)) or any(map(is_secret, _NAME.findall(rest)))


# Text


def masked(text: str) -> str:
    """``text`` with user, password, query values and parameters of every URI in it as ``***``, and named credentials.

    A URI ends at a blank or a quote, unless what stands before it is no host: then these may belong to a password, and
    all up to the last ``@`` before another URI or the end of the line is masked. The text may have been cut.
    """
    return "".join(scheme + (_place(rest) if scheme else _named(rest)) for scheme, rest in _parts(text))


def masked_uri(uri: str) -> str:
    """What was given as a URI, masked: all before the last ``@`` counts as user and password, and no query is shown."""
    scheme = SCHEME.match(uri)
    return MASK if scheme is None else scheme[0] + _place(uri[scheme.end() :], whole=True)


def masked_values(plain: object) -> Any:
    """The same nested value with its text masked, and with ``***`` for whatever has the name of a credential."""
    if isinstance(plain, str):
        return masked(plain)
    if isinstance(plain, Mapping):
        return {
            masked_values(name): MASK if is_secret(str(name)) and _tells(held) else masked_values(held)
            for name, held in plain.items()
        }
    return [masked_values(item) for item in plain] if isinstance(plain, list | tuple) else plain


def _tells(held: object) -> bool:
    return held is not None and not isinstance(held, bool)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """The text in order: each URI as its scheme and the rest, what lies between them without a scheme."""
    at = 0
    while (scheme := _START.search(text, at)) is not None:
        yield "", text[at : scheme.start()]
        at = _end(text, scheme.end())
        yield scheme[0], text[scheme.end() : at]
    yield "", text[at:]


def _end(text: str, start: int) -> int:
    """Where the URI ends whose scheme ends at ``start``."""
    line = _NEXT.search(text, start)
    limit = len(text) if line is None else line.start()
    end = _UNBROKEN.match(text, start, limit).end()  # type: ignore[union-attr]
    later = text.rfind("@", end, limit)
    if later >= 0 and not _HOSTS.fullmatch(_authority(text[start:end])):
        end = _UNBROKEN.match(text, later, limit).end()  # type: ignore[union-attr]
    return end


def _authority(rest: str) -> str:
    return re.split("[/?#]", rest, maxsplit=1)[0]


def _place(rest: str, *, whole: bool = False) -> str:
    """What follows a scheme, masked."""
    query = rest[len(re.split("[?#]", rest, maxsplit=1)[0]) :]
    place = rest.removesuffix(query)
    if not _HOSTS.fullmatch(_authority(rest)) or (whole and "@" in rest):
        if "@" in query or "@" not in place:  # a question mark within the password, or cut before the password's end
            return MASK
        place = f"{MASK}@{place.rpartition('@')[2]}"
    if whole:
        query = query and f"?{MASK}"
    return _PARAMETER.sub(rf"\1{MASK}", place) + query[:1] + _OPTION.sub(rf"\1{MASK}", query[1:])


def _named(text: str) -> str:
    """Text without a URI, its ``token=value`` and ``'token': 'value'`` masked, and what follows ``Authorization:``."""
    return _HEADER.sub(rf"\1\2{MASK}", _PAIR.sub(_pair, text))


def _pair(found: re.Match[str]) -> str:
    # "section.key=value" is how an option is written, and no credential.
    plain = found["sign"].strip() == "=" and found["name"].rpartition(".")[2].lower() == "key"
    return found[0] if plain or not is_secret(found["name"]) else f"{found['name']}{found['sign']}{MASK}"


__all__ = ["MASK", "SCHEME", "holds", "is_secret", "masked", "masked_uri", "masked_values"]
