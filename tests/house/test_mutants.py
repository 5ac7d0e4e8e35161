"""The maker of mutants: seeded, valid Python, one change each, no equal twins of the source."""

from __future__ import annotations

import ast

from scripts import mutants


def test_a_set_is_a_function_of_its_seed() -> None:
    first = mutants.chosen(3, 40, ("reduce",))
    assert first == mutants.chosen(3, 40, ("reduce",))
    assert first != mutants.chosen(4, 40, ("reduce",))
    assert len({mutant.id for mutant in first}) == 40


def test_every_mutant_is_valid_and_means_something_else() -> None:
    for mutant in mutants.chosen(5, 100, mutants.PACKAGES):
        source = (mutants.ROOT / mutant.path).read_text()
        other = mutant.applied(source)
        assert ast.dump(ast.parse(other)) != ast.dump(ast.parse(source)), mutant.id


def test_what_kinds_do() -> None:
    def kinds(text: str) -> dict[str, str]:
        node = ast.parse(text).body[0]
        found = {}
        for inner in ast.walk(node):
            for kind, other in mutants.changed(inner):
                found[kind] = ast.unparse(ast.fix_missing_locations(other))
        return found

    assert kinds("a < b") == {"compare": "a <= b"}
    assert kinds("a and b") == {"logic": "a or b"}
    assert kinds("x = a + b") == {"arithmetic": "a - b"}
    assert kinds("x = not a") == {"negation": "a"}
    assert kinds("f(a, b)") == {"swap": "f(b, a)", "drop": "pass"}
    assert kinds("x = min(a)") == {"name": "max(a)"}
    assert kinds("x += 1") == {"arithmetic": "x -= 1", "constant": "2"}
