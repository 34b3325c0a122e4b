"""Small cases that airspeed velocity follows from commit to commit.

    cd benchmarks && asv run --quick -E existing

They need no file and no peer: whether cellflow is fast is asked of `speed/table.py`, whether it
has become slower of these.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from cellflow.batches import Batching
from cellflow.couplings import Entropic, Exact
from cellflow.fits import Fit
from cellflow.methods import OTCFM
from cellflow.metrics import wasserstein1
from cellflow.simulate import simulate
from cellflow.timecourse import Snapshot, TimeCourse


def clouds(cells: int, dims: int, times: int = 3) -> TimeCourse:
    """Normal clouds that drift apart."""
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(cells, dims, generator=generator) + 0.5 * k for k in range(times)]
    return TimeCourse.from_arrays(xs)


def fitted(course: TimeCourse, steps: int, **batching: int) -> Fit:
    """OT-CFM on one thread."""
    torch.set_num_threads(1)
    method = OTCFM(batching=Batching(prefetch=False, **batching))
    return method.fit(course, steps=steps, progress=False)


class Fitting:
    """Whole fits of 200 steps."""

    params = ([5, 50], [1, 16])
    param_names = ("dimensions", "reuse")

    def setup(self, dims: int, reuse: int) -> None:
        self.course = clouds(1000, dims)
        fitted(self.course, 2)  # compiles what is compiled

    def time_fit(self, dims: int, reuse: int) -> None:
        fitted(self.course, 200, reuse=reuse)

    def peakmem_fit(self, dims: int, reuse: int) -> None:
        fitted(self.course, 200, reuse=reuse)


class Coupling:
    """One plan between two snapshots."""

    params = ([256, 1024], [5, 50])
    param_names = ("cells", "dimensions")

    def setup(self, cells: int, dims: int) -> None:
        torch.set_num_threads(1)
        self.pair: tuple[Snapshot, Snapshot] = clouds(cells, dims).steps[0]
        Exact()(*clouds(8, dims).steps[0])

    def time_exact(self, cells: int, dims: int) -> None:
        Exact()(*self.pair)

    def time_entropic(self, cells: int, dims: int) -> None:
        Entropic(sigma=1.0)(*self.pair)


class Answering:
    """What is asked of a fit."""

    def setup(self) -> None:
        self.course = clouds(1000, 5)
        self.fit = fitted(self.course, 200)
        self.grid = torch.linspace(0, 2, 400)

    def time_trajectories_rk4(self) -> None:
        simulate(self.fit.dynamics, self.course.snapshots[0].x, self.grid, max_step=0.1)

    def time_trajectories_dopri5(self) -> None:
        simulate(self.fit.dynamics, self.course.snapshots[0].x, self.grid, solver="dopri5")

    def time_wasserstein1(self) -> None:
        wasserstein1(self.course.snapshots[0].x, self.course.snapshots[1].x)

    def track_fitted_w1(self) -> float:
        end = self.fit.predict(self.course.snapshots[0], 1.0)
        return float(wasserstein1(end.x, self.course.snapshots[1].x))


class Importing:
    """Whole processes."""

    params = ("import cellflow", "import cellflow; cellflow.tl.fit", "import torch")
    param_names = ("line",)

    def time_import(self, line: str) -> None:
        subprocess.run([sys.executable, "-c", line], check=True)
