"""A YAML document that knows where everything in it stands, so that an error can name the line."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.storage import places, secrets

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
"""Most values of a document once its aliases are followed: a few lines of aliases of aliases can stand for billions."""
MAX_DEPTH = 32

Step = str | int


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; YAML 1.1 wants a point and a sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Document:
    """A parsed document.

    Attributes:
        name: what errors call it.
        value: its content as plain Python values.
        node: the same as YAML nodes, with their positions; None when it is empty.
        overrides: text of the ``--set`` that gave a value, by the value's path.
    """

    name: str
    value: Any
    node: yaml.Node | None = None
    overrides: dict[tuple[Step, ...], str] = field(default_factory=dict)

    def where(self, path: Sequence[Step]) -> str:
        """``file:line`` of the value at ``path``, or of what encloses it; or the ``--set`` that gave it."""
        for length in range(len(path), 0, -1):
            given = self.overrides.get(tuple(path[:length]))
            if given is not None:
                return f"--set {given}"
        line = 1
        node = self.node
        for step in path:
            found = _child(node, step)
            if found is None:
                # A section that only an override speaks of.
                inside = [text for place, text in self.overrides.items() if place[: len(path)] == tuple(path)]
                if inside:
                    return f"--set {inside[0]}"
                break
            mark, node = found
            line = mark.line + 1
        return f"{self.name}:{line}"

    def with_override(self, assignment: str) -> Document:
        """The document with ``a.b=value`` put in; the value is read as YAML. A number is the place in a list.

        Raises:
            ConfigError: it is not of that form, or leads through a value that is no mapping.
        """
        dotted, equals, text = assignment.partition("=")
        path: tuple[Step, ...] = tuple(int(step) if step.isdecimal() else step for step in dotted.strip().split("."))
        last = str(path[-1])
        shown = dotted if secrets.is_secret(last) else secrets.masked(assignment)
        if not equals or "" in path or isinstance(path[0], int):
            raise ConfigError(
                f"--set {shown}: expected section.key=value, such as reduce.components=50, found no such form"
            )
        replacement = parse(text, f"--set {shown}").value
        value: Any = dict(self.value) if isinstance(self.value, dict) else {}
        held: Any = value
        for depth, step in enumerate(path):
            if isinstance(held, list) and not _within(held, step):
                raise ConfigError(
                    f"--set {shown}: expected a number below {len(held)} after {'.'.join(map(str, path[:depth]))}, "
                    f"found {step!r}"
                )
            step = step if isinstance(held, list) else str(step)
            path = (*path[:depth], step, *path[depth + 1 :])
            if depth + 1 == len(path):
                held[step] = replacement
                break
            inner: Any = held[step] if isinstance(step, int) else held.get(step)
            if inner is not None and not isinstance(inner, dict | list):
                before, found = ".".join(map(str, path[: depth + 1])), secrets.masked(repr(inner))
                raise ConfigError(
                    f"--set {shown}: expected {before} to hold keys, found {found:.80}; set {before} itself"
                )
            held[step] = list(inner) if isinstance(inner, list) else dict(inner or {})
            held = held[step]
        return Document(self.name, value, self.node, {**self.overrides, path: shown})


@dataclass(frozen=True)
class Sourced:
    """What was read, and the document that it came from."""

    document: Document

    @contextlib.contextmanager
    def blame(self, *path: Step) -> Iterator[None]:
        """Names the line of the section at ``path`` in a ConfigError that comes from further down."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{self.document.where(path)}: {'.'.join(map(str, path))}: {error}") from error


def _within(held: list[Any], step: Step) -> bool:
    return isinstance(step, int) and step < len(held)


def read(path: str | os.PathLike[str], what: str) -> str:
    """The text of a file.

    Raises:
        ConfigError: there is none, or it is no text; the message calls it ``what``.
    """
    try:
        return Path(places.absolute(path)).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are not UTF-8 text"
        raise ConfigError(f"expected {what} (YAML) at {os.fspath(path)}, found: {reason}; check the path") from error


def parse(text: str, name: str) -> Document:
    """The one document in ``text``, read with YAML's safe types only.

    Raises:
        ConfigError: it is no YAML, gives a key twice, or is far larger than a job file ever is.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: expected a job file of at most {MAX_BYTES} characters, found {len(text)}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _check(node, name, [0], ())
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        hint = "; indent with blanks, not tabs" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{name}{line}: expected YAML, found {error.problem or error.context}{hint}") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: expected YAML, found {str(error).splitlines()[0]}") from error
    finally:
        loader.dispose()
    return Document(name, value, node)


def _check(node: yaml.Node, name: str, seen: list[int], above: tuple[int, ...]) -> None:
    """Refuse repeated keys, and documents whose aliases make them endless, enormous or very deep."""
    place = f"{name}:{node.start_mark.line + 1}"
    seen[0] += 1
    if id(node) in above:
        raise ConfigError(f"{place}: expected an alias to something complete, found one to what it stands in")
    if seen[0] > MAX_NODES or len(above) >= MAX_DEPTH:
        raise ConfigError(
            f"{place}: expected at most {MAX_NODES} values nested at most {MAX_DEPTH} deep, found more; "
            "use fewer aliases"
        )
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, name, seen, above)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{name}:{line}: expected a word as key, found a list or mapping")
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise ConfigError(
                    f"{name}:{line}: expected every key once, found {key.value!r} again; "
                    f"remove it here or on line {lines[key.value]}"
                )
            lines[key.value] = line
            _check(item, name, seen, above)


def _child(node: yaml.Node | None, step: Step) -> tuple[yaml.Mark, yaml.Node] | None:
    """Position and node of a key's value or a list's item."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item.start_mark, item
    if isinstance(node, yaml.MappingNode):
        for key, item in reversed(node.value):
            if key.value == str(step):
                return key.start_mark, item
    return None


__all__ = ["Document", "Step", "parse", "read"]
