"""Trajectories against torchdyn, torchdiffeq, torchode and torchsde; interleaved medians.

    python benchmarks/speed/simulation.py FOLDER             # more rounds, more cells
    python benchmarks/speed/simulation.py FOLDER --quick     # what the table runs

Both sides integrate the same fitted field, a network of 3 x 64 on five whitened components of
CITE-seq, on one thread. Relative errors, of ours and theirs, are those of all states against
Runge-Kutta with 200 steps an interval in float64. Ours takes the fewest Runge-Kutta steps from
snapshot to snapshot that leave an error of 1e-3 at most; six, the default of a fit, have rows of
their own.

torchdyn is called as its users do, `NeuralODE(...).trajectory(x, times)` at its default tolerances
of 1e-3, under `no_grad`; where `torchdyn.core` does not import, `odeint` as that method calls it.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from timing import Row, in_subprocess, interleaved, print_rows, skip_aloud

from cellflow.dynamics import Dynamics
from cellflow.fits import Fit
from cellflow.methods import OTCFM, SF2M
from cellflow.networks import MLP
from cellflow.preprocessing import fit_preprocessing
from cellflow.simulate import Limits, Output, simulate
from cellflow.timecourse import TimeCourse

FILE = "cite13176_pca100.npz"
STEPS = 600  # of the fits
ERROR = 1e-3
FINE = 200
SDE_STEPS = 100
TIMES = "1,000 cells x 400 times"
INTERVAL = "10,000 cells, one interval"
Run = Callable[[], torch.Tensor]


def read(path: Path, dims: int = 5) -> TimeCourse:
    with np.load(path) as stored:
        x, t = stored["X"][:, :dims].astype(np.float32), stored["t"]
    course = TimeCourse.from_arrays([torch.from_numpy(x[t == k]) for k in np.unique(t)])
    return course.map(fit_preprocessing(course.x, whiten=True).apply)


def in_double(field: MLP) -> MLP:
    double = MLP(field.units, field.config, answer=field.answer).double()
    double.load_state_dict({k: v.double() for k, v in field.state_dict().items()})
    return double


class Peer(torch.nn.Module):
    """The field as torchdyn, torchdiffeq and torchode call it."""

    def __init__(self, field: MLP) -> None:
        super().__init__()
        self.field = field

    def forward(self, t, x, args=None):
        return self.field(t.reshape(-1)[0], x)


def of_torchdyn(field: MLP, solver: str, x: torch.Tensor, times: torch.Tensor) -> Run:
    try:
        from torchdyn.core import NeuralODE

        call = NeuralODE(Peer(field), solver=solver).trajectory
    except (ImportError, RuntimeError, OSError):  # its Lightning wants a torchvision that loads
        from torchdyn.numerics import odeint

        def call(x, times):
            return odeint(Peer(field), x, times, solver=solver, atol=1e-3, rtol=1e-3)[1]

    return torch.no_grad()(lambda: call(x, times))


def of_torchdiffeq(field: MLP, solver: str, x: torch.Tensor, times: torch.Tensor) -> Run:
    from torchdiffeq import odeint

    tolerance = {"rtol": ERROR, "atol": ERROR}
    return torch.no_grad()(lambda: odeint(Peer(field), x, times, method=solver, **tolerance))


def of_torchode(field: MLP, solver: str, x: torch.Tensor, times: torch.Tensor) -> Run:
    import torchode

    term = torchode.ODETerm(lambda t, y: field(t, y))
    controller = torchode.IntegralController(atol=ERROR, rtol=ERROR, term=term)
    adjoint = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    grid = times.expand(len(x), -1)

    def run() -> torch.Tensor:
        problem = torchode.InitialValueProblem(y0=x, t_eval=grid)
        return adjoint.solve(problem).ys.transpose(0, 1)

    return torch.no_grad()(run)


def ode_rows(fit: Fit, *, rounds: int, more: bool) -> Iterator[Row]:
    """Many times of few cells, and many cells over one interval."""
    field, double = fit.dynamics.velocity, Dynamics(in_double(fit.dynamics.velocity))
    cells, end = fit.course.x, fit.course.times[-1]
    many = [("dopri5", of_torchdyn, "≥ 40x"), ("rk4", of_torchdyn, "")]
    one = [("dopri5", of_torchdyn, "≥ 1.5x"), ("euler", of_torchdyn, "≥ 7x")]
    others = [("dopri5", of_torchdiffeq, ""), ("dopri5", of_torchode, "")]
    for work, n, times, peers in (
        (TIMES, 1000, torch.linspace(0, end, 400), many + others),
        (INTERVAL, 10_000, torch.tensor([0.0, 1.0]), one + others),
    ):
        x = cells[:n]
        exact = simulate(double, x.double(), times, max_step=1 / FINE).x

        def error(states: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float((states[-len(exact) :] - exact).norm() / exact.norm())

        ours = {k: partial(_states, fit.dynamics, x, times, 1 / k) for k in (2, 3, 4, 5, 6)}
        errors = {k: error(run()) for k, run in ours.items()}
        best = next(k for k in ours if errors[k] <= ERROR)
        for solver, make, target in peers:
            name = make.__name__.removeprefix("of_")
            grid, label = times, f"{name} {solver}"
            if solver == "euler":
                grid, label = torch.linspace(0, 1, 101), f"{name} euler, 100 steps"
            try:
                run = make(field, solver, x, grid)
                theirs = error(run()[[0, -1]] if solver == "euler" else run())
            except ImportError as problem:
                skip_aloud(name, problem)
                continue
            for k in [best, 6] if make is of_torchdyn and solver == "dopri5" else [best]:
                slow = make is of_torchdyn and not (target or more)
                found = interleaved(ours[k], run, rounds=1 if slow else rounds)
                note = f"rk4, {k} steps an interval; errors {errors[k]:.1e}, {theirs:.1e}"
                goal = target if k == best else ""
                yield Row(work, label, found.ours, found.theirs, "s", goal, found.ratio, note,
                          span=found.span)  # fmt: skip


def _states(dynamics: Dynamics, x: torch.Tensor, times: torch.Tensor, step: float) -> torch.Tensor:
    return simulate(dynamics, x, times, max_step=step).x


def sde_rows(fit: Fit, *, rounds: int, sizes: tuple[int, ...]) -> Iterator[Row]:
    """The forward equation of [SF]2M over one interval; torchsde's noise is diagonal."""
    try:
        import torchsde
    except ImportError as problem:
        skip_aloud("torchsde", problem)
        return
    dynamics, ends = fit.dynamics, torch.tensor([0.0, 1.0])

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, x):
            return dynamics.drift(t, x)

        def g(self, t, x):
            return torch.full_like(x, dynamics.sigma)

    @torch.no_grad()
    def theirs(x: torch.Tensor, **options) -> torch.Tensor:
        return torchsde.sdeint(Equation(), x, ends, **options)[-1]

    def ours(x: torch.Tensor) -> torch.Tensor:
        step = 1 / SDE_STEPS
        return simulate(dynamics, x, ends, solver="euler_maruyama", max_step=step).final

    for n in sizes:
        x = fit.course.x[:n]
        options = {"method": "euler", "dt": 1 / SDE_STEPS}
        a, b = ours(x), theirs(x, **options)
        off = float((a.mean(0) - b.mean(0)).norm() / b.std(0).norm())
        note = (
            f"means apart by {off:.1e} spreads (standard error {(2 / n) ** 0.5:.1e} of new noise)"
        )
        work = f"SDE, {n:,} cells, one interval"
        found = interleaved(partial(ours, x), partial(theirs, x, **options), rounds=rounds)
        yield Row(work, "torchsde euler, 100 steps", found.ours, found.theirs, "s", "≥ 3x",
                  found.ratio, note, span=found.span)  # fmt: skip
        if n == sizes[0]:
            found = interleaved(partial(ours, x), partial(theirs, x), rounds=1, warmup=0)
            yield Row(work, "torchsde, its default", found.ours, found.theirs, "s", "≥ 12x",
                      found.ratio, "theirs: srk of step 1e-3")  # fmt: skip


def own_rows(fit: Fit, *, rounds: int) -> Iterator[Row]:
    """What noise costs: ours against ours."""
    still = Dynamics(lambda t, x: -x, lambda t, x: -x, sigma=1.0)
    x = torch.zeros(20_000, 50)
    noisy = partial(simulate, still, x, [0, 1], solver="euler_maruyama")
    plain = partial(simulate, still, x, [0, 1], solver="euler")
    found = interleaved(noisy, plain, rounds=rounds)
    work, note = "Euler-Maruyama, 20,000 x 50, 32 steps", "a drift of no cost"
    yield Row(work, "Euler without noise", found.ours, found.theirs, "s", "", found.ratio, note,
              span=found.span)  # fmt: skip


def to_disk(n: int, store: str | None) -> float:
    """Seconds of 100 times of `n` cells in ten dimensions, by a network that was not trained."""
    from time import perf_counter

    from cellflow.networks import Units

    torch.set_num_threads(1)
    field = MLP(Units((0.0,) * 10)).float()
    x = torch.randn(n, 10, generator=torch.Generator().manual_seed(0))
    first = Output(store=store and f"{store}.first")
    simulate(Dynamics(field), x[:2], [0, 1], output=first)  # imports
    start = perf_counter()
    simulate(
        Dynamics(field),
        x,
        np.linspace(0, 1, 100),
        max_step=0.2,
        limits=Limits(memory=2**27),
        output=Output(store=store),
    )
    return perf_counter() - start


def disk_rows(n: int) -> Iterator[Row]:
    folder = tempfile.mkdtemp(prefix="cellflow-")
    try:
        ours, peak = in_subprocess(to_disk, n, f"{folder}/x.zarr")
        theirs, most = in_subprocess(to_disk, n, None)
    except ImportError as problem:
        skip_aloud("zarr", problem)
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = f"{n * 100 * 10 * 4 / 1e6:.0f} MB; in memory the peak is {most:.0f} MB"
    work = f"{n:,} cells x 100 times x 10 dimensions to disk"
    yield Row(work, "in memory", ours, theirs, "s", "", theirs / ours, note, peak)


def rows(data: Path, *, quick: bool = True) -> Iterator[Row]:
    """All rows; the fits take ten seconds."""
    warnings.simplefilter("ignore")  # of torchdyn's own imports
    course = read(Path(data) / FILE)
    rounds = 3 if quick else 9
    fit = OTCFM().fit(course, steps=STEPS, progress=False)
    yield from ode_rows(fit, rounds=rounds, more=not quick)
    sizes = (1000,) if quick else (1000, 10_000)
    yield from sde_rows(SF2M().fit(course, steps=STEPS, progress=False), rounds=rounds, sizes=sizes)
    yield from own_rows(fit, rounds=rounds)
    yield from disk_rows(100_000 if quick else 1_000_000)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True)
@click.option("--threads", default=1)
def main(folder: Path, quick: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    print_rows(rows(folder, quick=quick))


if __name__ == "__main__":
    main()
