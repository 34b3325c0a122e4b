"""Methods as plain facts, for files; and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from cellflow.batches import Batching
from cellflow.couplings.coupling import COUPLINGS, FunctionCoupling
from cellflow.networks import NETWORKS
from cellflow.paths import PATHS, Path
from cellflow.training.networks import Parts
from cellflow.training.trainer import Training

T = TypeVar("T")


@runtime_checkable
class FittedMethod(Protocol):
    """What a fit knows of its method, a frozen dataclass."""

    @property
    def name(self) -> str:
        """What tables and files call this method."""
        ...

    @property
    def parts(self) -> Parts:
        """Coupling, path, networks and settings."""
        ...


@dataclass(frozen=True)
class Unsaved:
    """Part of a loaded method that a file cannot hold, such as a precomputed plan: its `text`.

    The `diffusion` is that of a path.
    """

    text: str
    diffusion: float = 0.0
    needs_rates: ClassVar[bool] = False

    def __call__(self, *what: object, part: object = None) -> None:
        """Raise RuntimeError, whatever is asked: the part was not saved."""
        raise RuntimeError(f"{self.text} was not saved with this fit; build the method anew.")

    half_variance_rate = draw = __call__


def _known() -> dict[str, type]:
    """Return the classes of parts that a file can name."""
    settings = (Batching, Training, Unsaved)
    registered = (*COUPLINGS.values(), *PATHS.values(), *NETWORKS.values())
    return {part.__name__: part for part in (*registered, *settings)}


def to_facts(method: FittedMethod) -> dict[str, Any]:
    """Return the parts of `method` as JSON-able facts; `from_facts` reads them."""
    out: dict[str, Any] = {"kind": type(method).__name__}
    known = _known()
    for name, part in _settings(method).items():
        if isinstance(part, FunctionCoupling):
            part = part.function
        kind = type(part).__name__
        if isinstance(part, str | bool | int | float):
            out[name] = part
        elif isinstance(part, FittedMethod):  # a method within a method
            out[name] = to_facts(part)
        elif known.get(kind) is type(part) and _is_plain(_settings(part)):
            out[name] = {"kind": kind} | _settings(part)
        else:  # a part of the user's own: described, but not to be read back
            diffusion = part.diffusion if isinstance(part, Path | Unsaved) else 0.0
            out[name] = {"kind": "Unsaved", "text": kind, "diffusion": diffusion}
    return out


def from_facts(facts: dict[str, Any], methods: Mapping[str, type[T]], default: type[T]) -> T:
    """Build the method that :func:`to_facts` described, of one of the classes `methods`."""
    known: dict[str, type] = _known()

    def part(value: object) -> object:
        if not isinstance(value, dict):
            return value
        if value["kind"] in methods:
            return from_facts(value, methods, default)
        return _build(known[value["kind"]], value)

    parts = {name: part(value) for name, value in facts.items()}
    return _build(methods.get(facts.get("kind", ""), default), parts)


def _build(kind: type[T], settings: Mapping[str, Any]) -> T:
    """Make a part; settings of an earlier version that were off, and are gone, are left out."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type] # all parts are dataclasses
    return kind(**{k: v for k, v in settings.items() if k in known or (v and k != "kind")})


def _settings(part: object) -> dict[str, Any]:
    """Return the fields of a dataclass, with numbers of numpy and torch as Python's own."""
    if not is_dataclass(part):
        return {}
    return {f.name: _plain(getattr(part, f.name)) for f in fields(part)}


def _plain(value: object) -> object:
    if isinstance(value, np.generic | torch.Tensor) and value.ndim == 0:
        return value.item()
    return value


def _is_plain(settings: dict[str, Any]) -> bool:
    return all(v is None or isinstance(v, str | bool | int | float) for v in settings.values())
