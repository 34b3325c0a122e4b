from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import cdist
from torch.testing import assert_close

from cases import COUPLINGS
from cellflow.couplings import Independent
from cellflow.plans.forms import DensePlan, PairPlan
from cellflow.timecourse import Snapshot


def snapshots(shape="equal", *, d=3, dtype=torch.float64, seed=0):
    """Two snapshots two days apart: one-to-one sizes, or other sizes and masses."""
    n, m = {"equal": (24, 24), "unequal": (24, 17), "single": (1, 5)}[shape]
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randn(m, d, generator=g, dtype=torch.float64) * 1.3 + 0.5
    masses = (None, None)
    if shape == "unequal":
        masses = tuple(torch.rand(k, generator=g, dtype=torch.float64) + 0.1 for k in (n, m))
    cells = (x.to(dtype), y.to(dtype))
    return tuple(
        Snapshot(c, t, None if w is None else w.to(dtype))
        for c, t, w in zip(cells, (1.0, 3.0), masses, strict=True)
    )


@pytest.fixture(params=COUPLINGS, ids=str)
def maker(request):
    return COUPLINGS[request.param]


def makers(grows, leaves_out):
    """Couplings whose marginals are the masses, or that differ in these ways."""
    pair = snapshots()
    return pytest.mark.parametrize(
        "maker",
        [
            pytest.param(maker, id=name)
            for name, maker in COUPLINGS.items()
            if (maker(*pair).grows, maker(*pair).leaves_out) == (grows, leaves_out)
        ],
    )


@pytest.fixture(params=["equal", "unequal", "single"])
def shape(request):
    return request.param


def plan_of(maker, source, target):
    return maker(source, target)(source, target)


def half_cost(source, target):
    return 0.5 * cdist(source.x.double(), target.x.double(), "sqeuclidean")


# --- laws of every coupling -------------------------------------------------------------------


def test_plan_is_a_joint_distribution(maker, shape):
    source, target = snapshots(shape)
    coupling = maker(source, target)
    plan = coupling(source, target)
    matrix = plan.dense()
    assert plan.shape == matrix.shape == (len(source), len(target))
    assert matrix.dtype == torch.float64
    assert bool((matrix >= 0).all())
    assert float(matrix.sum()) == pytest.approx(1.0, abs=1e-12)
    assert plan.converged
    assert plan.fallback is None
    assert 0 <= plan.marginal_error <= 1e-6
    assert (plan.source_growth is not None) == (plan.target_growth is not None) == coupling.grows
    assert (plan.unmatched > 0) == coupling.leaves_out
    assert_close(plan.row_mass, matrix.sum(1))
    assert_close(plan.col_mass, matrix.sum(0))


@makers(grows=False, leaves_out=False)
def test_marginals_are_the_masses(maker, shape):
    source, target = snapshots(shape)
    plan = plan_of(maker, source, target)
    matrix = plan.dense()
    errors = [
        float((matrix.sum(1) - source.mass / source.mass.sum()).abs().sum()),
        float((matrix.sum(0) - target.mass / target.mass.sum()).abs().sum()),
    ]
    assert max(errors) <= 1e-6
    assert plan.marginal_error == pytest.approx(max(errors), abs=1e-12)
    assert plan.childless == 0.0


@makers(grows=True, leaves_out=False)
def test_marginals_that_grow_are_the_masses(maker, shape):
    """Pairs start with the source's masses, and end with the target's."""
    source, target = snapshots(shape)
    plan = plan_of(maker, source, target)
    matrix = plan.dense()
    grown = matrix * (plan.source_growth[:, None] + plan.target_growth[None, :]).exp()
    ratio = target.mass.sum() / source.mass.sum()
    assert_close(matrix.sum(1), source.mass / source.mass.sum())
    assert_close(grown.sum(0), target.mass / target.mass.sum() * ratio)


@makers(grows=False, leaves_out=True)
def test_marginals_that_are_partly_matched_stay_below_the_masses(maker, shape):
    source, target = snapshots(shape)
    plan = plan_of(maker, source, target)
    matrix = plan.dense() * (1 - plan.unmatched)
    assert bool((matrix.sum(1) <= source.mass / source.mass.sum() + 1e-12).all())
    assert bool((matrix.sum(0) <= target.mass / target.mass.sum() + 1e-12).all())


def test_cost_is_that_of_half_the_squared_distance(maker, shape):
    source, target = snapshots(shape)
    plan = plan_of(maker, source, target)
    assert plan.cost == pytest.approx(
        float((plan.dense().numpy() * half_cost(source, target)).sum())
    )


def test_cost_keeps_its_digits_far_from_the_origin(maker):
    source, target = snapshots()
    far = [Snapshot(s.x + 1e6, s.time) for s in (source, target)]
    assert plan_of(maker, *far).cost == pytest.approx(plan_of(maker, source, target).cost, rel=1e-6)


def test_partners_are_the_mean_exponential_of_row_entropies(maker, shape):
    plan = plan_of(maker, *snapshots(shape))
    matrix = plan.dense().numpy()
    matrix = matrix[matrix.sum(1) > 0]
    expected = np.average(np.exp(scipy.stats.entropy(matrix, axis=1)), weights=matrix.sum(1))
    assert plan.partners == pytest.approx(expected, rel=1e-9)


def test_samples_follow_the_plan(maker, shape):
    plan = plan_of(maker, *snapshots(shape))
    k = 60_000
    rows, cols = plan.sample(k, 3)
    assert rows.dtype == cols.dtype == torch.long
    assert rows.shape == cols.shape == (k,)
    n, m = plan.shape
    counts = torch.bincount(rows * m + cols, minlength=n * m).view(n, m)
    expected = k * plan.dense()
    # Stratified draws vary less than independent ones: five standard errors of those are safe, and
    # a pair that is expected less than once touches two strata at most.
    assert bool(((counts - expected).abs() <= 5 * expected.sqrt() + 2 * (expected > 0)).all())


def test_first_draws_follow_the_plan_too(maker):
    """The order of a sample is random: any position has the law of the plan."""
    plan = plan_of(maker, *snapshots("unequal"))
    g = torch.Generator().manual_seed(5)
    first = torch.tensor([int(plan.sample(7, g)[0][0]) for _ in range(2000)])
    expected = 2000 * plan.row_mass
    counts = torch.bincount(first, minlength=plan.shape[0])
    assert bool(((counts - expected).abs() <= 5 * expected.sqrt()).all())


def test_rows_and_columns_vary_independently_of_the_order(maker):
    """One pair per call must have the joint law, not only the marginals."""
    plan = plan_of(maker, *snapshots("single"))
    g = torch.Generator().manual_seed(0)
    cols = torch.cat([plan.sample(1, g)[1] for _ in range(2000)])
    counts = torch.bincount(cols, minlength=5)
    assert bool(((counts - 2000 * plan.col_mass).abs() <= 5 * (2000 * plan.col_mass).sqrt()).all())


def test_permuted_cells_permute_the_plan(maker, shape):
    source, target = snapshots(shape)
    g = torch.Generator().manual_seed(1)
    p, q = torch.randperm(len(source), generator=g), torch.randperm(len(target), generator=g)
    moved = plan_of(maker, source.subset(p), target.subset(q)).dense()
    assert_close(moved, plan_of(maker, source, target).dense()[p][:, q], atol=1e-7, rtol=1e-4)


def test_scale_of_masses_is_irrelevant(maker):
    source, target = snapshots("unequal")
    heavy = Snapshot(source.x, source.time, 7.0 * source.mass)
    assert_close(plan_of(maker, heavy, target).dense(), plan_of(maker, source, target).dense())


def test_seeds_decide_and_global_generators_are_left_alone(maker):
    source, target = snapshots("unequal")
    before = torch.get_rng_state().clone(), str(np.random.get_state())
    plan = plan_of(maker, source, target)
    first = plan.sample(50, 1)
    again = plan_of(maker, source, target).sample(50, torch.Generator().manual_seed(1))
    other = plan.sample(50, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_single_precision_cells_are_coupled_in_double(maker, shape):
    source, target = snapshots(shape, dtype=torch.float32)
    double = [Snapshot(s.x.double(), s.time, s.mass.double()) for s in (source, target)]
    plan = plan_of(maker, source, target)
    assert plan.dense().dtype == torch.float64
    assert_close(plan.dense(), plan_of(maker, *double).dense(), atol=1e-9, rtol=1e-6)


def test_gradients_are_not_tracked(maker):
    source, target = snapshots()
    tracked = Snapshot(source.x.clone().requires_grad_(), source.time)
    assert not plan_of(maker, tracked, target).dense().requires_grad


def test_snapshots_must_fit(maker):
    source, target = snapshots()
    coupling = maker(source, target)
    with pytest.raises(
        ValueError, match=r"`target`: got 2 dimensions, expected 3 as in the source"
    ):
        coupling(source, Snapshot(target.x[:, :2], 3.0))
    with pytest.raises(TypeError, match=r"`source`: got Tensor, expected a Snapshot"):
        coupling(source.x, target)


# --- plans ------------------------------------------------------------------------------------


def test_independent_plan_is_never_written_out():
    x = torch.zeros(300_000, 1)
    plan = Independent()(Snapshot(x, 0.0), Snapshot(x + 2.0, 1.0))
    rows, cols = plan.sample(1000, 0)
    assert plan.cost == pytest.approx(2.0)
    assert plan.partners == pytest.approx(300_000)
    assert len(torch.unique(rows)) > 990
    # Rows and columns are stratified each, but not together.
    assert abs(float(torch.corrcoef(torch.stack([rows, cols]).double())[0, 1])) < 5 / 1000**0.5
    with pytest.raises(ValueError, match="Sample pairs instead, or raise `limit`"):
        plan.dense()


def test_dense_limit_is_counted_in_entries():
    plan = Independent()(*snapshots())
    assert plan.dense(limit=24 * 24).shape == (24, 24)
    with pytest.raises(
        ValueError, match=r"got a plan of 24 × 24 = 576 entries, expected at most 575"
    ):
        plan.dense(limit=575)


def permutation(n=10):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    mass = torch.full((n,), 1.0 / n, dtype=torch.float64)
    return PairPlan(rows=torch.arange(n), cols=order, mass=mass, size=(n, n), cost=0.0)


@pytest.mark.parametrize("k", [1, 4, 10, 11, 37, 40])
def test_permutations_are_sampled_without_replacement(k):
    plan = permutation()
    assert plan.is_permutation
    rows, cols = plan.sample(k, 0)
    assert torch.equal(cols, plan.cols[rows])
    counts = torch.bincount(rows, minlength=10)
    assert set(counts.tolist()) <= {k // 10, -(-k // 10)}


def test_a_permutation_needs_all_cells_once_and_equal_masses():
    mass = torch.tensor([0.5, 0.5], dtype=torch.float64)
    pairs = {"rows": torch.tensor([0, 1]), "cost": 0.0, "mass": mass, "size": (2, 2)}
    assert PairPlan(cols=torch.tensor([1, 0]), **pairs).is_permutation
    assert not PairPlan(cols=torch.tensor([1, 1]), **pairs).is_permutation
    pairs["mass"] = torch.tensor([0.4, 0.6], dtype=torch.float64)
    assert not PairPlan(cols=torch.tensor([1, 0]), **pairs).is_permutation
    wide = {**pairs, "mass": mass, "size": (2, 3)}
    assert not PairPlan(cols=torch.tensor([1, 0]), **wide).is_permutation
    assert not Independent()(*snapshots()).is_permutation


def test_pairs_without_mass_are_never_drawn():
    matrix = torch.zeros(50, 40, dtype=torch.float64)
    matrix[7, 3], matrix[30, 0] = 0.25, 0.75
    rows, cols = DensePlan(matrix=matrix, cost=0.0).sample(1000, 0)
    assert {*zip(rows.tolist(), cols.tolist(), strict=True)} == {(7, 3), (30, 0)}
    assert int((rows == 7).sum()) == 250


@pytest.mark.parametrize(
    ("k", "error", "text"),
    [
        (0, ValueError, "`k`: got 0, expected an integer of at least 1"),
        (-3, ValueError, "`k`: got -3"),
        (2.5, TypeError, "`k`: got 2.5"),
    ],
)
def test_bad_sample_sizes(k, error, text):
    with pytest.raises(error, match=text):
        permutation().sample(k, 0)
