"""Scores of cells predicted for a day left out, and predictions that need no model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from cellflow._random import stream_seed, systematic
from cellflow.couplings import Exact, Reach
from cellflow.evaluate.scorer import interpolated
from cellflow.metrics import energy_distance, wasserstein1, wasserstein2
from cellflow.timecourse import Snapshot, TimeCourse

#: Kinds of cells whose shares are compared.
CLUSTERS = 12


def clusters(training: TimeCourse) -> KMeans:
    """Find kinds of cells on the training days."""
    cells = training.x.numpy()
    return KMeans(min(CLUSTERS, len(cells)), random_state=0, n_init=3).fit(cells)


def composition_error(cells: Snapshot, truth: Snapshot, kinds: KMeans) -> float:
    """Total variation distance between the shares of kinds, by mass."""
    ours, theirs = (
        np.bincount(kinds.predict(s.x.numpy()), s.weights.numpy(), kinds.n_clusters)
        for s in (cells, truth)
    )
    return float(np.abs(ours / ours.sum() - theirs / theirs.sum()).sum() / 2)


def equal(cells: Snapshot, n: int) -> Snapshot:
    """Return `n` equal cells drawn by mass, since W1 falls as more cells predict."""
    if cells.is_uniform and len(cells) <= n:
        return cells
    rows = systematic(cells.weights.double(), n, torch.Generator().manual_seed(0))
    return Snapshot(cells.x[rows], cells.time)


def scores(cells: Snapshot, truth: Snapshot, kinds: KMeans, n: int) -> dict[str, float]:
    """Return distances of predicted `cells` to the `truth`, by mass, and what they are made of.

    ``w1_equal`` is W1 of `n` equal cells drawn by mass, ``shift`` the distance of the means,
    ``centred`` W1 without it, ``nearest`` the mean distance of a predicted cell to the nearest true
    one, ``effective`` the number of equal cells that vary as much as these masses.
    """
    x, y, masses = cells.x, truth.x, {"x_mass": _mass(cells), "y_mass": _mass(truth)}
    means = [s.weights.double() @ s.x.double() for s in (cells, truth)]
    near, _ = NearestNeighbors(n_neighbors=1).fit(y.numpy()).kneighbors(x.numpy())
    weights, w1, drawn = cells.weights.double(), wasserstein1(x, y, **masses), equal(cells, n)
    return {
        "w1": w1,
        "w1_equal": w1 if drawn is cells else wasserstein1(drawn.x, y, y_mass=masses["y_mass"]),
        "w2": wasserstein2(x, y, **masses),
        "energy": energy_distance(x, y, **masses),
        "composition": composition_error(cells, truth, kinds),
        "shift": float((means[0] - means[1]).norm()),
        "centred": wasserstein1(x.double() - means[0], y.double() - means[1], **masses),
        "nearest": float(weights.numpy() @ near[:, 0]),
        "effective": cells.effective,
    }


def _mass(cells: Snapshot) -> Tensor | None:
    return None if cells.is_uniform else cells.mass


def _drawn(x: Tensor, n: int, seed: int) -> Tensor:
    """Draw `n` cells, each once; where there are fewer, each once before any is drawn again."""
    rng = torch.Generator().manual_seed(seed)
    rounds = -(-n // len(x))
    return x[torch.cat([torch.randperm(len(x), generator=rng) for _ in range(rounds)])[:n]]


def _next(course: TimeCourse, k: int, seed: int) -> Tensor:
    return _drawn(course.snapshots[k + 1].x, len(course.snapshots[k - 1]), seed)


def _pooled(course: TimeCourse, k: int, seed: int) -> Tensor:
    before, after = course.snapshots[k - 1].x, course.snapshots[k + 1].x
    return _drawn(torch.cat([before, after]), len(before), seed)


#: Predictions of snapshot `k` without a model, by a seed: as many cells as the day before has.
YARDSTICKS: dict[str, Callable[..., Tensor]] = {
    "previous": lambda course, k, seed: course.snapshots[k - 1].x,
    "next": _next,
    "pooled": _pooled,
    "ot_midpoint": partial(interpolated, Exact()),
    "uot_midpoint": partial(interpolated, Reach()),
    "uot_clock": partial(interpolated, Reach(), clock="tempered"),
}
#: Those that are the same for every seed.
SEEDLESS = ("previous",)
#: One half of the day left out as a prediction of the other.
FLOOR = "floor"


def yardstick(name: str, course: TimeCourse, k: int, seed: int) -> tuple[Snapshot, Snapshot]:
    """Return the cells that a yardstick predicts for snapshot `k`, and those to compare with."""
    truth, seed = course.snapshots[k], stream_seed(seed, k, 32)
    if name != FLOOR:
        return Snapshot(YARDSTICKS[name](course, k, seed=seed), truth.time), truth
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    half = len(truth) // 2
    return truth.subset(order[:half]), truth.subset(order[half : 2 * half])
