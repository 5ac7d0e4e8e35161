"""What pydantic finds wrong in a job file, in words and lines: what was expected, what was found, what to do."""

from __future__ import annotations

import contextlib
import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from eigenmill.jobs.documents.document import Document, Step, parse
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.storage import secrets

Root = TypeVar("Root", bound=BaseModel)


def read_as(root: type[Root], text: str, name: str, what: str, overrides: Sequence[str] = ()) -> tuple[Root, Document]:
    """YAML called ``name``, with ``section.key=value`` put in, as ``root``; and the document.

    Raises:
        ConfigError: it is no YAML, or something in it is unknown or wrong; all such places are named.
    """
    document = parse(text, name)
    for assignment in overrides:
        document = document.with_override(assignment)
    return checked(root, document, what), document


def checked(root: type[Root], document: Document, what: str) -> Root:
    """The content of ``document`` as ``root``, which messages call ``what``.

    Raises:
        ConfigError: something in it is unknown or wrong; all such places are named with their lines.
    """
    if document.value is not None and not isinstance(document.value, dict):
        known = ", ".join(root.model_fields)
        raise ConfigError(f"{document.where(())}: expected the sections {known}, found {_shown(document.value)}")
    try:
        return root.model_validate(document.value or {})
    except ValidationError as error:
        raise ConfigError("\n".join(Complaints(root, document, what).lines(error))) from None


class Complaints:
    """Turns errors of pydantic into lines."""

    def __init__(self, root: type[BaseModel], document: Document, what: str) -> None:
        self.root, self.document, self.what = root, document, what

    def lines(self, error: ValidationError) -> list[str]:
        """One line for every wrong place, in the order of the file."""
        document = self.document
        found: dict[tuple[Step, ...], list[Any]] = {}
        for item in error.errors(include_url=False):
            found.setdefault(_place(item, document.value or {}), []).append(item)
        # Of a value that might be this or that, the errors of the kind it is lie deeper.
        plain = ("missing", "extra_forbidden", "value_error")
        kept = {
            path: items
            for path, items in found.items()
            if items[0]["type"] in plain or not any(len(p) > len(path) and p[: len(path)] == path for p in found)
        }
        lines = []
        for path, items in kept.items():
            where = document.where(path)
            number = where.rpartition(":")[2]
            dotted = ".".join(map(str, path))
            line = f"{where}: {dotted}: " if dotted else f"{where}: "
            lines.append((int(number) if number.isdigit() else 0, line + self._sentence(path, items)))
        return [line for _, line in sorted(lines, key=lambda pair: pair[0])]

    def _sentence(self, path: tuple[Step, ...], items: Sequence[Any]) -> str:
        kind, found = items[0]["type"], items[0]["input"]
        if kind == "extra_forbidden":
            known = list(self._section(path[:-1]).model_fields)
            hint = _close(str(path[-1]), known) or self._elsewhere(str(path[-1])) or f"it knows {', '.join(known)}"
            return f"expected a key of {'this section' if len(path) > 1 else self.what}, found {path[-1]!r}; {hint}"
        if kind == "missing":
            return f"expected this key, found none; {self._purpose(path)}"
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            context = items[0]["ctx"]
            key = str(context["discriminator"]).strip("'")
            known = [word.strip().strip("'") for word in str(context.get("expected_tags", "")).split(",") if word]
            tag = found.get(key) if isinstance(found, Mapping) else found
            names = f" among {', '.join(known)}" if known else f" under the key {key!r}"
            hint = _close(str(tag), known)
            return f"expected a {key}{names}, found {_shown(tag)}" + (f"; {hint}" if hint else "")
        if kind == "value_error":
            message = str(items[0]["ctx"]["error"])
            rest = "" if "found" in message else f", found {_shown(found)}"
            return f"expected {message.removeprefix('expected ')}{rest}"
        expected = " or ".join(dict.fromkeys(filter(None, map(_expectation, items))))
        hint = ""
        allowed = [name for item in items for name in _allowed(item)]
        if isinstance(found, str):
            hint = _close(found, allowed)
            with contextlib.suppress(ValueError):
                hint = f"write {float(found)!r} for the number" if "number" in expected and not hint else hint
        return f"expected {expected}, found {_shown(found)}" + (f"; {hint}" if hint else "")

    def _section(self, path: Sequence[Step]) -> type[BaseModel]:
        """The section that holds the keys at ``path``."""
        section: type[BaseModel] = self.root
        value: Any = self.document.value
        inside: list[type[BaseModel]] = []
        for step in path:
            if isinstance(step, str) and step in section.model_fields:
                inside = _models(section.model_fields[step].annotation)
            value = value[step] if _has(value, step) else None
            fitting = [model for model in inside if len(inside) == 1 or _tagged(model, value)]
            section = fitting[0] if fitting else section
        return section

    def _sections(self) -> dict[str, type[BaseModel]]:
        """The sections of the file by their keys."""
        found = {name: _models(field.annotation) for name, field in self.root.model_fields.items()}
        return {name: models[0] for name, models in found.items() if len(models) == 1}

    def _elsewhere(self, word: str) -> str:
        """Where a key that is in the wrong section belongs."""
        sections = self._sections()
        for name, section in sections.items():
            if word in section.model_fields:
                return f"it belongs under {name}:"
        every = {key: name for name, section in sections.items() for key in section.model_fields}
        near = difflib.get_close_matches(word.lower(), list(every), 1, 0.75)
        return f"did you mean {near[0]!r}, under {every[near[0]]}: ?" if near else ""

    def _purpose(self, path: tuple[Step, ...]) -> str:
        field = self._section(path[:-1]).model_fields.get(str(path[-1]))
        inner = None if field is None else _models(field.annotation)
        text = (inner[0].__doc__ if inner else field.description if field else None) or "needed"
        return "it says: " + " ".join(text.split()).rstrip(".").replace("`", "")


def _models(annotation: object) -> list[type[BaseModel]]:
    """The sections in a type such as ``list[A | B] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _tagged(model: type[BaseModel], value: object) -> bool:
    """Whether ``value`` names this one among several kinds of section."""
    if not isinstance(value, Mapping):
        return False
    return any(
        value.get(name) in typing.get_args(field.annotation)
        for name, field in model.model_fields.items()
        if typing.get_origin(field.annotation) is typing.Literal and field.is_required()
    )


def _has(value: object, step: Step) -> bool:
    inside = isinstance(value, list) and isinstance(step, int) and step < len(value)
    return inside or (isinstance(value, Mapping) and step in value)


def _place(item: Any, value: Any) -> tuple[Step, ...]:
    """The location of an error without the names of types that pydantic puts into it."""
    path: list[Step] = []
    location = item["loc"]
    for i, step in enumerate(location):
        if step == "[key]":
            break
        inside = isinstance(value, Mapping) and step in value
        if inside or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            path.append(step)
            value = value[step]
        elif i + 1 == len(location) and item["type"] == "missing":
            path.append(step)
    return tuple(path)


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
}


def _expectation(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "literal_error":
        return "one of " + ", ".join(_allowed(item))
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign, limit = {
            "greater_than": (">", "gt"),
            "greater_than_equal": (">=", "ge"),
            "less_than": ("<", "lt"),
            "less_than_equal": ("<=", "le"),
        }[kind]
        return f"a number {sign} {context[limit]}"
    if kind in ("too_short", "too_long"):
        counts = {context.get("min_length"), context.get("max_length")} - {None}
        return f"{' or '.join(map(str, counts))} items" if kind == "too_long" else f"at least {min(counts)} items"
    return _EXPECTED.get(kind, str(item["msg"]).lower())


def _allowed(item: Any) -> list[str]:
    """The words of a choice."""
    if item["type"] != "literal_error":
        return []
    return [word.strip().strip("'") for word in str(item["ctx"]["expected"]).replace(" or ", ", ").split(",")]


def _close(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.lower(), known, 1)
    return f"did you mean {near[0]!r}?" if near else ""


def _shown(value: object) -> str:
    """What was found, briefly."""
    if isinstance(value, Mapping):
        return f"the keys {', '.join(map(str, list(value)[:5]))}" if value else "no keys"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = secrets.masked(repr(secrets.masked_values(value)))
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = ["Complaints", "checked"]
