"""Fates against clones: cells of day 4 whose sisters were seen on day 6 (Weinreb et al. 2020).

    python benchmarks/answers/fates.py FILE        # larry_cospar781_pca40.npz

The truth of a cell is the shares of cell types among the cells of its clone on day 6, which no
method sees. Clones are split into two halves at random: dimensions, and the blur ε of the plans
that are named after it, are chosen by the log score on one half; figures are those of the other.

Pearson's r of the shares of neutrophils and of monocytes, over all cells and over those that are
undifferentiated on day 4 ("young"); AUROC of whether a clone has more neutrophils than monocytes,
among clones that have either; Brier score and log score over all types (of 0.95 of the prediction
and 0.05 spread evenly). In brackets 95 % intervals of r over bootstrap draws of clones.

With CellRank 2 installed (`pip install cellrank`), its RealTimeKernel is fed our plans: a fifth of
each step goes to neighbours of the same day, and fates are chances of absorption in the cells of
each type on day 6. Without it the row is left out.

Plans "with clones" know those of cells that are not tested: pairs of one clone cost a median cost
less (``couple(clone_key=…)``). Dimensions are those chosen without them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch

import cellflow as cf
from cellflow.answers import fates_by_flow, fates_by_plans, shares_near
from cellflow.answers.labels import indicators
from cellflow.costs import UNKNOWN, Added
from cellflow.couplings import Coupling, Exact, Reach, Unbalanced
from cellflow.methods import Method
from cellflow.plans import Transitions, sparsify
from cellflow.timecourse import Snapshot, TimeCourse

DIMS, BLURS = (5, 10, 20, 40), (0.005, 0.02, 0.05, 0.1, 0.2, 0.5)
SEEDS, DRAWS, EVEN = (0, 1, 2), 2000, 0.05
NEUTROPHIL, MONOCYTE = "Neutrophil", "Monocyte"


class Truth(NamedTuple):
    """Cells of day 4, by their rows among those, with clones seen on day 6."""

    rows: np.ndarray
    clones: np.ndarray
    shares: np.ndarray
    immature: np.ndarray

    def half(self, chosen: np.ndarray) -> Truth:
        """Return the cells of some clones."""
        keep = np.isin(self.clones, chosen)
        return Truth(*(part[keep] for part in self))


def read(path: Path) -> tuple[TimeCourse, list[str], Truth, list[np.ndarray]]:
    """Days 2, 4 and 6, the types of day 6, what became of cells of day 4, and clones by day."""
    with np.load(path, allow_pickle=True) as z:
        x, day, state, clones = z["X"], z["t"], z["state"].astype(str), z["clones"].astype(bool)
    course = TimeCourse(
        tuple(
            Snapshot(torch.from_numpy(x[day == t]), float(t), labels=state[day == t].tolist())
            for t in (2, 4, 6)
        )
    )
    types, four, six = sorted(set(state[day == 6])), day == 4, np.flatnonzero(day == 6)
    found = []
    for row, cell in enumerate(np.flatnonzero(four)):
        for clone in np.flatnonzero(clones[cell])[:1]:
            sisters = state[six[clones[six, clone]]]
            if len(sisters):
                shares = [float(np.mean(sisters == name)) for name in types]
                found.append((row, clone, shares, state[cell] == "undiff"))
    named = np.where(clones.any(1), clones.argmax(1), -1)  # no cell is in two
    truth = Truth(*(np.array(part) for part in zip(*found, strict=True)))
    return course, types, truth, [named[day == t] for t in (2, 4, 6)]


def log_score(p: np.ndarray, truth: Truth) -> float:
    """Mean over cells of minus the log probability of a sister's type."""
    mixed = (1 - EVEN) * p[truth.rows] + EVEN / p.shape[1]
    return float(-(truth.shares * np.log(mixed)).sum(1).mean())


def correlation(p: np.ndarray, truth: np.ndarray) -> float:
    return float(np.corrcoef(p, truth)[0, 1]) if np.ptp(p) > 0 else float("nan")


def row(p: np.ndarray, truth: Truth, types: list[str]) -> list[str]:
    """Scores of the probabilities `p` of the cells of day 4."""
    q, y, out = p[truth.rows], truth.shares, []
    ends = [types.index(NEUTROPHIL), types.index(MONOCYTE)]
    rng, clones = np.random.default_rng(0), np.unique(truth.clones)
    members = {clone: np.flatnonzero(truth.clones == clone) for clone in clones}
    draws = [
        np.concatenate([members[c] for c in rng.choice(clones, len(clones))]) for _ in range(DRAWS)
    ]
    for k in ends:
        spread = [correlation(q[d, k], y[d, k]) for d in draws]
        low, high = np.nanquantile(spread, (0.025, 0.975))
        young = correlation(q[truth.immature, k], y[truth.immature, k])
        out += [f"{correlation(q[:, k], y[:, k]):.2f} [{low:.2f}, {high:.2f}]", f"{young:.2f}"]
    either = y[:, ends].sum(1) > 0
    more = y[either, ends[0]] > y[either, ends[1]]
    bias = (q[either, ends[0]] + 1e-9) / (q[either][:, ends].sum(1) + 2e-9)
    pairs = np.sign(bias[more][:, None] - bias[~more])
    brier = float(np.square(q - y).sum(1).mean())
    return [*out, f"{(pairs.mean() + 1) / 2:.2f}", f"{brier:.3f}", f"{log_score(p, truth):.3f}"]


def by_plan(
    coupling: Coupling, course: TimeCourse, clones: list[list[str]] | None = None
) -> np.ndarray:
    _, four, six = course.snapshots
    if clones is None:
        plan = coupling(four, six)
    else:
        sides = (replace(s, labels=c) for s, c in zip((four, six), clones[1:], strict=True))
        plan = coupling.by_cost(Added("clones"))(*sides)
    chain = Transitions((four.time, six.time), (sparsify(plan),))
    found = fates_by_plans(chain, six.labels or (), start=four.time, end=six.time)
    return np.nan_to_num(found.probabilities.numpy())


def by_cellrank(blur: float, course: TimeCourse, types: list[str]) -> np.ndarray:
    """Chances of absorption by CellRank's kernel, of our plan."""
    import pandas as pd
    from anndata import AnnData
    from cellrank.estimators import GPCCA
    from cellrank.kernels import RealTimeKernel

    cells = [(s, name) for s in course.snapshots[1:] for name in s.labels or ()]
    obs = pd.DataFrame(
        {"day": [int(s.time) for s, _ in cells], "type": [name for _, name in cells]}
    )
    obs = obs.astype("category").set_index(obs.index.astype(str))
    x = torch.cat([s.x for s in course.snapshots[1:]]).numpy()
    adata = AnnData(x, obs=obs, obsm={"X_pca": x})
    plan = Unbalanced(relative_epsilon=blur)
    coupled = cf.tl.couple(adata, time_key="day", coupling=plan, progress=False)
    kernel = RealTimeKernel(adata, time_key="day", couplings=coupled.tmaps())
    near = {"use_rep": "X_pca"}
    kernel.compute_transition_matrix(self_transitions="all", conn_weight=0.2, conn_kwargs=near)
    chances = GPCCA(kernel)
    chances.set_terminal_states(obs["type"].where(obs["day"] == 6))
    chances.compute_fate_probabilities(show_progress_bar=False)
    found = chances.fate_probabilities
    order = [list(found.names).index(name) for name in types]
    return np.asarray(found.X)[: len(course.snapshots[1]), order]


def by_neighbours(course: TimeCourse, types: list[str]) -> np.ndarray:
    _, four, six = course.snapshots
    return shares_near(four.x, six.x, indicators(six.labels or (), types)).numpy()


def by_flow(make: Callable[[], Method], course: TimeCourse) -> np.ndarray:
    _, four, six = course.snapshots
    fits = [make().fit(course, generator=seed, progress=False) for seed in SEEDS]
    return np.mean([fates_by_flow(fit, four, six).probabilities.numpy() for fit in fits], 0)


def cut(course: TimeCourse, dims: int) -> TimeCourse:
    return course.map(lambda x: x[:, :dims])


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", default="", help="Print rows whose names have this in them.")
def main(path: Path, only: str) -> None:
    torch.set_num_threads(1)
    course, types, truth, named = read(path)
    clones = np.random.default_rng(0).permutation(np.unique(truth.clones))
    train, test = (truth.half(part) for part in np.array_split(clones, 2))
    print(f"{len(truth.rows)} cells in {len(clones)} clones; tested on {len(test.rows)} cells,")
    print(f"of them {int(test.immature.sum())} undifferentiated")
    last = course.snapshots[-1].labels or ()
    shares = np.array([last.count(name) / len(last) for name in types])
    ways: dict[str, tuple[list[int], Callable[..., np.ndarray]]] = {
        "shares of day 6": ([40], lambda c: np.tile(shares, (len(c.snapshots[1]), 1))),
        "neighbours on day 6": (list(DIMS), lambda c: by_neighbours(c, types)),
        "exact plan": (list(DIMS), partial(by_plan, Exact())),
        "plan within reach": (list(DIMS), partial(by_plan, Reach())),
    }
    for blur in BLURS:
        plan = Unbalanced(relative_epsilon=blur)
        ways[f"unbalanced, ε {blur:g}"] = list(DIMS), partial(by_plan, plan)
    for blur in BLURS[-2:] if find_spec("cellrank") else ():
        ways[f"CellRank, ε {blur:g}"] = list(DIMS), lambda c, b=blur: by_cellrank(b, c, types)
    for make in (cf.OTCFM, cf.SF2M, cf.UOTCFM, cf.UBSB, cf.ReachFM):
        ways[f"{make.__name__} flow"] = list(DIMS), partial(by_flow, make)
    if not find_spec("cellrank"):
        print("without CellRank, which is not installed")
    head = ("", "dims", "r neutrophil", "young", "r monocyte", "young", "AUROC", "Brier", "log")
    show(head)
    chosen = {}
    for name, (dims, way) in ways.items():
        if only not in name:
            continue
        tried = {d: way(cut(course, d)) for d in dims}
        best = min(tried, key=lambda d: log_score(tried[d], train))
        chosen[name] = best
        show((name, str(best), *row(tried[best], test, types)))
    hidden = {-1, *test.clones.tolist()}
    known = [[UNKNOWN if c in hidden else str(c) for c in day.tolist()] for day in named]
    for name in ("exact plan", "plan within reach", "unbalanced, ε 0.2"):
        if name not in chosen:
            continue
        p = ways[name][1](cut(course, chosen[name]), clones=known)
        short = name.removeprefix("plan within ").removeprefix("unbalanced, ")
        show((f"{short}, clones", str(chosen[name]), *row(p, test, types)))


def show(cells: tuple[str, ...]) -> None:
    widths = (22, 6, 21, 7, 21, 7, 7, 7, 7)
    line = "".join(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True))
    print(line.rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
