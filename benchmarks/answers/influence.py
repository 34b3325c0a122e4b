"""Influence matrices against the true networks of simulated time courses (Pratapa et al. 2020).

    python benchmarks/answers/influence.py FOLDER        # with beeline_dyn-BF.npz and -TF.npz

Edges are directed, from a regulator to a target, without those of a gene on itself, and ranked by
absolute values. AUPRC is the average precision; "ratio" divides it by the density of the network,
which is what chance has; EPR is the precision among as many first edges as are true, by the
density. There is one simulated set for each network; genes have unit variance, times are means of
the five bins.

Yardsticks: partial correlation; GENIE3 on cells without their times (random forests of each gene
on the others, Huynh-Thu et al. 2010); pairs of exact optimal transport between consecutive times,
and a random forest or a ridge regression of the state after on the state before. Reference Fitting
(Zhang 2024, arXiv:2409.06879) is quoted as published, not run.

Fits are ensembles of three seeds; of one with a score, the drift is taken. Influence is summarised
in three ways: its mean over all cells ("mean"), the mean over times of the absolute value of each
time's mean ("times"), and the mean over cells of absolute values ("cells"). Which fit and summary
to believe is chosen on one set and scored on the other.

The chain is linear, dx = (Ax + b) dt + 0.1 dW, where gene k is driven by gene k - 1 alone and the
first one is switched on at time 0, so that a wave passes down the chain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import numpy as np
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

import cellflow as cf
from cellflow.answers import influence
from cellflow.couplings import Exact
from cellflow.fits import Fit
from cellflow.methods import Method
from cellflow.networks import MLPConfig
from cellflow.plans import sparsify
from cellflow.timecourse import TimeCourse

SEEDS, STEPS, CELLS, TREES = (0, 1, 2), 1000, 2000, 100
PUBLISHED = {"BF": 0.564, "TF": 0.578}
METHODS: dict[str, Callable[[], Method]] = {
    "OTCFM": cf.OTCFM,
    "OTCFM, σ 0.3": lambda: cf.OTCFM(0.3),
    "OTCFM, no time": lambda: cf.OTCFM(net=MLPConfig(time=False)),
    "ReachFM": cf.ReachFM,
    "SF2M": cf.SF2M,
}
WAYS = ("mean", "times", "cells")
#: Genes of the chain, snapshots, cells of each, and steps of the simulation between two.
CHAIN, TIMES, EACH, SUBSTEPS = 18, 5, 500, 50


def scores(matrix: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """AUPRC, its ratio to the density, and EPR of ``(targets, regulators)``."""
    off = ~np.eye(len(truth), dtype=bool)
    guess, true = np.abs(matrix)[off], truth[off]
    first = np.argsort(-guess, kind="stable")[: int(true.sum())]
    auprc, density = float(average_precision_score(true, guess)), float(true.mean())
    return auprc, auprc / density, float(true[first].mean()) / density


def read(path: Path) -> tuple[TimeCourse, np.ndarray]:
    """A time course of standardised genes, and which (row) is regulated by which (column)."""
    with np.load(path) as z:
        x, t, real = z["X"].astype(float), z["t"], z["sim_time"]
        genes, edges = z["genes"].tolist(), z["ref_net"].tolist()
    truth = np.zeros((len(genes), len(genes)))
    for regulator, target, _ in edges:
        truth[genes.index(target), genes.index(regulator)] = 1
    bins = np.unique(t)
    return course_of([x[t == k] for k in bins], [float(real[t == k].mean()) for k in bins]), truth


def chain() -> tuple[TimeCourse, np.ndarray]:
    """A linear chain of genes, simulated by Euler and Maruyama."""
    rng, truth = np.random.default_rng(0), np.eye(CHAIN, k=-1)
    drift, push, h = 2 * truth - 2 * np.eye(CHAIN), np.zeros(CHAIN), 1.2 * CHAIN / 2 / TIMES
    push[0], h = 2.0, h / SUBSTEPS
    x, out = rng.normal(0, 0.1, (TIMES * EACH, CHAIN)), []
    for k in range(TIMES):
        out.append(x[k * EACH : (k + 1) * EACH])  # each cell is seen once
        for _ in range(SUBSTEPS):
            x = x + h * (x @ drift.T + push) + 0.1 * h**0.5 * rng.normal(size=x.shape)
    return course_of(out, [k * h * SUBSTEPS for k in range(TIMES)]), truth


def course_of(xs: list[np.ndarray], times: list[float]) -> TimeCourse:
    cells = np.concatenate(xs)
    scaled = [torch.from_numpy((x - cells.mean(0)) / cells.std(0)).float() for x in xs]
    return TimeCourse.from_arrays(scaled, times)


def forest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    model = RandomForestRegressor(TREES, max_features="sqrt", max_samples=0.3, random_state=0)
    return model.fit(x, y).feature_importances_


def yardsticks(course: TimeCourse) -> dict[str, np.ndarray]:
    """Matrices ``(targets, regulators)`` by what needs no fit."""
    x = np.concatenate([s.x.double().numpy() for s in course.snapshots])
    precision, genes = np.linalg.inv(np.cov(x.T)), range(x.shape[1])
    size, static = np.sqrt(precision.diagonal()), np.zeros(precision.shape)
    for k in genes:
        others = [j for j in genes if j != k]
        static[k, others] = forest(x[:, others], x[:, k])
    before, after = [], []
    for source, target in course.steps:
        pairs = sparsify(Exact()(source, target))
        before.append(source.x.double()[pairs.rows].numpy())
        after.append(target.x.double()[pairs.cols].numpy())
    a, b = np.concatenate(before), np.concatenate(after)
    return {
        "partial correlation": precision / np.outer(size, size),
        "GENIE3": static,
        "exact pairs, forest": np.stack([forest(a, b[:, k]) for k in genes]),
        "exact pairs, ridge": Ridge(1.0).fit(a, b).coef_,
    }


def summaries(fits: list[Fit], course: TimeCourse) -> dict[str, np.ndarray]:
    """Influence in each way, of each member by itself: ``(members, targets, regulators)``."""
    out: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for fit in fits:
        drift = fit.dynamics.score is not None
        found = [
            influence(fit, s.time, s.x[: CELLS // len(course)], drift=drift)
            for s in course.snapshots
        ]
        means = np.stack([one.jacobian.numpy() for one in found])
        out["mean"].append(np.abs(means.mean(0)))
        out["times"].append(np.abs(means).mean(0))
        out["cells"].append(np.stack([one.strength.numpy() for one in found]).mean(0))
    return {way: np.stack(each) for way, each in out.items()}


def show(*cells: str) -> None:
    widths = (12, 32, 7, 7, 7)
    line = "".join(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=False))
    print((line + " ".join(cells[len(widths) :])).rstrip(), flush=True)


def table(
    name: str, course: TimeCourse, truth: np.ndarray, methods: Iterable[str] = tuple(METHODS)
) -> dict[str, float]:
    """Print the scores on one set; return AUPRC of fits by their names."""
    edges, genes, ours = int((truth - np.diag(np.diag(truth))).sum()), len(truth), {}
    density = edges / genes / (genes - 1)
    show(name, f"chance: {edges} edges, {genes} genes", f"{density:.3f}", "1.00", "1.00")
    if name in PUBLISHED:
        value = PUBLISHED[name]
        show(name, "Reference Fitting, published", f"{value:.3f}", f"{value / density:.2f}", "")
    for way, matrix in yardsticks(course).items():
        show(name, way, *shown(matrix, truth))
    for method in methods:
        make = METHODS[method]
        fits = [make().fit(course, steps=STEPS, generator=s, progress=False) for s in SEEDS]
        for way, members in summaries(fits, course).items():
            single = " ".join(f"{scores(one, truth)[0]:.3f}" for one in members)
            show(name, f"{method}: {way}", *shown(members.mean(0), truth), single)
            ours[f"{method}: {way}"] = scores(members.mean(0), truth)[0]
    return ours


def shown(matrix: np.ndarray, truth: np.ndarray) -> list[str]:
    auprc, ratio, early = scores(matrix, truth)
    return [f"{auprc:.3f}", f"{ratio:.2f}", f"{early:.2f}"]


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    torch.set_num_threads(1)
    show("set", "", "AUPRC", "ratio", "EPR", "AUPRC of each seed")
    found = {name: table(name, *read(folder / f"beeline_dyn-{name}.npz")) for name in PUBLISHED}
    table("chain", *chain(), methods=("OTCFM", "SF2M"))
    for chosen, scored in (("TF", "BF"), ("BF", "TF")):
        best = max(found[chosen], key=found[chosen].__getitem__)
        print(f"chosen on {chosen}: {best}; its AUPRC on {scored}: {found[scored][best]:.3f}")


if __name__ == "__main__":
    sys.exit(main())
