"""Work against precision: our solvers, torchdyn's and torchdiffeq's, at equal error.

    python benchmarks/family/solvers.py --figure docs/figures/solvers.png

Two fields in five dimensions over a span of 2: "trained", a network of 3 x 64 fitted by OT-CFM to
three snapshots, and "analytic", a rotation with a clock and a bend, of a few operations. All
solvers run in float32 on one thread under `no_grad`, at 2, 41 and 400 output times. The error is
that of all states, relative, against torchdiffeq's dopri5 in float64 at tolerances of 1e-10.

Every solver has several settings (tolerances, or steps); all settings of all solvers are run in
turn, in several rounds. Seconds and evaluations at a given error are interpolated between the
settings of a solver, in logarithms; where the coarsest setting is more exact than that, it counts
as it is. Ratios are those of a round: their median and range over the rounds. "torchdyn dopri5" is
called as its `NeuralODE.trajectory` calls it, which steps onto every output time; "4th" is its own
interpolation. Evaluations of ours are those of all chunks of 4,096 cells together. Fixed steps of
torchdyn and torchdiffeq divide the intervals between output times.
"""

from __future__ import annotations

import copy
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from torchdiffeq import odeint as diffeq
from torchdyn.numerics import odeint as dyn

from cellflow import TimeCourse, toys
from cellflow.dynamics import Dynamics
from cellflow.methods import OTCFM
from cellflow.simulate import Limits, simulate

SPAN, DIM = 2.0, 5
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
STEPS = (4, 8, 12, 16, 24, 32, 48, 64)
ERRORS = (1e-3, 1e-4, 1e-5, 1e-6)
MOST = 2_500_000  # evaluations of a cell by one setting; slower settings are left out
#: Ours, theirs, and the target of the ratio of seconds where there are many output times.
PAIRS = (
    ("dopri5", "torchdyn dopri5", "≥ 3x"),
    ("dopri5", "torchdyn dopri5, 4th", ""),
    ("dopri5", "torchdyn tsit5", ""),
    ("dopri5", "torchdiffeq dopri5", ""),
    ("dopri5", "torchdiffeq dopri8", ""),
    ("rk4", "torchdyn rk4", "≥ 5x"),
    ("rk4", "torchdyn dopri5", "≥ 5x"),
    ("rk4", "torchdiffeq rk4", ""),
)
Run = Callable[[], torch.Tensor]


@dataclass
class Setting:
    """One way to run one solver, and what was measured of it."""

    solver: str
    run: Run
    evaluations: int = 0
    error: float = float("nan")
    seconds: list[float] = field(default_factory=list)


class Peer(torch.nn.Module):
    """The field as torchdyn and torchdiffeq call it; it counts."""

    def __init__(self, inner: Callable) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, t, x, args=None):
        self.calls += 1
        return self.inner(t.reshape(-1)[0], x)


def course(cells: int, seed: int) -> TimeCourse:
    """Noise, stretched and moved, and eight modes in two of the five dimensions."""
    rng = torch.Generator().manual_seed(seed)
    first, middle, last = torch.randn(3, cells, DIM, generator=rng)
    middle = middle * torch.tensor([1, 2, 0.5, 1, 1]) + torch.tensor([0.0, 0, 1, -1, 0])
    last[:, :2] = toys.eight_gaussians(cells, generator=rng)
    return TimeCourse.from_arrays([first, middle, last])


def analytic(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    turned = torch.cat([2 * x[:, 1:2], -2 * x[:, :1], x[:, 3:4], -x[:, 2:3], 0.3 * x[:, 4:]], 1)
    return (1 + 0.5 * torch.cos(3 * t)) * turned - torch.tanh(x)


def settings(inner: Callable, x: torch.Tensor, times: torch.Tensor) -> list[Setting]:
    """Every setting of every solver that is installed."""
    found = []

    def ours(solver: str, **options) -> None:
        def run() -> torch.Tensor:
            path = simulate(Dynamics(inner), x, times, solver=solver, **options)
            setting.evaluations = path.n_evaluations
            return path.x

        setting = Setting(solver, run)
        found.append(setting)

    def theirs(solver: str, solve: Callable[[Peer], torch.Tensor]) -> None:
        def run() -> torch.Tensor:
            peer = Peer(inner)
            states = solve(peer)
            setting.evaluations = peer.calls
            return states

        setting = Setting(solver, run)
        found.append(setting)

    for tolerance in TOLERANCES:
        ours("dopri5", limits=Limits(rtol=tolerance, atol=tolerance))
    for order, solver in {4: "rk4", 2: "midpoint", 1: "euler"}.items():
        for steps in STEPS:
            ours(solver, max_step=SPAN * min(order, 2) / 2 / steps)
    intervals, most = len(times) - 1, MOST / len(x)
    for tolerance in TOLERANCES:
        both = {"rtol": tolerance, "atol": tolerance}
        for solver in ("dopri5", "tsit5"):
            # It steps onto all times, whatever the tolerance.
            if 6 * intervals <= most and (intervals < 100 or tolerance in (1e-3, 1e-6)):
                how = {"solver": solver} | both
                theirs(f"torchdyn {solver}", lambda f, k=how: dyn(f, x, times, **k)[1])
        how = {"solver": "dopri5", "interpolator": "4th"} | both
        theirs("torchdyn dopri5, 4th", lambda f, k=how: dyn(f, x, times, **k)[1])
        for solver in ("dopri5", "dopri8"):
            how = {"method": solver} | both
            theirs(f"torchdiffeq {solver}", lambda f, k=how: diffeq(f, x, times, **k))
    for solver, stages in {"rk4": 4, "midpoint": 2, "euler": 1}.items():
        for each in sorted({max(1, round(s / intervals)) for s in (*STEPS, 128)}):
            if each * intervals * stages <= most:
                grid = torch.linspace(0, SPAN, each * intervals + 1)
                how = {"solver": solver}
                call = lambda f, g=grid, e=each, k=how: dyn(f, x, g, **k)[1][::e]  # noqa: E731
                theirs(f"torchdyn {solver}", call)
                how = {"method": solver}
                call = lambda f, g=grid, e=each, k=how: diffeq(f, x, g, **k)[::e]  # noqa: E731
                theirs(f"torchdiffeq {solver}", call)
    return found


@torch.no_grad()
def measure(inner: Callable, double: Callable, x: torch.Tensor, n: int, rounds: int) -> list:
    """Run all settings at `n` output times."""
    times = torch.linspace(0, SPAN, n)
    exact = diffeq(Peer(double), x.double(), times.double(), rtol=1e-10, atol=1e-10)
    every = settings(inner, x, times)
    for setting in every:
        states = setting.run()
        if len(states) == n:
            setting.error = float((states - exact).norm() / exact.norm())
    every = [s for s in every if np.isfinite(s.error)]
    for _ in range(rounds):
        for setting in every:
            begin = time.perf_counter()
            setting.run()
            setting.seconds.append(time.perf_counter() - begin)
    return every


def at_error(points: list[tuple[float, float]], error: float) -> float:
    """Cost at `error`, of points (error, cost): of the cheapest at each error, interpolated."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: p[1]):
        if not best or point[0] < best[-1][0]:
            best.append(point)
    errors, costs = np.log(np.array(best[::-1]).T)
    return float(np.exp(np.interp(np.log(error), errors, costs, left=np.nan)))


HEAD = ("field", "cells", "times", "error", "ours", "against", "ms", "theirs", "ratio (range)",
        "evaluations", "target met?")  # fmt: skip
WIDTHS = (9, 7, 6, 7, 8, 22, 9, 10, 26, 13, 12)


def line(cells: tuple) -> str:
    return "".join(f"{c:<{w}}" for c, w in zip(cells, WIDTHS, strict=True)).rstrip()


def rows(every: list[Setting], error: float, rounds: int) -> Iterator[tuple[str, ...]]:
    """Ours against theirs at one `error`: seconds, their ratio and the target, evaluations."""

    def cost(solver: str, of: Callable[[Setting], float]) -> float:
        return at_error([(s.error, of(s)) for s in every if s.solver == solver], error)

    for ours, theirs, target in PAIRS:
        both = [s for s in (ours, theirs) if any(s == k.solver for k in every)]
        if len(both) < 2:
            continue
        seconds = [[cost(s, lambda p, k=k: p.seconds[k]) for s in both] for k in range(rounds)]
        asked = [cost(s, lambda p: float(p.evaluations)) for s in both]
        ms = [f"{1e3 * median(c):.3g}" for c in zip(*seconds, strict=True)]
        ratios = [b / a for a, b in seconds]
        text, ratio = "", median(ratios)
        if np.isfinite(ratio):
            text = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        elif np.isfinite(asked[0]):
            text, ms[1] = "theirs never so exact", "-"
        else:
            continue
        met = ratio >= float(target[2:-1]) if target and np.isfinite(ratio) else None
        verdict = "" if met is None else f"{target} {'yes' if met else 'NO'}"
        yield ours, theirs, *ms, text, ", ".join(f"{a:.0f}" for a in asked), verdict


COLOURS = {
    n: f"C{k}" for k, n in enumerate(("dopri5", "tsit5", "dopri8", "rk4", "midpoint", "euler"))
}
STYLES = {"cellflow": ("-", 2.6), "torchdyn": ("--", 1.2), "torchdiffeq": (":", 1.2)}


def draw(found: dict[int, list[Setting]], path: Path, title: str) -> None:
    """Error against evaluations and seconds, a column for each number of output times."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(2, len(found), figsize=(13, 8), sharey=True, layout="constrained")
    for column, (n, every) in zip(axes.T, found.items(), strict=True):
        for name in dict.fromkeys(s.solver for s in every):
            mine = sorted((s for s in every if s.solver == name), key=lambda s: s.evaluations)
            label = name if name.startswith("torch") else f"cellflow {name}"
            package, solver = label.replace(",", "").split()[:2]
            style, width = STYLES[package]
            for ax, cost in zip(column, (
                [s.evaluations for s in mine], [1e3 * median(s.seconds) for s in mine]
            ), strict=True):  # fmt: skip
                ax.loglog(cost, [s.error for s in mine], style, color=COLOURS[solver], lw=width,
                          marker="^" if "4th" in name else "o", ms=4, label=label)  # fmt: skip
        for ax in column:
            ax.xaxis.set_minor_formatter(NullFormatter())
        column[0].set(title=f"{n} output times", xlabel="evaluations of the field")
        column[1].set(xlabel="milliseconds")
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error of all states")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.suptitle(title)
    figure.savefig(path, dpi=90)


@click.command()
@click.option("--cells", default="1000,10000", help="By commas.")
@click.option("--times", default="2,41,400", help="Numbers of output times, by commas.")
@click.option("--rounds", default=3)
@click.option("--fit-steps", default=1500)
@click.option("--field", "fields", multiple=True, default=("trained", "analytic"))
@click.option(
    "--figure", type=Path, help="File of a figure of the first field and number of cells."
)
def main(
    cells: str, times: str, rounds: int, fit_steps: int, fields: tuple, figure: Path | None
) -> None:
    warnings.simplefilter("ignore")  # of torchdyn's own imports
    torch.set_num_threads(1)
    start = time.perf_counter()
    fit = OTCFM(0.1).fit(course(2000, 0), steps=fit_steps, generator=0, progress=False)
    net = fit.dynamics.velocity
    inner = {"trained": (net, copy.deepcopy(net).double()), "analytic": (analytic, analytic)}
    print(f"{DIM} dimensions over a span of {SPAN:g}, float32, one thread, {rounds} rounds")
    print(line(HEAD))
    for name, n in itertools.product(fields, map(int, cells.split(","))):
        x, found = course(n, 1).snapshots[0].x, {}
        for m in map(int, times.split(",")):
            found[m] = measure(*inner[name], x, m, rounds)
            for error in ERRORS:
                for *row, verdict in rows(found[m], error, rounds):
                    verdict = verdict if m > 2 else ""  # targets are on many output times
                    print(line((name, n, m, f"{error:.0e}", *row, verdict)), flush=True)
        if figure:
            draw(found, figure, f"{name} field, {n:,} cells")
            figure = None
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
