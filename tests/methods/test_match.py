"""Two clouds: carried there and back by every method, exactly where the answer is known."""

from __future__ import annotations

import warnings

import numpy as np
import ot
import pytest
import scipy.sparse as sp
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import metrics
from cellflow.batches import Batching
from cellflow.densities import DENSITIES
from cellflow.methods.generative import GENERATIVE
from cellflow.metrics import wasserstein2
from cellflow.networks import MLPConfig
from cellflow.training import Training

F64 = torch.float64
SMALL = MLPConfig(width=16, depth=2)


def cloud(n: int, seed: int, shift: float = 0.0, d: int = 2) -> torch.Tensor:
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


X0, X1 = cloud(80, 0), cloud(70, 1, 2.0)


def small(**options) -> cf.methods.Matching:
    return cf.match(X0, X1, cf.OTCFM(net=SMALL), steps=30, progress=False, **options)


@pytest.fixture(scope="module")
def shifted() -> cf.methods.Matching:
    """A cloud and its copy elsewhere: optimal transport is one translation."""
    x = cloud(300, 0)
    method = cf.OTCFM(0.0, batching=Batching(150, 300), training=Training(learning_rate=5e-3))
    return cf.match(x, x + torch.tensor([3.0, -1.0]), method, steps=500, progress=False)


# --- laws of every method --------------------------------------------------------------------


MAPS = [name for name, kind in DENSITIES.items() if kind.invertible]


@pytest.mark.parametrize("name", [*cf.methods.METHODS, *GENERATIVE, *MAPS])
def test_cells_return_from_where_they_are_carried(name, tmp_path):
    done = cf.match(X0, X1, name, steps=5, progress=False)
    some = X0[:20]
    there = done.transport(some)
    assert there.shape == some.shape and there.dtype == some.dtype
    # Solvers keep four to five digits on each way; diffusions are steep at their ends.
    assert_close(done.inverse(there), some, atol=3e-3, rtol=0)
    energy = done.path_energy(some)
    assert energy >= float((there - some).square().sum(1).mean()) * 0.999
    same = cf.load(done.save(tmp_path / "saved"))
    assert torch.equal(same.transport(some), there)
    assert same.score("energy", some) == done.score("energy", some)


@pytest.mark.parametrize("name", MAPS)
def test_density_of_what_is_carried_is_that_of_the_first_cloud_changed_by_the_map(name):
    """Both sides of the change of variables, with the Jacobian by automatic differentiation."""
    done = cf.match(X0, X1, name, steps=5, dtype=F64, progress=False)
    back = done.inverse(X1[:5])

    def carried(x):
        return done.target.decode(done.source.encode(x[None]))[0]

    slopes = torch.stack([torch.autograd.functional.jacobian(carried, x) for x in back])
    expected = done.source.log_prob(back) - torch.linalg.slogdet(slopes).logabsdet
    assert_close(done.log_prob(done.transport(back)), expected, atol=1e-4, rtol=0)


def test_seed_decides_all():
    one, same, other = (small(generator=seed).transport(X0) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


# --- closed forms ----------------------------------------------------------------------------


def test_translation_is_exact_transport(shifted):
    x, y = (s.x for s in shifted.course.snapshots)
    # The network's error after this budget is 2 % of the way, of length 10^.5.
    assert float((shifted.transport(x) - y).norm(dim=1).mean()) < 0.1
    assert float((shifted.inverse(y) - x).norm(dim=1).mean()) < 0.1
    assert shifted.path_energy() == pytest.approx(10.0, rel=0.03)  # that of W2 squared
    assert shifted.score() < 0.1


def test_density_moves_with_the_cloud_and_integrates_to_one(shifted):
    y = shifted.course.snapshots[1].x
    law = torch.distributions.MultivariateNormal(torch.tensor([3.0, -1.0], dtype=F64), torch.eye(2))
    # Parameters of a normal law of 300 cells are off by some 6 %; measured .11 in all.
    assert float((shifted.log_prob(y) - law.log_prob(y)).abs().mean()) < 0.2
    sides = torch.linspace(-6.0, 6.0, 81, dtype=F64)
    grid = torch.cartesian_prod(sides + 3.0, sides - 1.0)
    assert float(shifted.log_prob(grid).exp().sum()) * 0.15**2 == pytest.approx(1.0, abs=0.01)


def test_energy_is_that_of_the_paths(shifted):
    """Against the trapezoidal rule on the simulated trajectory."""
    x, times = X0[:20], np.linspace(0, 1, 201)
    path = shifted.fit.simulate(x, times, solver="dopri5").x
    speed = [shifted.fit.velocity(t, z).square().sum(1).mean() for t, z in zip(times, path)]
    expected = np.trapezoid(np.array(speed), times)
    assert shifted.path_energy(x) == pytest.approx(expected, rel=1e-3)


def test_gaussians_are_matched_by_the_linear_map():
    """Between normal laws optimal transport is linear; the law carried has the target's moments."""
    source = cf.toys.Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    target = cf.toys.Gaussian([3.0, 1.0], [[0.4, -0.2], [-0.2, 1.2]])
    x0 = source.sample(3000, generator=0)
    x1 = target.sample(3000, generator=1)
    method = cf.OTCFM(0.0, training=Training(learning_rate=5e-3))
    moved = cf.match(x0, x1, method, steps=500, progress=False).transport(x0)
    ends = (np.asarray(part) for part in (source.mean, target.mean, source.cov, target.cov))
    slope, offset = ot.gaussian.bures_wasserstein_mapping(*ends)
    exact = x0 @ torch.from_numpy(slope) + torch.from_numpy(offset)
    # Minibatch plans and the network: 5 % of the cloud's size, measured 3 %.
    assert float((moved - exact).square().sum(1).mean().sqrt()) < 0.2


@pytest.mark.parametrize("name", [*GENERATIVE, "nsf"])
def test_density_of_models_is_that_of_the_second_cloud(name):
    """Also where the models' own source is wide or has heavy tails."""
    x, y = cloud(400, 0), cloud(400, 1, 2.0)
    done = cf.match(x, y, name, steps=300, progress=False)
    law = torch.distributions.MultivariateNormal(torch.full((2,), 2.0, dtype=F64), torch.eye(2))
    held = cloud(200, 2, 2.0)
    # Mean log densities are off by the divergence of the learned law from the true one.
    assert abs(float((done.log_prob(held) - law.log_prob(held)).mean())) < 0.25
    assert done.score("energy") < 0.1


# --- what comes in ---------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """Pictures with their labels, one by one."""

    def __len__(self) -> int:
        return len(X0)

    def __getitem__(self, k: int):
        return X0[k].reshape(1, 2, 1), k


def test_clouds_come_in_any_form():
    expected = small().transport(X0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X0), batch_size=32)
    forms = [X0.numpy(), X0.tolist(), sp.csr_matrix(X0.numpy()), loader, iter(X0.split(30))]
    pictures = Pictures()
    for form in [*forms, pictures, torch.utils.data.DataLoader(pictures, batch_size=7)]:
        done = cf.match(form, X1, cf.OTCFM(net=SMALL), steps=30, progress=False)
        assert_close(done.transport(X0), expected)


@pytest.mark.parametrize(
    ("x0", "x1", "method", "told"),
    [
        (X0, X1, "otcmf", "Did you mean 'otcfm'?"),
        (X0, cloud(9, 0, d=3), "otcfm", "`x1`: got 3 dimensions"),
        (None, X1, "otcfm", "`x0`"),
        (X0, "text", "otcfm", "`x1`"),
        (X0, X1 * np.nan, "otcfm", "`x1`: got NaN"),
        (X0, X1, 5, "`method`"),
        (X0, iter(()), "otcfm", "no cells"),
    ],
)
def test_what_cannot_be_matched_is_told(x0, x1, method, told):
    with pytest.raises((TypeError, ValueError)) as raised:
        cf.match(x0, x1, method, steps=1, progress=False)
    assert told in str(raised.value)


def test_scores_are_of_names_functions_and_other_cells():
    done = small()
    held = cloud(40, 7), cloud(50, 8, 2.0)
    assert done.score("w2", *held) == wasserstein2(done.transport(held[0]), held[1])
    assert done.score(metrics.energy_distance) == done.score("energy")
    with pytest.raises(ValueError, match="`metric`"):
        done.score("distance")


def test_growth_is_scored_with_its_masses():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = cf.match(X0, X1, "uotcfm", steps=30, progress=False)
    moved = done.carry(done.course.snapshots[0])
    assert moved.mass.std() > 0
    assert done.score() == wasserstein2(moved.x, X1, x_mass=moved.mass)


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    done = small()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        done.save(tmp_path)
    folder = done.save(tmp_path / "saved")
    assert done.save(folder) == folder


@pytest.mark.parametrize(("method", "size"), [("otcfm", "400 × 2"), ("nsf", "200 cells")])
def test_what_is_printed_has_neither_cells_nor_weights(method, size):
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    text = repr(cf.match(x, x + 1, method, steps=2, progress=False))
    assert size in text and len(text) < 2000


def test_masses_are_carried_through_a_base():
    done = cf.match(X0, X1, "realnvp", steps=2, progress=False)
    mass = torch.linspace(1, 2, 80, dtype=F64)
    there = done.carry(cf.Snapshot(X0, 0.0, mass))
    back = done.carry(there)
    assert torch.equal(there.mass, mass) and torch.equal(back.mass, mass)
    assert (there.time, back.time) == (1.0, 0.0)
