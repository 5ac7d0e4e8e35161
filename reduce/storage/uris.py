"""The refusal of a URI that nobody can open."""

from __future__ import annotations

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.storage import secrets


def refused(uri: str, who: str, advice: str, *reasons: Exception) -> ConfigError:
    """The error for a URI that ``who`` cannot open.

    What the reasons say is repeated only when nothing had to be masked, for they repeat the URI. Raise it
    ``from None``, or a traceback shows them all the same.
    """
    shown = secrets.masked_uri(uri)
    said = ", ".join(str(reason) if shown == uri else type(reason).__name__ for reason in reasons)
    return ConfigError(f"expected a URI that {who} can open, found {shown!r} ({said}); {advice}")
