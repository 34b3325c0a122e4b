"""One step or few: against the map between normal laws, where flows are straight."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import toys
from cellflow.batches import Batching
from cellflow.methods import GENERATIVE, FewSteps, distill
from cellflow.methods.few_steps import grids_of, ways_of
from cellflow.metrics import wasserstein2
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.simulate import path_energy
from cellflow.training.trainer import Training

F64 = torch.float64
MATRIX = torch.tensor([[1.4, 0.3], [0.3, 0.6]], dtype=F64)  # of a convex potential: optimal
OFFSET = torch.tensor([2.0, -1.0], dtype=F64)
QUICK = {
    "net": MLPConfig(32, 2),
    "batching": Batching(128, 256),
    "training": Training(learning_rate=1e-2, validation=0.0, ema=0.99),
}


def normal(n: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def ends(x: torch.Tensor) -> torch.Tensor:
    return x @ MATRIX.T + OFFSET


def course(times: tuple[float, float] = (0.0, 2.0)) -> cf.TimeCourse:
    return cf.TimeCourse.from_arrays([normal(), ends(normal())], times)


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).square().sum(1).mean().sqrt())


def test_mean_flow_in_few_steps_is_the_closed_form_map() -> None:
    fit, x = cf.MeanFlow(0.0, **QUICK).fit(course(), steps=400, progress=False), normal(seed=1)
    # Cells move by 2.4 and are spread by 1.4: the network's own error after this budget.
    for steps in (1, 3):
        assert error(FewSteps(fit, steps).transport(x), ends(x)) < 0.12
    assert error(fit.simulate(x, [0.0, 2.0]).final, ends(x)) < 0.12


@pytest.mark.parametrize("steps", [1, 2])
def test_distilled_flow_is_the_closed_form_map(steps: int, tmp_path) -> None:
    """In whitened coordinates, from a teacher whose one Euler step is not yet the map."""
    c = course()
    prep = fit_preprocessing(c.x, whiten=True)
    teacher = cf.ICFM(0.0, **QUICK).fit(c, steps=400, progress=False, preprocessing=prep)
    before = {k: v.clone() for k, v in teacher.networks.state_dict().items()}
    student, x = distill(teacher, steps=steps, budget=400, progress=False), normal(seed=1)
    flow = teacher.simulate(x, [0.0, 2.0]).final
    assert error(student.transport(x), flow) < 0.08  # flows of pairs at random are bent
    assert error(FewSteps(teacher, steps).transport(x), flow) > 0.16
    assert all(torch.equal(v, before[k]) for k, v in teacher.networks.state_dict().items())
    loaded = FewSteps(cf.load(student.fit.save(tmp_path / "fit")), steps)
    assert torch.equal(loaded.transport(x), student.transport(x))
    assert student.fit.method.name == "icfm_distilled"


def test_each_interval_is_taught_by_the_cells_before_it() -> None:
    x = normal(20)
    c = cf.TimeCourse.from_arrays([x, 2 * x + 1, x + 5], [0.0, 1.0, 4.0])
    fit = cf.ICFM(0.0, **QUICK).fit(c, steps=20, progress=False)
    grids = grids_of(fit, 2)
    here, there, t, until = ways_of(fit, grids)
    for cells, grid in zip(c.snapshots, grids, strict=False):
        way = fit.simulate(cells.x, grid, max_step=0.01).x
        for k, (start, end) in enumerate(pairwise(grid.tolist())):
            rows = (t[:, 0] == start) & (until[:, 0] == end)
            assert_close(here[rows], way[k], rtol=1e-4, atol=1e-4)
            assert_close(there[rows], way[k + 1], rtol=1e-4, atol=1e-4)


def test_few_steps_of_a_fit_are_those_of_euler() -> None:
    """From snapshot to snapshot of a course on a clock."""
    x = normal(60)
    c = cf.TimeCourse.from_arrays([x, x + 1, x + 5], [0.0, 1.0, 4.0])
    method = cf.methods.FlowMatching(
        cf.couplings.Exact(), cf.paths.Straight(0.1), **QUICK, clock="distance"
    )
    fit = method.fit(c, steps=50, progress=False)
    z, (a, b, c) = x, fit.clock([0.0, 1.0, 4.0])
    grid = torch.stack([a, (a + b) / 2, b, (b + c) / 2, c])
    for t, until in pairwise(grid):
        z = z + (until - t) * fit.dynamics.velocity(t, z).detach()
    assert_close(FewSteps(fit, 2).transport(x), z)


@pytest.mark.parametrize("name", ["fm", "pfgm"])  # with a score, and without
def test_models_from_noise_have_no_velocity_to_step_by(name: str) -> None:
    fit = GENERATIVE[name]().fit(normal(seed=0), steps=2).fit
    for step_by in (FewSteps, distill):
        with pytest.raises(ValueError, match=f"`fit`: got one of '{name}', a model from noise"):
            step_by(fit)


def test_few_steps_of_bridges_need_distillation() -> None:
    method = cf.SF2M(0.3, coupling="independent", **QUICK)
    fit = method.fit(course(), steps=100, progress=False)
    with pytest.raises(
        ValueError, match="`fit`: got one of 'sf2m_independent', which has a score.*Distill"
    ):
        FewSteps(fit)
    student, x = distill(fit, budget=400, progress=False), normal(seed=1)
    assert error(student.transport(x), fit.simulate(x, [0.0, 2.0]).final) < 0.12
    with pytest.raises(ValueError, match="`steps`: got 0"):
        distill(fit, steps=0)
    with pytest.raises(TypeError, match="`net`: got Linear, expected an MLPConfig"):
        cf.MeanFlow(net=torch.nn.Linear(2, 2))


def test_reflow_brings_energy_down_and_one_step_near() -> None:
    """From eight gaussians to moons, round by round; W2² bounds the energy from below."""
    source, target = toys.eight_gaussians(512, generator=0), toys.moons(512, generator=1)
    c = cf.TimeCourse.from_arrays([source, target])
    fits = [cf.ICFM(0.0, **QUICK).fit(c, steps=400, progress=False)]
    fits += [cf.RectifiedFlow(rounds=k, **QUICK).fit(c, steps=800, progress=False) for k in (1, 2)]
    energies = [path_energy(fit, source, t0=0.0, t1=1.0) for fit in fits]
    misses = [wasserstein2(FewSteps(fit).transport(source), target) for fit in fits]
    assert energies[0] > 1.4 * energies[1]
    assert energies[2] < 1.02 * energies[1]
    for fit, energy in zip(fits, energies, strict=True):
        end = fit.simulate(source, [0.0, 1.0]).final
        assert energy > wasserstein2(source, end) ** 2
    assert max(misses[1:]) < misses[0] / 2
