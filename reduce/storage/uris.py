"""URIs in messages: a URI may hold a password, and a message goes to more eyes than the URI."""

from __future__ import annotations

import re

from eigenmill.reduce.errors import ConfigError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
MASK = "***"


def masked(uri: str) -> str:
    """``uri`` with user, password and query as ``***``; rather too much is masked than too little.

    All before the last ``@`` counts as user and password: a secret may hold slashes and question marks, which
    ought to have been escaped.
    """
    scheme = SCHEME.match(uri)
    if scheme is None:
        return MASK
    place, *query = re.split("[?#]", uri[scheme.end() :], maxsplit=1)
    if query and "@" in query[0]:
        return scheme[0] + MASK
    user, at, place = place.rpartition("@")
    return scheme[0] + (MASK if user else "") + at + place + (f"?{MASK}" if query else "")


def refused(uri: str, who: str, advice: str, *reasons: Exception) -> ConfigError:
    """The error for a URI that ``who`` cannot open.

    What the reasons say is repeated only when nothing had to be masked, for they repeat the URI. Raise it
    ``from None``, or a traceback shows them all the same.
    """
    shown = masked(uri)
    said = ", ".join(str(reason) if shown == uri else type(reason).__name__ for reason in reasons)
    return ConfigError(f"expected a URI that {who} can open, found {shown!r} ({said}); {advice}")
