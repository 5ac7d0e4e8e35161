"""What a docstring refers to is there, under the one name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("reduce", "compress", "jobs") for path in (ROOT / folder).rglob("*.py"))
ROLE = r":(?:mod|func|class|meth|data):`~?"


def found(name: str) -> Any:
    """The module, or what lies in it, that a dotted name means."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_references_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    assert not re.findall(rf"{ROLE}((?:reduce|compress|jobs)\.[\w.]+)`", text)
    for name in re.findall(rf"{ROLE}(eigenmill\.[\w.]+)`", text):
        found(name)
