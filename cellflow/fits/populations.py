"""Populations: masses and draws of predicted ones, and densities that likelihoods begin from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from cellflow import _checks
from cellflow._random import systematic
from cellflow._typing import Tensor
from cellflow.fits.folder import Unsaved
from cellflow.paths import Path
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density
from cellflow.timecourse import Snapshot, TimeCourse

#: Components at most, and cells by which they are fitted.
COMPONENTS, CELLS = 12, 5000


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


def gaussian_mixture(snapshot: Snapshot) -> MixtureSameFamily:
    """Return the mixture of normal laws of the cells of `snapshot`, by mass, with the least BIC.

    Components are added for as long as the criterion falls, with full covariances or with diagonal
    ones, whichever has less of it; up to 5,000 cells are looked at. It has ``log_prob`` and
    ``sample``, in the dtype and on the device of the cells.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = snapshot.x.detach()
    rows = systematic(snapshot.weights, min(len(x), CELLS), torch.Generator().manual_seed(0))
    cells = x[rows.to(x.device)].cpu().double().numpy()
    cells = cells.repeat(2, 0) if len(cells) == 1 else cells  # the least that it takes
    floor = max(1e-6 * float(cells.var(0).mean()), 1e-12 * float((cells**2).mean()), 1e-30)
    most = min(COMPONENTS, max(1, len(np.unique(cells, axis=0)) // 2))
    tried: list[tuple[float, int, GaussianMixture]] = []
    for kind in ("full", "diag"):
        for k in range(1, most + 1):
            law = GaussianMixture(k, covariance_type=kind, reg_covar=floor, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                tried.append((float(law.fit(cells).bic(cells)), len(tried), law))
            if k > 1 and tried[-1][0] >= tried[-2][0]:
                break
    best = min(tried)[-1]
    weights, means, covs = map(torch.from_numpy, (best.weights_, best.means_, best.covariances_))
    root = torch.linalg.cholesky(torch.diag_embed(covs) if covs.ndim == 2 else covs)
    normals = MultivariateNormal(means.to(x), scale_tril=root.to(x))
    return MixtureSameFamily(Categorical(weights.to(x)), normals)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Density of a `base` in data coordinates, at cells in the model's.

    Of a `preprocessing` that drops no dimension: a projection has no inverse.
    """

    base: Density
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        d, k = len(self.preprocessing.mean), len(self.preprocessing.scale)
        if k < d:
            expected = f"None: a fit on {k} components of {d} has no density in all {d}"
            remedy = "Use cellflow.simulate.log_likelihood(fit.dynamics, ...) on the components."
            raise ValueError(_checks.message("base", type(self.base).__name__, expected, remedy))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density at cells `z` ``(n, k)``, with respect to these coordinates: ``(n,)``."""
        prep = self.preprocessing
        return self.base.log_prob(prep.invert(z)) + prep.log_scale
