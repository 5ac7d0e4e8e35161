"""Small realistic defects of a Python file, each one a change of a few bytes of its text.

Comparisons are flipped or made strict, ``and`` is ``or``, a sum a difference, a constant one more or one less, a
``not`` is gone, a test turned round, the first two arguments of a call swapped, ``min`` is ``max``, a statement left
out (those that make files durable or hold locks are told apart), or a result not returned.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COMPARISONS: Mapping[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<", "<=", ">"),
    ast.LtE: ("<=", "<", ">="),
    ast.Gt: (">", ">=", "<"),
    ast.GtE: (">=", ">", "<="),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: Mapping[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "argmin": "argmax",
    "argmax": "argmin",
}
ORDERED = {"isinstance", "issubclass", "getattr", "setattr", "cast", "hypot", "isclose", "gcd"}
"""Swapped arguments would be a TypeError, or change nothing."""
DURABLE = re.compile(
    r"fsync|sync_directory|flush|rename|replace|unlink|remove|close|release|acquire|lock", re.IGNORECASE
)
UNRUN = ("TYPE_CHECKING", "__name__ == '__main__'")
QUIET = {"log", "logging", "logger", "warnings"}
"""A message that is not written is no defect to look for."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file: ``source[start:stop]``, in bytes, becomes ``after``.

    ``id`` is of file, function, change and the statement around it, so that it outlives changes elsewhere in the file.
    """

    id: str
    path: str
    line: int
    stop_line: int
    function: str
    kind: str
    start: int
    stop: int
    before: str
    after: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.stop :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split())[:60] for text in (self.before, self.after))
        return f"{self.id} {self.path}:{self.line} {self.kind}: {before!r} -> {after!r}"


@dataclass(frozen=True)
class Change:
    """A mutant without a name: where, and what instead."""

    node: ast.AST
    kind: str
    start: int
    stop: int
    after: str


class Source:
    """A file's text with the places of its nodes."""

    def __init__(self, text: bytes) -> None:
        self.text, self.tree = text, ast.parse(text)
        self.starts = [0]
        for line in text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: Any) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        start, stop = self.span(node)
        return self.text[start:stop].decode()

    def between(self, left: ast.AST, right: ast.AST, operator: str) -> tuple[int, int] | None:
        """Where an operator stands between its operands; None beside a comment, where it may stand twice."""
        low, high = self.span(left)[1], self.span(right)[0]
        gap = self.text[low:high].decode()
        words = r"\s+".join(map(re.escape, operator.split()))
        pattern = rf"\b{words}\b" if operator[0].isalpha() else words
        found = re.search(pattern, gap)
        return None if "#" in gap or found is None else (low + found.start(), low + found.end())


def statements(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every statement that runs, with the qualified name of the function or class around it."""

    def walk(body: Sequence[ast.stmt], name: str) -> Iterator[tuple[ast.stmt, str]]:
        for statement in body:
            yield statement, name
            named = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = f"{name}.{statement.name}".lstrip(".") if named else name  # type: ignore[attr-defined]
            if isinstance(statement, ast.If) and ast.unparse(statement.test) in (
                "TYPE_CHECKING",
                "__name__ == '__main__'",
            ):
                continue
            for field in ("body", "orelse", "finalbody"):
                yield from walk(getattr(statement, field, []), inner)
            for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
                yield from walk(part.body, inner)

    yield from walk(tree.body, "")  # type: ignore[attr-defined]


def expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement itself: not of statements within, annotations, decorators, texts or docstrings."""
    left: list[ast.AST] = []
    hidden = {"body", "orelse", "finalbody", "handlers", "cases", "annotation", "returns", "decorator_list", "bases"}
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal):
        return

    def parts(node: ast.AST, hide: set[str]) -> list[ast.AST]:
        found: list[ast.AST] = []
        for name, value in ast.iter_fields(node):
            if name not in hide:
                found += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)]
        return found

    left = parts(statement, hidden)
    while left:
        node = left.pop(0)
        if isinstance(node, ast.JoinedStr):
            continue
        yield node
        # A conditional expression has a body that runs.
        left = parts(node, {"annotation"}) + left


def operators(source: Source, node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST, str, Sequence[str]]]:
    """(kind, left, right, operator, what may stand there instead)."""
    if isinstance(node, ast.Compare):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            before, *after = COMPARISONS[type(op)]
            yield "comparison", left, right, before, after
    elif isinstance(node, ast.BoolOp):
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield "and/or", left, right, words[0], words[1:]
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _text(node.left, node.right):
        before, other = ARITHMETIC[type(node.op)]
        yield "arithmetic", node.left, node.right, before, (other,)
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not _text(node.value):
        before, other = ARITHMETIC[type(node.op)]
        yield "arithmetic", node.target, node.value, before + "=", (other + "=",)


def _text(*nodes: ast.AST) -> bool:
    """Whether one of the operands is text or a list, which cannot be subtracted."""
    return any(
        isinstance(n, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple)
        or (isinstance(n, ast.Constant) and isinstance(n.value, str | bytes))
        for n in nodes
    )


def changes_of(source: Source, node: ast.AST) -> Iterator[Change]:
    """What may be changed of one expression."""
    for kind, left, right, before, others in operators(source, node):
        place = source.between(left, right, before)
        for other in others if place else ():
            yield Change(node, kind, *place, other)  # type: ignore[misc]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield Change(node, "dropped not", *source.span(node), f"({source.of(node.operand)})")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield Change(node, "sign", *source.span(node), f"({source.of(node.operand)})")
    elif isinstance(node, ast.IfExp):
        yield Change(node.test, "negated test", *source.span(node.test), f"(not ({source.of(node.test)}))")
    elif isinstance(node, ast.Constant):
        for other in _constants(node.value):
            yield Change(node, "constant", *source.span(node), other)
    elif isinstance(node, ast.Call):
        yield from _calls(source, node)


def _constants(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return (str(not value),)
    if isinstance(value, int):
        return (str(value + 1), str(value - 1) if value > 1 else "0") if value else ("1",)
    return (repr(value * 2), repr(value / 2)) if isinstance(value, float) and value else ()


def _calls(source: Source, node: ast.Call) -> Iterator[Change]:
    named = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if named in NAMES:
        stop = source.span(node.func)[1]
        yield Change(node, "min/max", stop - len(named), stop, NAMES[named])
    if named in NAMES or named in ORDERED:
        return
    simple = [a for a in node.args if not isinstance(a, ast.Starred | ast.Lambda)]
    if len(simple) == len(node.args) > 1:
        a, b = node.args[:2]
        (start, _), (_, stop) = source.span(a), source.span(b)
        between = source.text[source.span(a)[1] : source.span(b)[0]].decode()
        if source.of(a) != source.of(b) and "\n" not in between:
            yield Change(node, "swapped arguments", start, stop, source.of(b) + between + source.of(a))


def dropped(source: Source, statement: ast.stmt) -> Iterator[Change]:
    """The statement left out, its test turned round, or its result."""
    span = source.span(statement)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call | ast.Await):
        text = source.of(statement)
        if re.split(r"\W", text, maxsplit=1)[0] not in QUIET:
            kind = "dropped durability" if DURABLE.search(text.split("(")[0]) else "dropped statement"
            yield Change(statement, kind, *span, "pass")
    elif isinstance(statement, ast.AugAssign | ast.Raise | ast.Delete | ast.Continue | ast.Break) or (
        isinstance(statement, ast.Assign) and not isinstance(statement.targets[0], ast.Name | ast.Tuple)
    ):
        yield Change(statement, "dropped statement", *span, "pass")
    elif isinstance(statement, ast.Return) and statement.value is not None:
        if not (isinstance(statement.value, ast.Constant) and statement.value.value is None):
            yield Change(statement, "default returned", *span, "return None")
    elif isinstance(statement, ast.If | ast.While) and not isinstance(statement.test, ast.Compare | ast.Constant):
        yield Change(statement.test, "negated test", *source.span(statement.test), f"not ({source.of(statement.test)})")


def mutants_of(path: str, text: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    source, found, seen = Source(text), list[Mutant](), Counter[str]()
    for statement, function in statements(source.tree):
        nodes = [statement] if isinstance(statement, ast.AugAssign) else []
        nodes += expressions(statement)  # type: ignore[arg-type]
        context = source.of(statement).split("\n")[0].strip()
        for change in (*dropped(source, statement), *(c for node in nodes for c in changes_of(source, node))):
            place, after = (change.start, change.stop), change.after
            before = text[slice(*place)].decode()
            if before == after:
                continue
            key = "\0".join((path, function, context, change.kind, before, after))
            seen[key] += 1
            name = hashlib.sha256(f"{key}\0{seen[key]}".encode()).hexdigest()[:10]
            line = text.count(b"\n", 0, change.start) + 1
            last = line + before.count("\n")
            found.append(Mutant(name, path, line, last, function, change.kind, *place, before, after))
    return sorted(found, key=lambda m: (m.start, m.stop, m.after))


def valid(mutant: Mutant, text: bytes) -> bool:
    """Whether the changed file is a program, and another one."""
    try:
        return _shape(mutant.applied(text)) != _shape(text)
    except (SyntaxError, ValueError):
        return False


@functools.lru_cache(maxsize=256)
def _shape(text: bytes) -> str:
    return ast.dump(ast.parse(text))


def chosen(sources: Mapping[str, bytes], seed: int, count: int) -> list[Mutant]:
    """``count`` valid mutants, at most one a line, by the seed and their own names alone."""
    every = [mutant for path in sorted(sources) for mutant in mutants_of(path, sources[path])]
    every.sort(key=lambda mutant: hashlib.sha256(f"{seed}/{mutant.id}".encode()).digest())
    found, lines = list[Mutant](), set[tuple[str, int]]()
    for mutant in every:
        if len(found) == count:
            break
        if (mutant.path, mutant.line) not in lines and valid(mutant, sources[mutant.path]):
            lines.add((mutant.path, mutant.line))
            found.append(mutant)
    return found
