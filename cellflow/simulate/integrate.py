"""Ways to integrate over a segment: in fixed steps, with noise or without, and adaptively.

States between the nodes are interpolated, so that output times cost no steps. Within a step,
``theta`` runs from 0 to 1 and slopes are times the length of the step. A cubic goes through both
ends with their slopes; multiples of ``(theta * (1 - theta)) ** 2``, which leave the ends alone,
make it more exact: from the stages of an embedded pair, or from a neighbouring node
(:func:`quintic_terms`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.integration import Limits
from cellflow.simulate.noise import Noise
from cellflow.simulate.solver import NoisyStep, Pair, Step

#: What is taken of the step that the error allows, the bounds of a change, and the least step.
SAFETY, SHRINK, GROW, LEAST = 0.9, 0.2, 10.0, 1e-15


@dataclass(frozen=True, eq=False)
class Cubic:
    """Cubic through a step: states `x0`, `x1` and slopes `v0`, `v1` at its ends, each ``(n, d)``.

    Slopes are times the length of the step.
    """

    x0: Tensor
    x1: Tensor
    v0: Tensor
    v1: Tensor

    def at(self, theta: float) -> tuple[Tensor, Tensor]:
        """Return state and slope at `theta`, each ``(n, d)``."""
        rest, difference = 1 - theta, self.x1 - self.x0
        state = self.x0 + theta**2 * (3 - 2 * theta) * difference
        state = state + theta * rest**2 * self.v0 - theta**2 * rest * self.v1
        slope = 6 * theta * rest * difference
        slope = slope + rest * (1 - 3 * theta) * self.v0 + theta * (3 * theta - 2) * self.v1
        return state, slope

    def write(self, theta: Tensor, out: Tensor, *, terms: tuple[Tensor, ...] = ()) -> None:
        """Write the states at `theta` ``(m,)`` into `out` ``(m, n, d)``.

        The k-th of `terms`, ``(n, d)``, is the factor of ``(theta * (1 - theta))**2 * theta**k``.
        """
        rest = 1 - theta
        basis = [theta**2 * (3 - 2 * theta), theta * rest**2, -(theta**2) * rest]
        basis += [(theta * rest) ** 2 * theta**k for k in range(len(terms))]
        parts = torch.stack([self.x1 - self.x0, self.v0, self.v1, *terms])
        # Corrections to one end, rather than a weighted sum of both: they are small, and so is
        # their rounding, even where matrix products are allowed a lower precision.
        torch.addmm(
            self.x0.reshape(1, -1),
            torch.stack(basis, dim=1).to(out),
            parts.flatten(1),
            out=out.view(len(theta), -1),
        )


def quintic_terms(cubic: Cubic, theta: float, *, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the terms that lead `cubic` through state `x` and slope `v` at `theta` outside.

    They cost no evaluation, but want a neighbouring step of a similar length, whose other end is at
    `theta`: for equal steps -1 (previous) or 2 (next). Slopes are times the length of the step that
    `cubic` spans. The error is then :math:`O(h^6)`.
    """
    state, slope = cubic.at(theta)
    bump = (theta * (1 - theta)) ** 2
    bump_slope = 2 * theta * (1 - theta) * (1 - 2 * theta)
    constant = (x - state) / bump
    linear = (v - slope - bump_slope * constant) / bump
    return constant - theta * linear, linear


def steps_with_rows(u: Tensor, nodes: Tensor) -> Iterator[tuple[float, float, slice, int | None]]:
    """Give both ends of each step, the rows of outputs between them, and that of the later one.

    Outputs are at `u` ``(T,)``, the first of which belongs to no step, and steps between `nodes`
    ``(k + 1,)``: both are increasing from 0 to 1, in float64.
    """
    ends = torch.searchsorted(u, nodes[1:].contiguous(), right=True).tolist()
    ends[-1] = len(u)
    row = 1
    for (here, there), stop in zip(pairwise(nodes.tolist()), ends, strict=True):
        last = stop - 1 if stop > row and float(u[stop - 1]) == there else None
        yield here, there, slice(row, stop if last is None else last), last
        row = stop


def integrate_fixed(
    field: RescaledField, x: Tensor, *, u: Tensor, step: Step, n_steps: int, out: Tensor
) -> None:
    """Take `n_steps` equal steps through [0, 1] and write the states at `u` into `out`.

    The steps do not depend on `u`: states between the nodes are those of the quintic through a
    step and its neighbour. It takes the slopes that the steps need in any case.
    """
    h = 1.0 / n_steps
    nodes = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    out[0] = x
    slope = field(0.0, x)
    previous: tuple[Tensor, Tensor] | None = None
    first: tuple[Cubic, Tensor, Tensor] | None = None  # waits for its neighbour, the second step
    for here, there, between, end in steps_with_rows(u, nodes):
        new = step(field, x, slope, u=here, h=h)
        field.require_finite(new, there)
        field.advance(there)
        if end is not None:
            out[end] = new
        inside = between.stop > between.start
        if there == 1 and not inside and first is None:
            break  # the last slope is not needed
        new_slope = field(there, new)
        if there == 1:
            field.require_finite(new_slope, there)
        if first is not None:
            cubic, theta, target = first
            terms = quintic_terms(cubic, 2.0, x=new, v=h * new_slope)
            cubic.write(theta, target, terms=terms)
            first = None
        if inside:
            theta, target = (u[between] - here) * n_steps, out[between]
            cubic = Cubic(x, new, h * slope, h * new_slope)
            if previous is not None:
                terms = quintic_terms(cubic, -1.0, x=previous[0], v=h * previous[1])
                cubic.write(theta, target, terms=terms)
            elif n_steps == 1:
                cubic.write(theta, target)
            else:
                first = (cubic, theta, target)
        previous = (x, slope)
        x, slope = new, new_slope


def integrate_stochastic(
    field: RescaledField,
    x: Tensor,
    *,
    u: Tensor,
    step: NoisyStep,
    n_steps: int,
    noise: Noise,
    mean: bool = True,
    out: Tensor,
) -> None:
    r"""Take `n_steps` equal steps through [0, 1] and write states at `u` into `out`.

    Neither the steps nor their noise depend on `u`. A state between two nodes is drawn from the
    Brownian bridge through them. The drift varies by :math:`O(\sqrt h)` within a step, so that
    this is a draw from the law up to a local error of :math:`O(h^{3/2})` in the path and of
    :math:`O(h^2)` in law, which do not accumulate: no step is worse.
    """
    h = 1.0 / n_steps
    nodes = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    out[0] = x
    for here, there, between, end in steps_with_rows(u, nodes):
        scale = field.scale(here, h, x)
        drawn = noise.increments(scale, mean=mean)
        new = step(field, x, field(here, x), u=here, h=h, noise=drawn)
        field.require_finite(new, there)
        field.advance(there)
        if between.stop > between.start:
            theta = (u[between] - here) * n_steps
            line = torch.addcmul(x, theta.to(x)[:, None, None], new - x)
            torch.add(line, noise.bridge(theta, scale), out=out[between])
        if end is not None:
            out[end] = new
        x = new


def integrate_adaptive(
    field: RescaledField, x: Tensor, *, u: Tensor, pair: Pair, limits: Limits, out: Tensor
) -> None:
    """Integrate through [0, 1] in steps chosen by the error, and write the states at `u`.

    A step is taken where its estimated error, in units of ``atol + rtol * |x|``, has a root mean
    square over cells and dimensions of at most one. What is left of the way is divided into equal
    steps no longer than the error allows: the last is no sliver. The steps do not depend on `u`;
    states between them cost no evaluation. `field` bounds the evaluations, which ends stiff ones.
    """
    a, times = [x.new_tensor(weights) for weights in pair.a], u.tolist()
    error_weights, quartic = x.new_tensor(pair.error), x.new_tensor(pair.quartic)
    k = x.new_empty(len(a), *x.shape)
    stages = k.flatten(1).t()
    out[0], here, row = x, 0.0, 1
    k[0] = _finite(field, 0.0, x)
    allowed = _first_step(field, x, k[0], order=pair.order, limits=limits)
    while here < 1.0:
        left = math.ceil((1.0 - here) / allowed - 1e-9)
        h = (1.0 - here) / left
        new = x
        for s in range(1, len(a)):
            # Matrix and vector: a product that no setting allows a lower precision.
            new = torch.addmv(x.reshape(-1), stages[:, :s], a[s], alpha=h).view_as(x)
            k[s] = field(here + pair.c[s] * h, new)
        scale = torch.maximum(x.abs(), new.abs()).mul_(limits.rtol).add_(limits.atol)
        error = h * _rms((stages @ error_weights).view_as(x), scale)
        if not math.isfinite(error):
            for time, slope in zip(pair.c, k, strict=True):
                field.require_finite(slope, here + time * h)
        if error <= 1.0:
            there = 1.0 if left == 1 else here + h
            stop = len(u) - 1 if left == 1 else bisect_right(times, there)
            if stop > row:
                cubic = Cubic(x, new, h * k[0], h * k[-1])
                term = h * (stages @ quartic).view_as(x)
                cubic.write((u[row:stop] - here) / h, out[row:stop], terms=(term,))
            x, here, row = new, there, stop
            k[0] = k[-1]
        change = SAFETY * max(error, 1e-10) ** (-1 / pair.order)
        allowed = max(h * min(GROW, max(SHRINK, change)), LEAST)  # NaN shrinks
    field.require_finite(x, 1.0)
    out[-1] = x


def _first_step(
    field: RescaledField, x: Tensor, slope: Tensor, *, order: int, limits: Limits
) -> float:
    """Return the first step to try, after Hairer, Norsett and Wanner (1993), section II.4."""
    scale = limits.atol + limits.rtol * x.abs()
    size, speed = _rms(x, scale), _rms(slope, scale)
    h = max(min(0.01 * size / speed, 1.0), LEAST) if min(size, speed) > 1e-5 else 1e-6
    bend = _rms(_finite(field, h, x + h * slope) - slope, scale) / h
    most = max(speed, bend)
    return max(min(100 * h, (0.01 / most) ** (1 / order) if most > 1e-15 else 1e-3, 1.0), LEAST)


def _finite(field: RescaledField, u: float, x: Tensor) -> Tensor:
    slope = field(u, x)
    field.require_finite(slope, u)
    return slope


def _rms(x: Tensor, scale: Tensor) -> float:
    return float((x / scale).square_().mean().sqrt())
