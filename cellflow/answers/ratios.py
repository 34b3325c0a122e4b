"""How much denser one cloud of cells is than another, place by place."""

from __future__ import annotations

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.densities import Density


def log_ratio(
    x: ArrayLike,
    start: ArrayLike,
    end: ArrayLike,
    *,
    density: Density,
    steps: int | None = None,
    generator: Rng = 0,
) -> Tensor:
    r"""Return :math:`\log p_{end}(x) - \log p_{start}(x)` at cells `x` ``(n, d)``, shape ``(n,)``.

    In nats, by `density`, fitted with so many `steps` to the cells `start` ``(k, d)`` and to those
    of `end` ``(m, d)`` apart, both from the seed that `generator` gives.
    """
    seed, cells = draw_seed(generator), _checks.as_cells(x, "x")
    before, after = (density.fit(y, steps=steps, generator=seed) for y in (start, end))
    return (after.log_prob(cells) - before.log_prob(cells)).detach()
