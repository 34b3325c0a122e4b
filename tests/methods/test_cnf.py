"""Continuous normalizing flows: their loss in closed form, and a density that is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

import cellflow as cf
from cellflow.batches import Batching, CouplingHealth
from cellflow.methods import CNF
from cellflow.methods.simulating import Shots
from cellflow.networks import MLPConfig, Units
from cellflow.paths import Pairs
from cellflow.simulate import log_likelihood
from cellflow.training.options import Checkpointing, FitOptions
from cellflow.training.trainer import Training

F64 = torch.float64
SMALL = {
    "net": MLPConfig(width=16, depth=2),
    "batching": Batching(16, prefetch=False),
    "training": Training(learning_rate=2e-2, ema=0.9, validation=0.0),
    "substeps": 3,
}


def cells(n: int, d: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def batch(xs: list[torch.Tensor]) -> Shots:
    x0, x1, zero = torch.cat(xs[:-1]), torch.cat(xs[1:]), torch.zeros(len(xs[0]), 1, dtype=F64)
    return Shots(Pairs(x0, x1, zero, zero + 1), 0)


def terms(method: CNF, field, xs: list[torch.Tensor], times: list[float]):
    course = cf.TimeCourse.from_arrays(xs, times)
    made, unit = method.begin(field, course, options=FitOptions(), health=CouplingHealth())
    assert unit == xs[0].shape[1]
    return made(batch(xs)), course


@pytest.mark.parametrize("d", [2, 6], ids=["exact", "probed"])
def test_loss_is_the_mean_log_likelihood_of_all_snapshots(d: int) -> None:
    """Of any field: the independent way is a simulation for each snapshot. A probe is unbiased."""
    n = 16 if d == 2 else 500
    method = CNF(0.0, batching=Batching(n), substeps=8)
    xs = [cells(n, d, k) + k for k in range(3)]
    net = MLPConfig(width=16, depth=2).build(Units((0.0,) * d), generator=0).double()
    found, course = terms(method, net, xs, [1.0, 2.0, 4.0])
    base, begins = method.prior(course)
    assert begins == 1.0 - 1.5
    each = [
        log_likelihood(cf.Dynamics(net), x, t, base=base, base_time=begins).log_prob
        for x, t in zip(xs, course.times, strict=True)
    ]
    expected = -torch.cat(each).mean()
    exact = {"rtol": 1e-5, "atol": 1e-5} if d == 2 else {"rtol": 0.0, "atol": 0.1}
    assert_close(found["nats"], expected, **exact)


def test_penalties_of_a_linear_field_have_closed_forms() -> None:
    """Its Jacobian is the same everywhere; of a constant field, so is the velocity."""
    a = nn.Parameter(torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=F64))
    method = CNF(0.0, batching=Batching(8), kinetic=0.5, jacobian=0.25)
    xs, times = [cells(8, seed=1), cells(8, seed=2)], [0.0, 2.0]
    found, course = terms(method, lambda t, x: x @ a, xs, times)
    # Cells of the first snapshot go back for 2, those of the second for 4.
    assert_close(found["jacobian"], 0.25 * 2.0 * 3.0 * a.square().sum())
    drift = torch.tensor([0.6, 0.8], dtype=F64)
    found, course = terms(method, lambda t, x: drift.expand_as(x) + 0 * x @ a, xs, times)
    speed, span = Units.of(course).speed, 2.0
    assert_close(found["kinetic"].detach(), torch.tensor(0.5 * 3.0 / (speed**2 * span), dtype=F64))


def test_prior_has_the_moments_of_the_first_cells_by_mass_and_blur() -> None:
    x = cells(3)
    course = cf.TimeCourse.from_arrays([x, x + 1], [0.0, 2.0], masses=[[1.0, 2.0, 3.0], [1.0] * 3])
    law, begins = CNF(0.5).prior(course)
    each = x[[0, 1, 1, 2, 2, 2]]
    assert begins == -2.0
    assert_close(law.mean, each.mean(0))
    assert_close(law.variance, each.var(0, correction=0) + 0.25)


def test_flow_learns_a_known_density() -> None:
    """Two normal laws, the second turned: expected log-densities but for 0.15 nats."""
    laws = [
        MultivariateNormal(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.7], [0.7, 1.0]])),
        MultivariateNormal(torch.tensor([2.0, 0.0]), torch.tensor([[0.5, -0.3], [-0.3, 0.5]])),
    ]
    roots = [law.scale_tril for law in laws]
    xs = [
        law.mean + cells(400, seed=k).float() @ r.T for k, (law, r) in enumerate(zip(laws, roots))
    ]
    settings = SMALL | {"batching": Batching(64, prefetch=False)}
    fit = CNF(0.05, **settings).fit(cf.TimeCourse.from_arrays(xs), steps=100, progress=False)
    for time, (law, x) in enumerate(zip(laws, xs, strict=True)):
        missed = law.log_prob(x).mean() - fit.log_prob(x, float(time)).mean()
        assert abs(float(missed)) < 0.15


def test_saved_flow_begins_from_the_same_law_and_integrates_to_one(tmp_path) -> None:
    course = cf.TimeCourse.from_arrays([cells(40), 0.5 * cells(40, seed=1) + 1], [0.0, 2.0])
    fit = CNF(**SMALL).fit(course, steps=10, progress=False)
    side = torch.linspace(-6, 6, 61, dtype=F64)
    x = torch.cartesian_prod(side, side)
    density = fit.log_prob(x, 2.0)
    assert float(density.exp().sum()) * 0.2**2 == pytest.approx(1.0, abs=1e-3)
    again = cf.load(fit.save(tmp_path / "fit"))
    assert_close(again.log_prob(x[:50], 2.0), density[:50])
    law, begins = fit.method.prior(course)
    with pytest.warns(UserWarning, match="-2 is outside the fit's times"):
        assert_close(fit.log_prob(x[:50], begins), law.log_prob(x[:50]))


def test_resumed_flow_is_the_one_that_was_not_interrupted(tmp_path) -> None:
    course = cf.TimeCourse.from_arrays([cells(40, 5), cells(40, 5, 1) + 1])
    whole = CNF(**SMALL).fit(course, steps=6, progress=False)

    def stop(report) -> None:
        if report.step == 3:
            raise RuntimeError("power")

    checkpointing = Checkpointing(tmp_path / "run.safetensors", every=1)
    settings = {"steps": 6, "progress": False, "checkpointing": checkpointing}
    with pytest.raises(RuntimeError, match="power"):
        CNF(**SMALL).fit(course, on_step=stop, **settings)
    resumed = CNF(**SMALL).fit(course, **settings)
    x = cells(9, 5)
    assert torch.equal(resumed.velocity(0.5, x), whole.velocity(0.5, x))
