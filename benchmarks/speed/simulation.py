"""Trajectories against torchdyn's NeuralODE: 1,000 cells, 400 output times; interleaved medians.

    python benchmarks/speed/simulation.py PATH [--dims 5]

Both integrate the same fitted field. Errors are relative to a float64 solution at tolerance 1e-11.
Ours is run at several settings; a ratio counts at those whose error is no larger than torchdyn's.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch
from training import read

from cellflow.dynamics import Dynamics
from cellflow.methods import OTCFM
from cellflow.nets import MLP
from cellflow.simulate import simulate
from cellflow.timecourse import TimeCourse

PEERS = ("torchdyn euler", "torchdyn rk4", "torchdyn dopri5")


def fitted_fields(course: TimeCourse) -> tuple[MLP, MLP]:
    """The same fitted field in the precision of the data and in float64."""
    single = OTCFM().fit(course, steps=2000, progress=False).dynamics.velocity
    double = MLP(single.units, single.config).double()
    double.load_state_dict({k: v.double() for k, v in single.state_dict().items()})
    return single, double


def contestants(field: MLP, x0: torch.Tensor, grid: torch.Tensor) -> dict[str, Callable]:
    """Every run by its name: torchdyn as its users call it, ours at several settings."""
    from torchdyn.core import NeuralODE

    class Wrapped(torch.nn.Module):
        """As torchdyn calls a field."""

        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, t, x, args=None):
            return self.field(t, x)

    def theirs(solver: str) -> torch.Tensor:
        ode = NeuralODE(Wrapped(), solver=solver, sensitivity="adjoint", atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            return ode.trajectory(x0, grid)

    def ours(solver: str, **options) -> torch.Tensor:
        return simulate(Dynamics(field), x0, grid, solver=solver, **options).x

    span = float(grid[-1] - grid[0])
    runs = {f"torchdyn {s}": partial(theirs, s) for s in ("euler", "rk4", "dopri5")}
    for n in (10, 16, 32, 64):
        runs[f"cellflow rk4, {n} steps"] = partial(ours, "rk4", max_step=span / n)
    for solver in ("dopri5", "tsit5"):
        for tolerance in (1e-5, 1e-6, 1e-7, 7e-8, 5e-8, 3e-8):
            name = f"cellflow {solver}, {tolerance:g}"
            runs[name] = partial(ours, solver, rtol=tolerance, atol=tolerance)
    return runs


@click.command()
@click.argument("path", type=click.Path(exists=True))
@click.option("--dims", default=5)
@click.option("--cells", default=1000)
@click.option("--times", "n_times", default=400)
@click.option("--rounds", default=5)
@click.option("--threads", default=1)
def main(path, dims, cells, n_times, rounds, threads) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # of torchdyn's own imports
    course = read(path, dims)
    field, double = fitted_fields(course)
    x0 = course.snapshots[0].x[:cells]
    x0 = torch.cat([x0] * -(-cells // len(x0)))[:cells]
    grid = torch.linspace(0, course.times[-1], n_times)
    exact = simulate(
        Dynamics(double), x0.double(), grid, solver="dopri5", rtol=1e-11, atol=1e-11,
        max_evaluations=200_000,
    ).x  # fmt: skip
    runs = contestants(field, x0, grid)
    errors = {n: float((run().double() - exact).norm() / exact.norm()) for n, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(f"{Path(path).stem}, {dims}-D: {cells} cells, {n_times} times, {threads} thread(s)")
    for name in runs:
        print(
            f"{name:<26}{median(seconds[name]) * 1e3:9.1f} ms   relative error {errors[name]:.1e}"
        )
    for peer in PEERS:
        fair = [n for n in runs if n.startswith("cellflow") and errors[n] <= errors[peer]]
        if not fair:
            print(f"against {peer}: none of ours is as exact")
            continue
        best = min(fair, key=lambda n: median(seconds[n]))
        ratio = median(a / b for a, b in zip(seconds[peer], seconds[best], strict=True))
        print(f"against {peer}: x{ratio:.1f} by {best}, at no larger error")


if __name__ == "__main__":
    main()
