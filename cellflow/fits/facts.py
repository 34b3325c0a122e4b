"""A method as plain facts, for files; and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from cellflow.batches import Batching
from cellflow.couplings import (
    Entropic,
    Exact,
    Geodesic,
    Hierarchical,
    Independent,
    Partial,
    Unbalanced,
)
from cellflow.networks import MLPConfig
from cellflow.paths import BrownianBridge, Spline, Straight
from cellflow.training.trainer import Training

#: Parts that a file can name. A part of the user's own is described, and cannot be read back.
PARTS: dict[str, Callable[..., Any]] = {
    part.__name__: part
    for part in (
        Independent,
        Exact,
        Entropic,
        Geodesic,
        Hierarchical,
        Partial,
        Unbalanced,
        Straight,
        Spline,
        BrownianBridge,
        MLPConfig,
        Batching,
    )
} | {"Training": Training}


@dataclass(frozen=True)
class Unsaved:
    """Stands in a loaded fit for a part that a file cannot hold, such as a precomputed plan.

    Parameters
    ----------
    text
        What it was.
    diffusion
        Of a path.
    """

    text: str
    diffusion: float = 0.0

    def __call__(self, *what: object, part: object = None) -> None:
        """Refuse, whatever is asked.

        Raises
        ------
        RuntimeError
            Always: the part was not saved.
        """
        raise RuntimeError(f"{self.text} was not saved with this fit; build the method anew.")

    half_variance_rate = draw = __call__
    needs_rates = False


def describe(method: Any) -> dict[str, Any]:
    """Return the parts of `method` as JSON-able facts."""
    out: dict[str, Any] = {"kind": type(method).__name__}
    for field in (f.name for f in fields(method)):
        part = _plain(getattr(method, field))
        kind = type(part).__name__
        if isinstance(part, str | bool | int | float):
            out[field] = part
            continue
        if hasattr(part, "fit"):  # a method within a method
            out[field] = describe(part)
            continue
        if kind in PARTS and is_dataclass(part) and not isinstance(part, type):
            out[field] = {"kind": kind} | {k: _plain(v) for k, v in asdict(part).items()}
        else:
            diffusion = getattr(part, "diffusion", 0.0)
            out[field] = {"kind": "Unsaved", "text": kind, "diffusion": diffusion}
    return out


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as Python's own, which JSON knows; all else as it is."""
    scalar = isinstance(value, np.generic | torch.Tensor) and value.ndim == 0
    return value.item() if scalar else value


def parts(facts: dict[str, Any]) -> dict[str, Any]:
    """Build what :func:`describe` described in `facts`: keyword arguments of the method."""
    out: dict[str, Any] = {}
    for field, part in facts.items():
        if field == "kind":
            continue
        if not isinstance(part, dict):
            out[field] = part
            continue
        settings = {k: v for k, v in part.items() if k != "kind"}
        out[field] = {**PARTS, "Unsaved": Unsaved}[part["kind"]](**settings)
    return out
