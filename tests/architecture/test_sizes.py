"""Small files, small functions, shallow classes, short argument lists."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellflow

ROOT = Path(__file__).parents[2]
SOURCE = sorted((ROOT / "cellflow").rglob("*.py"))
PUBLIC = [p for p in SOURCE if p.name == "__init__.py" or not p.name.startswith("_")]
EVERYTHING = [
    *SOURCE,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_wrapper(function: Function) -> bool:
    decorators = [ast.unparse(d) for d in function.decorator_list]
    return any(d.startswith("functools.wraps(") for d in decorators)


def length(path: Path) -> int:
    return len(path.read_text(encoding="utf8").splitlines())


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, Function):
            yield node


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[Function]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, Function) and (
            not node.name.startswith("_") or node.name in {"__init__", "__call__"}
        ):
            yield node


def code_lines(function: Function) -> int:
    """Lines of a function without its docstring: documentation is not what makes it long."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def every_argument(function: Function) -> list[str]:
    given = function.args
    return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def positional(function: Function) -> list[str]:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names and names[0] in {"self", "cls"} else names


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_file_is_short(path):
    assert length(path) <= 400, "split it: a file holds one idea"


def test_median_file_is_very_short():
    assert statistics.median(map(length, SOURCE)) <= 130


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_functions_are_short(path):
    long = {f"{f.name} (line {f.lineno})": code_lines(f) for f in functions(path)}
    assert {k: n for k, n in long.items() if n > 60} == {}


@pytest.mark.parametrize("path", PUBLIC, ids=name_of)
def test_at_most_three_positional_parameters(path):
    tree = ast.parse(path.read_text(encoding="utf8"))
    many = {f"{f.name} (line {f.lineno})": positional(f) for f in public_functions(tree)}
    assert {k: v for k, v in many.items() if len(v) > 3} == {}, "make the rest keyword-only"


def test_only_doors_take_ten_parameters():
    """What travels together below the doors is one value."""
    long = [
        f"{path.relative_to(ROOT / 'cellflow')}: {function.name}"
        for path in SOURCE
        for function in functions(path)
        if len([a for a in every_argument(function) if a not in {"self", "cls"}]) >= 10
    ]
    doors = ("tl/", "pl/", "pp/", "cli/")
    assert [name for name in long if not name.startswith(doors)] == []
    assert len(long) <= 13


@pytest.mark.parametrize("path", SOURCE, ids=name_of)
def test_no_keyword_pass_through(path):
    if path.relative_to(ROOT / "cellflow").parts[0] == "pl":
        return  # matplotlib's own options
    passing = [
        f"{f.name} (line {f.lineno})"
        for f in functions(path)
        if f.args.kwarg and not is_wrapper(f)  # what decorates any function passes all on
    ]
    assert passing == [], "name the options, or pass a configuration"


def own_classes() -> Iterator[type]:
    for info in pkgutil.walk_packages(cellflow.__path__, "cellflow."):
        module = importlib.import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == info.name:
                yield cls


def depth(cls: type) -> int:
    """Longest chain of our own classes that ends in `cls`."""
    if not cls.__module__.startswith("cellflow"):
        return 0
    return 1 + max(map(depth, cls.__bases__))


def test_inheritance_is_shallow():
    depths = {f"{c.__module__}.{c.__name__}": depth(c) for c in own_classes()}
    assert depths, "no class was found: the walk is broken"
    assert {k: d for k, d in depths.items() if d > 2} == {}


def test_the_measures_measure():
    """The helpers see what they are meant to see."""
    text = "def f(self, a, b, *, c, **rest):\n    '''One.\n\n    Two.\n    '''\n    return a\n"
    (function,) = (n for n in ast.walk(ast.parse(text)) if isinstance(n, Function))
    assert code_lines(function) == 2
    assert positional(function) == ["a", "b"]
    assert function.args.kwarg is not None

    first = type("First", (), {"__module__": "cellflow.x"})
    second = type("Second", (first,), {"__module__": "cellflow.x"})
    assert (depth(first), depth(second)) == (1, 2)
