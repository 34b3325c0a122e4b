"""Sinks: groups of places where the simulated cells stop, when nobody has named terminal ones."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from sklearn.mixture import GaussianMixture

from cellflow import _checks
from cellflow._random import draw_seed, systematic
from cellflow._typing import Rng, Tensor
from cellflow.answers.fates import futures
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import Snapshot

#: Futures that the density is learned from, components that it has, and their directions, at most.
MOST, COMPONENTS, DIRECTIONS = 5000, 10, 10
#: Two components are one sink where the density between them falls to no less than this part of
#: the lower peak; a sink with less than this share of the mass is none.
DIP, LEAST = 0.5, 0.05


def sinks(fit: Fit | Ensemble, ends: Snapshot, *, generator: Rng = 0) -> Tensor:
    """Sink of each of the cells `ends`, shape ``(m,)``: 0 for that with most mass, and so on.

    These are cells in data coordinates, at a time after the first. One future of every cell of the
    earlier snapshots of `fit`, with noise where the method learned it, is simulated to their time;
    each snapshot, and each member of an ensemble, counts as much. A sink is a mode of the density
    of these places: see :func:`modes`. It is where cells are at that time, whether they would go on
    or not, because a fit knows nothing of later times. A seed or `generator` decides the noise and
    the choice of futures.
    """
    rng, prep = _checks.as_generator(generator), fit.preprocessing
    earlier = [s for s in fit.course.snapshots if s.time < ends.time]
    if not earlier:
        got = f"cells at time {ends.time:g}"
        raise ValueError(_checks.message("ends", got, "cells at a time after the first of the fit"))
    stopped = [futures(fit, s, ends.time, generator=rng) for s in earlier]
    weights = torch.cat([s.weights for s in stopped]) / len(stopped)
    places = torch.cat([s.x for s in stopped])
    x, cells = (z if prep is None else prep.apply(z) for z in (places, ends.x))
    return modes(x, cells, weights, generator=rng)


def modes(places: Tensor, cells: Tensor, weights: Tensor, *, generator: Rng = 0) -> Tensor:
    """Mode of the density of `places` ``(n, d)`` that each of the `cells` ``(m, d)`` belongs to.

    The density is a mixture of Gaussians, as many as the Bayesian information criterion prefers,
    in the leading principal directions. Components are joined where the density on the line
    between their centres has no dip (:data:`DIP`), so that one group of another shape than a
    Gaussian stays one; components of groups that are too weak (:data:`LEAST`) take no cells.

    The mass at each place is of `weights` ``(n,)``, of total one; the `generator` (or seed) decides
    which places are looked at, and where the mixtures start. Modes are numbers ``(m,)`` from 0, in
    falling order of mass.
    """
    rng = _checks.as_generator(generator)
    drawn = places[systematic(weights, min(len(places), MOST), rng)]
    x, others = (z.detach().cpu().double().numpy() for z in (drawn, cells))
    center = x.mean(0)
    _, size, axes = np.linalg.svd(x - center, full_matrices=False)
    axes = axes[:DIRECTIONS].T * len(x) ** 0.5 / (size[0] or 1.0)
    x, others = (x - center) @ axes, (others - center) @ axes
    seed = draw_seed(rng) % 2**32
    most = range(1, 1 + min(COMPONENTS, len(np.unique(x, axis=0))))
    tried = [GaussianMixture(k, random_state=seed, reg_covar=1e-4).fit(x) for k in most]
    best = min(tried, key=lambda mixture: mixture.bic(x))
    group = _joined(best)
    mass = np.bincount(group[best.predict(x)], minlength=group.max() + 1) / len(x)
    order = np.argsort(-mass, kind="stable")
    chances = np.where(mass[group] < LEAST, 0.0, best.predict_proba(others))
    return torch.from_numpy(np.argsort(order)[group[chances.argmax(1)]])


def _joined(mixture: GaussianMixture) -> np.ndarray:
    """Group of each component: those that no dip of the density parts."""
    centers, steps = mixture.means_, np.linspace(0.0, 1.0, 33)[:, None]
    one = np.eye(len(centers), dtype=bool)
    for i, j in zip(*np.tril_indices(len(centers), -1), strict=True):
        line = mixture.score_samples(centers[i] + steps * (centers[j] - centers[i]))
        one[i, j] = line.min() >= min(line[0], line[-1]) + np.log(DIP)
    return connected_components(one, directed=False)[1]
