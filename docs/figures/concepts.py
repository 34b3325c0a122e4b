"""Pictures of the nouns: one of each, on the same cells.

python docs/figures/concepts.py        # writes concept_*.png beside it
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from PIL import Image

from cellflow.couplings import Entropic, Exact, Independent
from cellflow.fits import Fit
from cellflow.methods import OTCFM, SF2M, UOTCFM
from cellflow.paths import BrownianBridge, Pairs, Straight
from cellflow.timecourse import TimeCourse

HERE = Path(__file__).parent
DAYS, PAIR = {0.0: "#4477aa", 1.0: "#ccbb44", 2.0: "#cc6677"}, "0.75"


def course(cells: int = 300) -> TimeCourse:
    """One kind of cells that becomes two, of which the upper one comes to be three in four."""
    rng = torch.Generator().manual_seed(0)
    snapshots = []
    for day, share in enumerate((0.5, 0.5, 0.75)):
        x = 0.3 * torch.randn(cells, 2, generator=rng)
        up = torch.where(torch.arange(cells) < share * cells, 1.0, -1.0)
        snapshots.append(x + torch.stack([torch.full((cells,), 2.0 * day), 0.8 * day * up], 1))
    return TimeCourse.from_arrays(snapshots)


def panels(n: int) -> tuple[plt.Figure, list[plt.Axes]]:
    """Return a figure of so many panels, side by side."""
    size, how = (2.9 * n + 0.2, 2.3), {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(1, n, figsize=size, layout="constrained", **how)
    for ax in axes[0]:
        ax.set(xticks=[], yticks=[])
    return figure, list(axes[0])


def cells(ax: plt.Axes, all_of_them: TimeCourse, *, faint: bool = False) -> None:
    """Draw the cells of every day in its colour."""
    shown = {"alpha": 0.25, "s": 5} if faint else {"s": 9}
    for s in all_of_them.snapshots:
        ax.scatter(*s.x.T, color=DAYS[s.time], linewidths=0, zorder=2, **shown)


def ways(ax: plt.Axes, x: torch.Tensor, *, mass: torch.Tensor | None = None) -> None:
    """Draw ways `x` of shape (times, cells, 2), as thick as `mass` (times, cells) says."""
    pieces = torch.stack([x[:-1], x[1:]], 2).flatten(0, 1).numpy()
    width = 0.8 if mass is None else 1.5 * mass[1:].flatten().numpy()
    ax.add_collection(LineCollection(pieces, linewidths=width, colors="0.25", zorder=3))


def time_course(all_of_them: TimeCourse) -> plt.Figure:
    figure, axes = panels(3)
    for s, ax in zip(all_of_them.snapshots, axes, strict=True):
        ax.scatter(*s.x.T, s=7, color=DAYS[s.time], linewidths=0)
        ax.set_title(f"day {s.time:g}: {len(s)} cells")
    return figure


def plans(all_of_them: TimeCourse) -> plt.Figure:
    early, late = (all_of_them.snapshots[k] for k in (0, 1))
    figure, axes = panels(3)
    named = {
        "Independent()": Independent(),
        "Exact()": Exact(),
        "Entropic(sigma=1)": Entropic(sigma=1.0),
    }
    for ax, (name, coupling) in zip(axes, named.items(), strict=True):
        rows, cols = coupling(early, late).sample(80, 0)
        lines = torch.stack([early.x[rows], late.x[cols]], 1).numpy()
        ax.add_collection(LineCollection(lines, colors=PAIR, linewidths=0.6))
        cells(ax, TimeCourse([early, late]))
        ax.set_title(name)
    return figure


def paths() -> plt.Figure:
    start, end = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 1.0]])
    times = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    pairs, rng = Pairs(start, end, *times), torch.Generator().manual_seed(1)
    figure, axes = panels(2)
    named = {"Straight(sigma=0.1)": Straight(0.1), "BrownianBridge(sigma=0.4)": BrownianBridge(0.4)}
    for ax, (name, path) in zip(axes, named.items(), strict=True):
        for s in torch.linspace(0.02, 0.98, 13):
            part = torch.full((1, 1), float(s))
            mean, std = path.mean(pairs, part), path.std(pairs, part)
            drawn = mean + std * torch.randn(25, 2, generator=rng)
            ax.scatter(*drawn.T, s=5, color=mpl.colormaps["viridis"](float(s)), linewidths=0)
        ax.plot(*torch.cat([start, end]).T, "o", color="black", ms=5)
        ax.annotate("$x$", start[0], (0, -14), textcoords="offset points")
        ax.annotate("$y$", end[0], (0, 7), textcoords="offset points")
        ax.set_title(name)
        ax.margins(0.15)
    return figure


def field(all_of_them: TimeCourse, fit: Fit) -> plt.Figure:
    early, late = (all_of_them.snapshots[k] for k in (1, 2))
    rows, cols = Exact()(early, late).sample(150, 0)
    met = torch.lerp(early.x[rows], late.x[cols], 0.5)
    figure, axes = panels(2)
    how = {"angles": "xy", "scale_units": "xy", "scale": 5.0, "width": 0.004}
    axes[0].quiver(*met.T, *(late.x[cols] - early.x[rows]).T, color="0.4", **how)
    axes[0].set_title("$u_s$ of pairs, half-way")
    grid = torch.cartesian_prod(torch.linspace(2.2, 3.8, 9), torch.linspace(-2.0, 2.0, 13))
    axes[1].quiver(*grid.T, *fit.velocity(1.5, grid).T, color="black", **how)
    axes[1].set_title(r"$v_\theta(t, x)$, learned")
    for ax in axes:
        cells(ax, TimeCourse([early, late]), faint=True)
    return figure


def dynamics(all_of_them: TimeCourse, fit: Fit) -> plt.Figure:
    start = torch.tensor([[0.0, 0.1]]).repeat(12, 1)
    times = np.linspace(0, 2, 61)
    figure, axes = panels(2)
    solvers = {"rk4": "without noise: one future", "euler_maruyama": "with noise: many"}
    for ax, (solver, title) in zip(axes, solvers.items(), strict=True):
        cells(ax, all_of_them, faint=True)
        ways(ax, fit.simulate(start, times, solver=solver, generator=3).x)
        ax.set_title(title)
    return figure


def growth(all_of_them: TimeCourse) -> plt.Figure:
    snapshots = []
    for s in all_of_them.snapshots:  # rates that are known: of the upper kind, and of the lower
        rates = torch.where(s.x[:, 1] > 0, math.log(1.5), math.log(0.5))
        snapshots.append(replace(s, growth=rates if s.time > 0 else 0 * rates))
    method = UOTCFM(relaxation=None)
    fit = method.fit(TimeCourse(snapshots), steps=1000, progress=False)
    start, times = all_of_them.snapshots[0].x[::15], np.linspace(0, 2, 41)
    figure, (ax, rates) = panels(2)
    cells(ax, all_of_them, faint=True)
    path = fit.simulate(start, times)
    ways(ax, path.x, mass=path.mass / path.mass[0])
    ax.set_title("as thick as its mass")
    for s in all_of_them.snapshots:
        rate = fit.growth(s.time, s.x)
        points = rates.scatter(*s.x.T, c=rate, s=7, cmap="PuOr_r", vmin=-1, vmax=1, linewidths=0)
    figure.colorbar(points, label="growth rate per day")
    rates.set_title("$g(t, x)$")
    return figure


def main() -> None:
    mpl.use("Agg")
    torch.set_num_threads(1)
    three = course()
    how = {"steps": 1000, "progress": False}
    figures = {
        "time_course": time_course(three),
        "plan": plans(three),
        "path": paths(),
        "field": field(three, OTCFM().fit(three, **how)),
        "dynamics": dynamics(three, SF2M(0.4).fit(three, **how)),
        "growth": growth(three),
    }
    for name, figure in figures.items():
        file = HERE / f"concept_{name}.png"
        figure.savefig(file, dpi=110)
        Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)


if __name__ == "__main__":
    main()
