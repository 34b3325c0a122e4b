"""The table of planted bugs quotes the code as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import cellflow
from plant_bugs import BUGS

PACKAGE = Path(cellflow.__file__).parent


@pytest.mark.parametrize("name", BUGS)
def test_the_text_of_a_bug_occurs_once(name):
    bug = BUGS[name]
    assert (PACKAGE / bug.file).read_text(encoding="utf8").count(bug.old) == 1
