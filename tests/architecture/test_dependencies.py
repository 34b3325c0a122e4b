"""Every import is a declared dependency, and every declared one has a tested lower bound."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
SOURCE = sorted((ROOT / "cellflow").rglob("*.py"))
#: Distributions whose import name is another one.
DISTRIBUTIONS = {
    "gfn": "torchgfn",
    "lightning_fabric": "pytorch-lightning",
    "ot": "pot",
    "sklearn": "scikit-learn",
}


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[;~! ]", requirement)[0].lower()


DECLARED = {name_of(r) for r in PROJECT["dependencies"]}
OPTIONAL = {name_of(r) for extra in PROJECT["optional-dependencies"].values() for r in extra}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    top = {name.split(".")[0] for name in names}
    return top - set(sys.stdlib_module_names) - {"cellflow", "__future__"}


@pytest.mark.parametrize("path", SOURCE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_declared_dependencies(path):
    needed = {DISTRIBUTIONS.get(name, name) for name in imported(path)}
    assert needed - DECLARED - OPTIONAL == set()


def test_what_a_lean_environment_leaves_out_is_never_imported_unasked():
    lines = (ROOT / "lean.txt").read_text(encoding="utf8").splitlines()
    left_out = {name_of(line) for line in lines if not line.startswith("#")}
    imports = {path: imported(path) for path in SOURCE}
    needed = {
        p.name
        for p, names in imports.items()
        if left_out & {DISTRIBUTIONS.get(n, n) for n in names}
    }
    # Both are loaded by who asks for several devices, and say what to install.
    assert needed == {"fabric.py", "launch.py"} and "torchdyn" not in left_out


def test_lower_bounds_are_those_of_the_oldest_environment():
    lines = (ROOT / ".ci" / "constraints-oldest.txt").read_text(encoding="utf8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    bounds = dict(r.lower().split(">=") for r in PROJECT["dependencies"])
    bounds.pop("torch")  # older releases have no build without CUDA for every machine
    assert {n: pins[n] for n in bounds if not pins[n].startswith(bounds[n])} == {}
