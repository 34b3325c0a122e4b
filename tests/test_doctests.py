"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import cellflow

MODULES = ["cellflow", *(m.name for m in pkgutil.walk_packages(cellflow.__path__, "cellflow."))]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run(name: str) -> doctest.TestResults:
    module = importlib.import_module(name)
    return doctest.testmod(module, optionflags=OPTIONS, verbose=False)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert run(name).failed == 0, "the output above says which example"
