"""The noise floor of a metric: its value between two halves of one sample."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor


def split_half_floor(
    x: ArrayLike,
    metric: Callable[..., float],
    *,
    mass: ArrayLike | None = None,
    generator: Rng = None,
    repeats: int = 5,
    size: int | None = None,
) -> Tensor:
    """Value of `metric` between disjoint random halves of one sample.

    No model can be expected to score below it. Wasserstein distances between samples shrink slowly
    as samples grow, so compare a score with the floor at the same number of cells. The `metric` is
    ``(x, y) -> float``, for example :func:`cellflow.metrics.wasserstein1`; the `mass` ``(n,)`` of
    cells `x` ``(n, d)``, which may be omitted, is passed on as ``x_mass`` and ``y_mass``. Of as
    many random splits as `repeats`, by a seed or `generator`, values are returned as
    ``(repeats,)``, in float64. Each part has `size` cells; ``n // 2`` when omitted.
    """
    x = _checks.as_cells(x, "x", min_cells=2)
    repeats = _checks.count(repeats, "repeats")
    size = len(x) // 2 if size is None else _checks.count(size, "size")
    if 2 * size > len(x):
        most = f"at most {len(x) // 2}, half of the cells"
        raise ValueError(_checks.message("size", f"{size}", most))
    if mass is not None:
        mass = _checks.as_numbers(mass, "mass").to(x.device)
        if mass.shape != (len(x),):
            raise ValueError(_checks.message("mass", f"shape {tuple(mass.shape)}", f"({len(x)},)"))
    rng = _checks.as_generator(generator)
    values = []
    for _ in range(repeats):
        order = torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)
        i, j = order[:size], order[size : 2 * size]
        masses = {} if mass is None else {"x_mass": mass[i], "y_mass": mass[j]}
        values.append(float(metric(x[i], x[j], **masses)))
    return torch.tensor(values, dtype=torch.float64)
