"""Everything public is documented, and the documentation matches the signature."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString

import cellflow
from cellflow.methods import METHODS

ROOT = Path(__file__).parents[2]


def public_modules() -> Iterator[str]:
    yield "cellflow"
    for info in pkgutil.walk_packages(cellflow.__path__, "cellflow."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield info.name


def public_objects(module_name: str) -> dict[str, object]:
    """Functions and classes defined in a module, and the methods that the classes define."""
    module = importlib.import_module(module_name)
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module_name:
            continue
        if inspect.isclass(value):
            found[f"{module_name}.{name}"] = value
            for key, member in vars(value).items():
                member = getattr(member, "__func__", member)  # class and static methods
                member = getattr(member, "fget", member)  # properties
                if not key.startswith("_") and inspect.isfunction(member):
                    found[f"{module_name}.{name}.{key}"] = member
        elif inspect.isfunction(value):
            found[f"{module_name}.{name}"] = value
    return found


def exported(module_name: str, path: str) -> bool:
    """Whether users meet it: a member of a package counts if the package itself shows it.

    What modules of one package share among themselves needs words, but no table of parameters.
    """
    package = module_name.rpartition(".")[0]
    name = path.removeprefix(f"{module_name}.").split(".")[0]
    value = getattr(importlib.import_module(package), name, None)
    return package in {"", "cellflow"} or (value is not None and not inspect.ismodule(value))


def parameters(value: object) -> list[str]:
    try:
        signature = inspect.signature(value)
    except ValueError:
        return []
    names = []
    for parameter in signature.parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        if parameter.name not in {"self", "cls"}:
            names.append(stars.get(parameter.kind, "") + parameter.name)
    return names


def documented(text: str) -> list[str]:
    """Names under "Parameters", in order; ``x, y`` share an entry."""
    entries = NumpyDocString(text)["Parameters"]
    return [name.strip() for entry in entries for name in entry.name.split(",")]


def faults(value: object) -> list[str]:
    """What is missing from the docstring of a function, method or class."""
    text = inspect.getdoc(value)
    if not text:
        return ["no docstring"]
    if getattr(value, "_is_protocol", False) or isinstance(value, EnumType):  # nobody calls these
        return []
    expected, got = parameters(value), documented(text)
    if got:
        inherited = [p for base in getattr(value, "__mro__", ())[1:-1] for p in fields_of(base)]
        rest = [p for p in expected if p not in inherited or p in got]
        grouped = any("," in entry.name for entry in NumpyDocString(text)["Parameters"])
        same = sorted(got) == sorted(rest) if grouped else got == rest
        return [] if same else [f"documents {got}, takes {expected}"]
    # A one-paragraph docstring may name its parameters in the sentence instead.
    missing = [p for p in expected if not re.search(rf"`[^`]*\b{re.escape(p)}\b[^`]*`", text)]
    return [f"does not say what {missing} are"] if missing else []


def fields_of(base: type) -> list[str]:
    """Parameters that a base class of ours documents for its children."""
    return documented(inspect.getdoc(base) or "") if base.__module__[:8] == "cellflow" else []


def inherits_documentation(owner: object, name: str) -> bool:
    """Whether a method overrides one whose parameters are documented on a base class."""
    return any(vars(base).get(name) is not None for base in owner.__mro__[1:])


@pytest.mark.parametrize("module_name", list(public_modules()))
def test_public_objects_are_documented(module_name):
    module = importlib.import_module(module_name)
    assert module.__doc__, f"{module_name} has no docstring"
    wrong = {}
    for path, value in public_objects(module_name).items():
        *_, owner_name, name = path.split(".")
        owner = getattr(module, owner_name, None)
        if inspect.isclass(owner) and inherits_documentation(owner, name):
            continue
        found = faults(value)
        if found and (exported(module_name, path) or not value.__doc__):
            wrong[path] = found
    assert wrong == {}


def keys_in(text: str) -> set[str]:
    """Keys of the papers that a text cites."""
    roles = re.findall(r":cite(?::\w+)?:`([^`]+)`", text)
    return {key.strip() for role in roles for key in role.split(",")}


@pytest.mark.parametrize("name", METHODS)
def test_method_cites_a_paper(name):
    recipe = METHODS[name]
    assert keys_in(getattr(recipe, "func", recipe).__doc__)  # of a partial one, its function


def test_cited_papers_are_in_the_bibliography():
    papers = (ROOT / "cellflow/references.bib").read_text("utf8")
    known = re.findall(r"^@\w+\{([^,]+),", papers, re.M)
    files = (ROOT / "cellflow").rglob("*.py")
    cited = set().union(*(keys_in(path.read_text("utf8")) for path in files))
    assert cited, "the pattern is broken"
    assert sorted(cited - set(known)) == []
    assert len(known) == len(set(known))


def test_the_check_can_fail():
    def no_words(a): ...

    def swapped(a, b):
        """Do.

        Parameters
        ----------
        b
            One number.
        a
            Another.
        """

    def invented(a):
        """Do.

        Parameters
        ----------
        a, b
            Numbers.
        """

    def sentence(a, b):
        """Add `a` to the rest."""

    def good(a, *, b):
        """Do.

        Parameters
        ----------
        a, b
            Numbers.
        """

    assert faults(no_words) == ["no docstring"]
    assert faults(swapped) == ["documents ['b', 'a'], takes ['a', 'b']"]
    assert faults(invented) == ["documents ['a', 'b'], takes ['a']"]
    assert faults(sentence) == ["does not say what ['b'] are"]
    assert faults(good) == []
