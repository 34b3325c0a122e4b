"""Figures in the prose of the documentation stand in a stored table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FIGURE = re.compile(r"(?<![\d.])\d*\.\d+")


def figures(text: str) -> set[str]:
    return {found.lstrip("0") for found in FIGURE.findall(text)}


def summary(text: str) -> str:
    """What the page of benchmarks says before its tables."""
    return text.split("\n## ")[0]


def rows(text: str) -> str:
    """Rows of tables, and the paragraphs that say what the tables do not."""
    return text.split("\n## The names\n")[1]


@pytest.mark.parametrize(("page", "part"), [("benchmarks.md", summary), ("choosing.md", rows)])
def test_figures_of_prose_stand_in_stored_tables(page, part):
    tables = "".join(p.read_text(encoding="utf8") for p in (DOCS / "benchmarks").glob("*.txt"))
    said = figures(part((DOCS / page).read_text(encoding="utf8")))
    assert len(said) > 20
    assert not said - figures(tables)
