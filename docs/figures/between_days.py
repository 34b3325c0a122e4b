"""Pictures of how a day between two snapshots is predicted: reach, clock and choice.

python docs/figures/between_days.py        # writes reach.png, clock.png and choice.png beside it
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

import cellflow as cf
from cellflow.clock import CLOCKS, Clock
from cellflow.couplings import Exact, Reach
from cellflow.evaluate import choose
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import Snapshot, TimeCourse

HERE = Path(__file__).parent
EARLY, LATE, PAIR = "#4477aa", "#cc6677", "0.7"


def reach() -> plt.Figure:
    """Kinds of cells whose shares change: balanced plans move cells across, a reach does not."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 2, generator=rng) * 0.5 for _ in range(2))
    x[:20, 0] += 5.0
    y[:32, 0] += 5.0
    y[:, 1] += 2.5
    early, late = Snapshot(x, 0.0), Snapshot(y, 1.0)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    titles = ("balanced plan: 12 cells change their kind", "reach of 2: they die, others divide")
    for ax, coupling, title in zip(axes, (Exact(), Reach(2.0)), titles, strict=True):
        rows, cols = coupling(early, late).sample(40, 0)
        for i, j in zip(rows.tolist(), cols.tolist(), strict=True):
            ax.plot(*zip(x[i].tolist(), y[j].tolist(), strict=True), color=PAIR, lw=0.8, zorder=0)
        ax.scatter(*x.T, s=14, color=EARLY, label="day 0: half and half")
        ax.scatter(*y.T, s=14, color=LATE, label="day 1: one to four")
        ax.set(title=title, xticks=[], yticks=[], xlabel="state 1")
    axes[0].set_ylabel("state 2")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def clock(course: TimeCourse) -> plt.Figure:
    """Progress by day of the embryoid bodies, on each clock."""
    days = np.linspace(course.times[0], course.times[-1], 200)
    figure, ax = plt.subplots(figsize=(4.5, 3), layout="constrained")
    for (name, weight), style in zip(CLOCKS.items(), (":", "--", "-"), strict=True):
        made = Clock.by_distance(course, weight=weight)
        ax.plot(days, made(days), style, color=EARLY, label=name)
        ax.plot(course.times, made(course.times), "o", color=EARLY, ms=4)
    ax.set(xlabel="day", ylabel="progress, in days", title="The clock of embryoid bodies")
    ax.legend(frameon=False)
    return figure


def choice(course: TimeCourse) -> plt.Figure:
    """W1 of OT-CFM over the default's on each inner day left out, and what follows from them."""
    chosen = choose(course, progress=False)
    table, default = chosen.table, chosen.default.name
    (other,) = {row.method for row in table.rows} & {"otcfm"}
    logs = [
        np.log(np.mean(table.values(t, other, "w1")) / np.mean(table.values(t, default, "w1")))
        for t in table.held_out
    ]
    mean, error = np.mean(logs), np.std(logs, ddof=1) / len(logs) ** 0.5
    figure, ax = plt.subplots(figsize=(4.5, 3), layout="constrained")
    ax.axhline(1.0, color=PAIR)
    ax.bar([f"day {t:g}" for t in table.held_out], np.exp(logs), color=EARLY, width=0.5)
    span = np.exp([mean - 2 * error, mean + 2 * error])
    off = np.abs(span - np.exp(mean))[:, None]
    ax.errorbar(["mean ± 2 s.e."], [np.exp(mean)], off, fmt="o", color=LATE, capsize=4)
    ax.set(ylabel=f"W1 of {other} / {default}", title=f"{chosen.method.name} is chosen")
    ax.set_ylim(0.8, None)
    return figure


def main() -> None:
    mpl.use("Agg")
    torch.set_num_threads(1)
    cells, _ = cf.pp.course(cf.datasets.embryoid(), time_key="stage", n_dims=5)
    course = cells.map(fit_preprocessing(cells.x, whiten=True).apply)
    drawn = {"reach": reach(), "clock": clock(course), "choice": choice(course)}
    for name, figure in drawn.items():
        figure.savefig(HERE / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
