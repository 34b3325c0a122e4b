"""Knock-outs by a fit against knock-outs in the network that made the cells (Pratapa et al. 2020).

    python benchmarks/answers/perturbation.py

Wild-type cells of Beeline's networks of two and three fates are simulated, other ones at each time,
and fitted as expression. Every gene is knocked out in the network, for the truth, and by
`cf.tl.perturb` in the fit. Effects are changes of the share of each fate, read at the last day from
the wild-type cells around a cell in both; "lost" is the share of cells without any gene that makes
a fate, about which the nearest fate says nothing. "Momentary" knock-outs set the gene to zero once,
at the first day. The yardstick needs no fit: minus the correlation of the gene with the fate, among
the cells of the last day.

Scores are over genes and fates: share of right signs where the truth is above 0.1, over all such
genes and over those that lose no cells ("kept"); Spearman's correlation; and of genes that lose no
cells AUROC of the size of an effect for whether the truth is above 0.1, and the mean size of
effects that are ("deciders") and of those that are not ("markers"). "Means" is the correlation of
changes of mean expression at the last day, over all pairs of genes. The yardstick's sizes are
correlations.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise

import anndata
import click
import numpy as np
import pandas as pd
import torch
from scipy import stats

import cellflow as cf
from cellflow import tl
from cellflow.answers import effect_on_fates, shares_near
from cellflow.answers.labels import indicators
from cellflow.timecourse import Snapshot
from cellflow.toys import BIFURCATING, TRIFURCATING, GeneNetwork

CELLS, TRUE_CELLS, REAL, PARTS = 400, 2000, 0.1, 16
NETWORKS = {
    "two fates": (BIFURCATING, ("g4", "g6"), (0.5, 1.5, 2.5, 3.5, 4.8)),
    "three fates": (TRIFURCATING, ("g4", "g5", "g6"), (0.5, 1.5, 2.5, 3.5, 5.0, 7.0)),
}
METHODS = {"otcfm": cf.OTCFM, "sf2m": cf.SF2M, "reach": cf.ReachFM}


@dataclass(frozen=True)
class Change:
    """Of each gene's knock-out: changes of shares, of mean expression, and cells without a fate."""

    shares: np.ndarray
    means: np.ndarray
    lost: np.ndarray


def cells_of(
    network: GeneNetwork, fates: tuple[str, ...], times: tuple[float, ...], seed: int
) -> anndata.AnnData:
    """Wild-type cells, labelled by the gene that is highest of those that make a fate."""
    course, genes = network.course(CELLS, times, generator=seed), list(network.genes)
    x = np.concatenate([s.x.numpy() for s in course.snapshots])
    made = x[:, [genes.index(f) for f in fates]].argmax(1)
    obs = pd.DataFrame({"hour": np.repeat(times, CELLS), "fate": np.array(fates)[made]})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(x, obs, pd.DataFrame(index=genes))


def ends_of(adata: anndata.AnnData) -> Snapshot:
    last = (adata.obs["hour"] == adata.obs["hour"].max()).to_numpy()
    x = torch.from_numpy(np.asarray(adata.X)[last])
    return Snapshot(x, float(adata.obs["hour"].max()), labels=adata.obs["fate"][last].tolist())


def truth_of(network: GeneNetwork, fates: tuple[str, ...], ends: Snapshot, seed: int) -> Change:
    marks, rows = indicators(ends.labels or (), fates), [network.genes.index(f) for f in fates]

    def look(*gene: str) -> tuple[np.ndarray, np.ndarray, float]:
        one = network.perturbed(knock_out=gene)
        x = one.simulate(TRUE_CELLS, [ends.time], generator=seed)[0].float()
        lost = float((x[:, rows] < 1).all(1).float().mean())
        return shares_near(x, ends.x, marks).mean(0).numpy(), x.mean(0).numpy(), lost

    wild, found = look(), [look(gene) for gene in network.genes]
    shares, means = (np.array([f[k] - wild[k] for f in found]) for k in (0, 1))
    return Change(shares, means, np.array([f[2] for f in found]))


def momentary(adata: anndata.AnnData, fit: cf.Fit, ends: Snapshot) -> np.ndarray:
    start = fit.course.snapshots[0]
    moved = [start.x * (torch.arange(adata.n_vars) != k) for k in range(adata.n_vars)]
    return effect_on_fates(fit, start, moved, ends=ends).effect.numpy()


def mean_changes(fit: cf.Fit) -> np.ndarray:
    """Changes of mean expression at the last day by knock-outs in the mean flow."""
    start, times = fit.course.snapshots[0].x, fit.course.times
    grid, found = np.linspace(times[0], times[-1], PARTS + 1).tolist(), []
    for gene in (None, *range(start.shape[1])):
        keep = torch.tensor([float(k != gene) for k in range(start.shape[1])])
        x = start * keep
        for here, there in pairwise(grid):
            x = fit.simulate(x, [here, there]).final * keep
        found.append(x.mean(0).numpy())
    return np.array(found[1:]) - found[0]


def scores(guess: np.ndarray, truth: Change, means: np.ndarray | None) -> list[str]:
    """Figures of the table."""
    y, kept = truth.shares, truth.lost < 0.5
    real = np.abs(y) > REAL
    right = np.sign(guess) == np.sign(y)
    g, far = np.abs(guess[kept]).ravel(), real[kept].ravel()
    higher = np.sign(g[far][:, None] - g[~far])
    rank = stats.spearmanr(guess.ravel(), y.ravel()).statistic
    told = "" if means is None else f"{np.corrcoef(means.ravel(), truth.means.ravel())[0, 1]:.2f}"
    values = (right[real].mean(), right[kept][real[kept]].mean(), rank, (higher.mean() + 1) / 2)
    return [*(f"{v:.2f}" for v in (*values, g[far].mean(), g[~far].mean())), told]


def show(*cells: str) -> None:
    print("".join(f"{cell:<{14 if k == 0 else 10}}" for k, cell in enumerate(cells)).rstrip())


def report(name: str, seed: int, steps: int) -> None:
    network, fates, times = NETWORKS[name]
    adata = cells_of(network, fates, times, seed)
    ends = ends_of(adata)
    truth = truth_of(network, fates, ends, seed + 1)
    guesses: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    both = np.concatenate([ends.x.numpy(), indicators(ends.labels or (), fates).numpy()], 1)
    guesses["correlation"] = -np.corrcoef(both.T)[: adata.n_vars, adata.n_vars :], None
    for key, make in METHODS.items():
        fit = tl.fit(
            adata, time_key="hour", use_rep="X", label_key="fate", method=make(), steps=steps,
            unit="hour", rng=seed, progress=False,
        )  # fmt: skip
        guesses[f"{key}, once"] = momentary(adata, fit, ends), None
        table = tl.perturb(adata, fit, list(network.genes), rng=seed)
        effect = table.pivot(index="gene", columns="group", values="effect")
        guesses[key] = effect.loc[list(network.genes), list(fates)].to_numpy(), mean_changes(fit)
    print(f"\n{name}, seed {seed}: changes of the share of each fate\n")
    ways = list(METHODS)
    show("gene", "lost", *(f"{w} {f}" for w in ("true", "corr", *ways) for f in fates))
    for k, gene in enumerate(network.genes):
        rows = (truth.shares, *(guesses[w][0] for w in ("correlation", *ways)))
        show(gene, f"{truth.lost[k]:.2f}", *(f"{v:+.2f}" for row in rows for v in row[k]))
    print()
    show("", "signs", "kept", "spearman", "auroc", "deciders", "markers", "means")
    show("truth", *scores(truth.shares, truth, truth.means))
    for key, (guess, means) in guesses.items():
        show(key, *scores(guess, truth, means))
    sys.stdout.flush()


@click.command()
@click.option("--seeds", default=1)
@click.option("--steps", default=1000)
def main(seeds: int, steps: int) -> None:
    torch.set_num_threads(1)
    for name in NETWORKS:
        for seed in range(seeds):
            report(name, seed, steps)


if __name__ == "__main__":
    main()
