"""Planted cells among others: densities, isolation forest and distances to neighbours.

    python benchmarks/family/outliers.py FOLDER        # with eb_sub2750_pca100.npz

Scores know 1,500 reference cells and are judged on 500 fresh ones and the planted ones: the area
under the ROC curve, mean and standard deviation over seeds. Of densities also which share of
planted and of fresh cells is called at a stated rate of false alarms of 5 %, by calibration on half
of the reference; the other scores have all of it.

Two scales: a tight clump and a wide cloud in two dimensions, planted cells in a circle around the
clump, nearer to cells than many of the cloud are. Broken correlation: ten dimensions that go
together in pairs; planted cells have the same marginals, without the pairs. Embryoid bodies: cells
of the days before the last, in five whitened components; "planted" are cells of the last day, as
far as they differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from cellflow.answers import outliers
from cellflow.densities import DENSITIES

SEEDS, KNOWN, FRESH, PLANTED = (0, 1), 1500, 500, 100
METHODS = ("nsf", "gmm")
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def two_scales(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    n = KNOWN + FRESH
    wide = rng.random((n, 1)) < 0.5
    x = rng.normal(size=(n, 2)) * np.where(wide, 3.0, 0.3) + np.where(wide, 10, 0) * [1, 0]
    angle = rng.uniform(0, 2 * np.pi, PLANTED)
    return x, 1.4 * np.c_[np.cos(angle), np.sin(angle)] + rng.normal(size=(PLANTED, 2)) / 10


def broken_correlation(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    pairs = rng.normal(size=(KNOWN + FRESH, 5))
    x = np.c_[pairs, pairs] + 0.3 * rng.normal(size=(KNOWN + FRESH, 10))
    return x, rng.normal(size=(PLANTED, 10)) * np.sqrt(1.09)


def embryoid_bodies(folder: Path) -> Draw:
    with np.load(folder / "eb_sub2750_pca100.npz", allow_pickle=True) as file:
        x, day = file["X"][:, :5], file["t"]
    x = (x - x.mean(0)) / x.std(0)
    before, last = x[day < day.max()], x[day == day.max()]

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return rng.permutation(before)[: KNOWN + FRESH], rng.permutation(last)[:PLANTED]

    return draw


def others(known: np.ndarray, new: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    near = NearestNeighbors(n_neighbors=15).fit(known).kneighbors(new)[0][:, -1]
    forest = IsolationForest(random_state=seed).fit(known)
    local = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(known)
    return {
        "15th neighbour": near,
        "isolation forest": -forest.score_samples(new),
        "local outlier factor": -local.score_samples(new),
    }


def main(folder: Path) -> None:
    draws = {
        "two scales": two_scales,
        "broken correlation": broken_correlation,
        "embryoid bodies": embryoid_bodies(folder),
    }
    truth = np.arange(FRESH + PLANTED) >= FRESH
    print(f"{'cells':20} {'score':22} {'AUROC':>14} {'planted called':>15} {'fresh called':>13}")
    for name, draw in draws.items():
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for seed in SEEDS:
            x, planted = draw(np.random.default_rng(seed))
            known, new = x[:KNOWN], np.r_[x[KNOWN:], planted]
            scores = {k: (s, None) for k, s in others(known, new, seed).items()}
            for method in METHODS:
                z, y = (torch.as_tensor(c, dtype=torch.float32) for c in (new, known))
                found = outliers(z, y, DENSITIES[method](), generator=seed)
                scores[method] = (found.score.numpy(), (found.score > found.threshold).numpy())
            for k, (score, called) in scores.items():
                shares = (np.nan,) * 2 if called is None else (called[truth], called[~truth])
                row = (roc_auc_score(truth, score), *map(np.mean, shares))
                rows.setdefault(k, []).append(row)
        for k, values in rows.items():
            area, hit, alarm = np.mean(values, 0)
            told = "" if np.isnan(hit) else f"{hit:15.2f} {alarm:13.3f}"
            print(f"{name:20} {k:22} {area:6.3f} ± {np.std(values, 0)[0]:5.3f} {told}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
