"""What a fit is asked: checked, with a word where the answer is not what it seems."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Field, Tensor
from cellflow.fits.populations import warn_of_extrapolation
from cellflow.timecourse import TimeCourse


def read_times(time: float | ArrayLike, z: Tensor, course: TimeCourse) -> Tensor:
    """Return `time`, ``()`` or one for each cell of `z` ``(n, k)``; a warning outside `course`."""
    expected = f"a finite number, or one for each cell, shape ({len(z)},)"
    t = _checks.as_numbers(time, "time", expected)
    t = t.to(device=z.device, dtype=_checks.time_dtype(z.device))
    if t.ndim > 1 or (t.ndim == 1 and len(t) != len(z)):
        raise ValueError(_checks.message("time", f"shape {tuple(t.shape)}", expected))
    if not bool(torch.isfinite(t).all()):
        raise ValueError(_checks.message("time", "NaN or infinite times", expected))
    warn_of_extrapolation(course, t)
    return t


def required(part: Field | None, name: str, *, of: tuple[str, str]) -> Field:
    """Return the `part` of that `name`; an error without: `of` a method, and one that has it."""
    method, example = of
    if part is None:
        expected = f"a method that learns it, such as {example}"
        raise ValueError(_checks.message(name, f"a fit of {method!r}", expected))
    return part


def strength(guidance: float | None, evidence: Callable[[], float]) -> float:
    """Return the `guidance` asked for, by default the `evidence`; a warning where it is 0."""
    if guidance is not None:
        return _checks.number(guidance, "guidance", low=0.0)
    found = evidence()
    if not found:
        _checks.warn(
            "Conditions do not differ by more than chance: all are predicted alike. Ask with "
            "guidance=1 for what was learned all the same."
        )
    return found
