"""Predicted populations: their masses, draws of their cells, and how far they are from data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cellflow import _checks
from cellflow._random import systematic
from cellflow._typing import Tensor
from cellflow.fits.folder import Unsaved
from cellflow.paths import Path
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse


def sample_cells(
    start: Snapshot,
    path: Path,
    prep: Preprocessing | None,
    *,
    n_cells: int,
    generator: torch.Generator,
) -> Snapshot:
    """Draw cells of `start`, each once; beyond its size, again with the noise of the `path`.

    The noise is in the coordinates of `prep`. Their masses are scaled so that they stand for the
    whole snapshot.
    """
    n = len(start)
    order = torch.randperm(n, generator=generator)[:n_cells]
    again = torch.randint(n, (max(n_cells - n, 0),), generator=generator)
    drawn = start.subset(torch.cat([order, again]).to(start.x.device))
    if n_cells != n:
        whole = start.total_mass / drawn.total_mass
        drawn = replace(drawn, mass=(drawn.mass.double() * whole).to(drawn.mass))
    if len(again) == 0:
        return drawn
    if isinstance(path, Unsaved):
        remedy = "The path is the user's own and was not saved: its noise is not known."
        raise ValueError(_checks.message("n_cells", n_cells, f"at most {n}", remedy))
    dim = start.x.shape[1] if prep is None else len(prep.scale)
    noise = path.std_at_start() * torch.randn(len(again), dim, generator=generator)
    noise = noise.to(drawn.x)
    if prep is not None:
        noise = prep.invert_vectors(noise)
    return replace(drawn, x=torch.cat([drawn.x[:n], drawn.x[n:] + noise]))


def equal_cells(
    predicted: Sequence[Snapshot], n: int, generator: torch.Generator
) -> list[Snapshot]:
    """Draw `n` rows by their mean share of the mass, the same in all `predicted` populations.

    The cells of each then have equal masses, which add up to its total.
    """
    shares = torch.stack([s.weights for s in predicted]).mean(0)
    rows = systematic(shares, n, generator).to(shares.device)
    out = [s.subset(rows) for s in predicted]
    totals = [s.total_mass / n for s in predicted]
    return [replace(s, mass=torch.full_like(s.mass, m)) for s, m in zip(out, totals, strict=True)]


def warn_of_extrapolation(course: TimeCourse, times: Tensor) -> None:
    """Say so if some of `times` are outside the `course`."""
    first, last = course.times[0], course.times[-1]
    times = times[(times < first) | (times > last)].unique()
    if times.numel() == 0:
        return
    outside = [f"{time:g}" for time in times.tolist()]
    named = " and ".join(outside) if len(outside) < 3 else f"{len(outside)} times"
    _checks.warn(
        f"{named} {'is' if len(outside) == 1 else 'are'} outside the fit's times, "
        f"{first:g} to {last:g}: an extrapolation."
    )


def grown_mass(mass: Tensor, growth: Tensor, time: float) -> Tensor:
    """Return `mass` ``(n,)`` after its logarithms have changed by `growth` ``(n,)`` by `time`."""
    growth = growth.to(mass)
    out = mass * growth.exp()
    if not bool(torch.isfinite(out).all() and (out > 0).all()):
        factors = f"exp({growth.min():.3g}) to exp({growth.max():.3g})"
        got = f"{time:g}, by when masses have grown by factors of {factors}"
        expected = f"a time by which {mass.dtype} can hold them"
        raise ValueError(_checks.message("time", got, expected, "Stay near the course."))
    return out


def sides_of(course: TimeCourse, time: float, both: bool) -> list[tuple[Snapshot, float]]:
    """Return the snapshots that tell of the population at `time`, and how much each counts.

    They are those of `course` on `both` sides, or the one before.
    """
    first, *_ = snapshots = course.snapshots
    before = next((s for s in reversed(snapshots) if s.time <= time), first)
    after = next((s for s in snapshots if s.time > time), first)
    if not both or before.time >= time or after.time <= time:
        return [(before, 1.0)]
    near = (after.time - time) * len(before)
    share = near / (near + (time - before.time) * len(after))
    return [(before, share), (after, 1 - share)]


def warn_of_no_noise(method: str, solver: str, *, score: bool) -> None:
    """Say that a stochastic `solver` draws nothing where `method` learned no noise, but a score."""
    why, instead = "learned no noise", "a method with a score such as 'sf2m'"
    if score:
        why = "learned a score, but its path declares no noise"
        instead = "give the path a `diffusion`"
    _checks.warn(
        f"{method!r} {why}: solver={solver!r} follows the mean flow, and every "
        f"draw is the same. Take solver='rk4', or {instead}."
    )
