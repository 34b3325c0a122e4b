"""Registry of a family, which each member joins in its own file."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from cellflow import _doors

T = TypeVar("T")
M = TypeVar("M")


class Registry(Mapping[str, T], Generic[T]):
    """Members of a family, by name.

    The first look-up imports every public module of `package`, such as ``"cellflow.couplings"``: a
    new file needs no entry elsewhere.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._members: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[M], M]:
        """Return a decorator that enters a member under `name`, which must be free."""

        def enter(member: M) -> M:
            if name in self._members:
                raise ValueError(f"{self._package} has two members named {name!r}.")
            made = _doors.door(member) if inspect.isfunction(member) else member
            self._members[name] = made  # type: ignore[assignment] # a member of the family
            return made

        return enter

    def _all(self) -> dict[str, T]:
        if not self._complete:
            self._complete = True  # before the imports, which may look members up
            for info in pkgutil.iter_modules(import_module(self._package).__path__):
                if not info.name.startswith("_"):
                    import_module(f"{self._package}.{info.name}")
        return self._members

    def __getitem__(self, name: str) -> T:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
