"""One seed, one fit: on any number of threads, in any process, whatever the order of cells."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cellflow.methods import METHODS, Method
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import TimeCourse

#: The default of the doors, and the two published ones.
NAMES = ("reach", "otcfm", "sf2m")
HERE = Path(__file__).parent


def course(*, shuffled: bool = False) -> TimeCourse:
    """Cells of three days, with masses and ties."""
    xs, masses = [], []
    for k, n in enumerate((150, 130, 170)):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(n, 4, generator=generator) + 2 * k
        x[: n // 3] = x[: n // 3].round()
        mass = 1 + torch.rand(n, generator=generator)
        if shuffled:
            order = torch.randperm(n, generator=generator)
            x, mass = x[order], mass[order]
        xs.append(x)
        masses.append(mass)
    return TimeCourse.from_arrays(xs, [0, 1, 3], masses=masses)


def weights(method: Method, of: TimeCourse, seed: int = 0) -> torch.Tensor:
    fit = method.fit(of, steps=30, generator=seed, progress=False)
    return torch.cat([p.detach().flatten() for p in fit.networks.parameters()])


def mark(name: str) -> str:
    return hashlib.sha256(weights(METHODS[name](), course()).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_cells_does_not_matter(name) -> None:
    """To the bit, for cells that tie as well; and seeds do."""
    method = METHODS[name]()
    first = weights(method, course())
    assert torch.equal(weights(method, course(shuffled=True)), first)
    assert not torch.equal(weights(method, course(), seed=1), first)


def test_the_order_of_cells_moves_what_is_scaled_by_rounding_alone() -> None:
    """Moments are sums of float64 in the user's order, rounded to float32."""
    fits = []
    for cells in (course(), course(shuffled=True)):
        prep = fit_preprocessing(cells.x, n_components=3, whiten=True)
        fits.append(METHODS["otcfm"]().fit(cells, steps=30, preprocessing=prep, progress=False))
    at = course().snapshots[0].x
    torch.testing.assert_close(fits[0].velocity(1, at), fits[1].velocity(1, at), rtol=0, atol=1e-5)


def test_threads_move_wide_networks_by_rounding_alone() -> None:
    """Ours up to 256 units train on one thread, others share sums of float32."""
    method, before = METHODS["otcfm"](net=MLPConfig(width=300)), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(weights(method, course()))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def in_a_process(threads: int) -> list[str]:
    script = "import test_determinism as t; print(*map(t.mark, t.NAMES))"
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    words = [sys.executable, "-c", f"import torch; torch.set_num_threads({threads}); {script}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


def test_threads_and_processes_do_not_matter() -> None:
    """To the bit: one thread and two, in processes of their own, and here."""
    here = [mark(name) for name in NAMES]
    assert in_a_process(1) == here
    assert in_a_process(2) == here
