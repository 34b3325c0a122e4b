"""A door takes what its signature says: anything else is refused before the work, in a sentence."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar, cast

import numpy as np
import torch

from cellflow import _checks

F = TypeVar("F", bound=Callable[..., Any])
#: What to do for want of a thing.
REMEDIES = {
    "an AnnData": "For arrays, use TimeCourse.from_arrays; of a MuData, pass one modality.",
    "an Ensemble": "Fit with members=8.",
    "a Trajectory": "Call `simulate` on a fit.",
}
#: What else is accepted for a type.
_ALSO = {bool: (np.bool_, int), os.PathLike: (str,)}
#: Types whose values are checked, and converted, where they are used.
_CONVERTED = {Any, object, int, float, complex, np.ndarray, torch.Tensor}
#: Arguments that are more than their types, and told of where they are turned into them.
_TURNED = {"coupling", "device", "net", "plan", "time_map"}
#: Of one thing after the other; how they are kept is not asked.
_SEVERAL = (Sequence, Iterable, list, tuple)
_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_WORDS = {str: "text", NoneType: "None", os.PathLike: "a path", Iterable: "several values"}


def door(made: F) -> F:
    """Return the function or class `made`, which refuses arguments of other kinds than it says.

    A class does so in what it is made of, where it checks that, and in its methods. Arrays are
    left to those who convert them, and so are numbers, but that those of numpy become Python's.
    """
    if inspect.isclass(made):
        for name, method in list(vars(made).items()):
            checks = name == "__init__" and hasattr(made, "__post_init__")
            if isinstance(method, classmethod) and name[0] != "_":
                setattr(made, name, classmethod(door(method.__func__)))
            elif inspect.isfunction(method) and (name[0] != "_" or checks) and not _made(method):
                setattr(made, name, door(method))
        return made
    signature, settings = inspect.signature(made), made.__name__ == "__init__"

    @functools.cache
    def kinds() -> dict[str, tuple[type, ...]]:  # at the first call: by then all is imported
        found = {p.name: _kinds(p, made.__globals__) for p in signature.parameters.values()}
        return {name: kinds for name, kinds in found.items() if kinds}

    @functools.wraps(made)
    def checked(*args: Any, **keywords: Any) -> Any:
        args = tuple(_plain(value, settings) for value in args)
        keywords = {name: _plain(value, settings) for name, value in keywords.items()}
        given = keywords | dict(zip(signature.parameters, args, strict=False))
        for name, expected in kinds().items():
            if name in given and not _is(given[name], expected):
                raise _other_kind(name, given[name], expected)
        return made(*args, **keywords)

    return cast(F, checked)


def _made(function: Callable[..., Any]) -> bool:
    """Whether this is a door already: two rooms may export it."""
    return hasattr(function, "__wrapped__")


def _plain(value: Any, settings: bool) -> Any:
    """Return a number of numpy, or of torch in `settings`, as one of Python: it can be saved."""
    kept = settings and isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_meta
    return value.item() if kept or isinstance(value, np.bool_ | np.number) else value


def _is(value: object, expected: tuple[type, ...]) -> bool:
    scalar = isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0
    if scalar or hasattr(value, "tocsr"):
        return False  # these, and sparse matrices, say that they can be iterated, and cannot
    if os.PathLike in expected and isinstance(value, str | os.PathLike) and "\0" in str(value):
        return False  # no system has a file of that name
    return isinstance(value, expected)


def _other_kind(name: str, value: object, expected: tuple[type, ...]) -> TypeError:
    kinds = [kind for kind in expected if kind not in (np.bool_, int)]
    names = (kind.__name__ for kind in kinds)
    named = (f"an {name}" if name[0] in "AEIOU" else f"a {name}" for name in names)
    known = [_WORDS.get(kind, name) for kind, name in zip(kinds, named, strict=True)]
    remedy = REMEDIES.get(known[0], "")
    got = "None" if value is None else type(value).__name__
    return TypeError(_checks.message(name, got, " or ".join(dict.fromkeys(known)), remedy))


def _kinds(parameter: inspect.Parameter, names: dict[str, Any]) -> tuple[type, ...]:
    """Return the types that an argument may have; none where others check it."""
    text = parameter.annotation
    if not isinstance(text, str) or parameter.kind in _REST or parameter.name in _TURNED:
        return ()
    if "AnnData" in text:
        from anndata import AnnData

        names = {"AnnData": AnnData, **names}
    try:
        parts = _flat(eval(text, names))  # an annotation of ours
    except (NameError, TypeError):  # of a module imported for annotations alone; of text
        return ()
    if not all(isinstance(part, type) for part in parts) or _CONVERTED & set(parts):
        return ()
    if any(getattr(part, "_is_protocol", False) for part in parts):
        return ()
    if str in parts and any(part.__module__.startswith("cellflow") for part in parts):
        return ()  # a name, or what it stands for: the registry says more
    return (*parts, *(other for part in parts for other in _ALSO.get(part, ())))


def _flat(annotation: Any) -> list[Any]:
    """Return the alternatives of an annotation, without what they hold."""
    origin = typing.get_origin(annotation)
    if origin in (UnionType, typing.Union):
        return [kind for part in typing.get_args(annotation) for kind in _flat(part)]
    if annotation is None:
        return [NoneType]
    kind = annotation if origin is None else origin
    if inspect.isclass(kind) and issubclass(kind, os.PathLike):
        return [os.PathLike]
    return [Iterable if kind in _SEVERAL else kind]


def guard(room: str) -> None:
    """Make a :func:`door` of every function and class that `room` exports."""
    package = sys.modules[room]
    for name in package.__all__:
        value = vars(package).get(name)
        if inspect.isclass(value) and value.__module__.startswith("cellflow"):
            door(value)
        elif inspect.isfunction(value) and not _made(value):
            made = door(value)
            setattr(package, name, made)
            setattr(sys.modules[value.__module__], value.__name__, made)  # where pickle looks
