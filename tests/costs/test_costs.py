"""Ground costs: what they are, and the plans that couplings find by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.testing import assert_close

import cellflow as cf
from cellflow.batches import Batching
from cellflow.costs import (
    COSTS,
    Added,
    Clones,
    Cosine,
    Euclidean,
    HalfSquared,
    Spectral,
    WassersteinFisherRao,
    as_cost,
)
from cellflow.couplings import Entropic, Exact, Geodesic, Given, Unbalanced
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot, TimeCourse
from clouds import half_cost, pair

WEIGHTS = (1.0, 0.25, 4.0)
#: Costs, and what they are by scipy.
BY_SCIPY = {
    "half_squared": (HalfSquared(), lambda x, y: cdist(x, y, "sqeuclidean") / 2),
    "euclidean": (Euclidean(), cdist),
    "cosine": (Cosine(), lambda x, y: cdist(x, y, "cosine")),
    "wfr": (
        WassersteinFisherRao(3.0),
        lambda x, y: -36 * np.log(np.cos(np.minimum(cdist(x, y) / 6, np.arccos(1e-6)))),
    ),
    "weighted": (HalfSquared(WEIGHTS), lambda x, y: cdist(x, y, "sqeuclidean", w=WEIGHTS) / 2),
}
EVERY = {name: cost for name, (cost, _) in BY_SCIPY.items()} | {
    "spectral": Spectral(n_vectors=3, n_neighbors=4),
    "clones": Clones(),
    "added": Added(HalfSquared((0.0, 0.0, 1.0)), 0.5),
    "function": as_cost(lambda x, y: torch.cdist(x, y, p=1)),
}


def labelled(n: int = 20, m: int = 14) -> list[Snapshot]:
    return [replace(s, labels=[f"{k % 3}" for k in range(len(s))]) for s in pair(n, m)]


@pytest.mark.parametrize(("cost", "known"), BY_SCIPY.values(), ids=BY_SCIPY)
def test_costs_are_those_of_scipy(cost, known):
    source, target = pair()
    np.testing.assert_allclose(cost(source, target), known(source.x, target.x), atol=1e-7)


def test_every_registered_cost_is_tested():
    assert set(COSTS) <= set(EVERY)


@pytest.mark.parametrize("cost", EVERY.values(), ids=EVERY)
def test_costs_are_finite_and_follow_the_cells(cost):
    source, target = labelled()
    values = cost(source, target)
    assert values.dtype == torch.float64 and values.shape == (20, 14)
    assert bool((values.isfinite() & (values >= 0)).all())
    p, q = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (20, 14))
    assert_close(cost(source.subset(p), target.subset(q)), values[p][:, q])
    single = [replace(s, x=s.x.float()) for s in (source, target)]
    assert_close(cost(*single), values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(20, 20), (20, 14)])
@pytest.mark.parametrize("cost", EVERY.values(), ids=EVERY)
def test_plans_are_optimal_for_the_cost(cost, sizes):
    source, target = labelled(*sizes)
    values, straight = cost(source, target), torch.tensor(half_cost(source, target))
    exact = Exact(cost=cost)(source, target)
    assert exact.converged and exact.is_permutation == (sizes[0] == sizes[1])
    assert float((exact.dense() * values).sum()) == pytest.approx(ot.emd2([], [], values.numpy()))
    assert exact.cost == pytest.approx(float((exact.dense() * straight).sum()))
    epsilon = 0.5 * float(values.mean())
    masses = source.weights.numpy(), target.weights.numpy()
    best = torch.tensor(ot.bregman.sinkhorn_log(*masses, values.numpy(), epsilon, 20000))
    for coupling in (Entropic(epsilon=epsilon), Unbalanced(epsilon=epsilon, relaxation=None)):
        plan = coupling.by_cost(cost)(source, target)
        assert plan.fallback is None
        assert_close(plan.dense(), best, atol=1e-6, rtol=1e-4)
        assert plan.cost == pytest.approx(float((plan.dense() * straight).sum()))


def test_many_pairs_are_coupled_as_one_by_one():
    sources, targets = zip(*[pair(16, 16), pair(16, 16)], strict=True)
    coupling = Exact(cost="cosine")
    for plan in coupling.many(sources, targets):
        assert_close(plan.dense(), coupling(sources[0], targets[0]).dense())


# --- spectral --------------------------------------------------------------------------------


def line(n: int) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64)[:, None]


def test_all_eigenvectors_give_effective_resistances():
    """Of a path: the number of edges between two nodes. Of a graph: by the pseudo-inverse."""
    x = line(9)
    cost = Spectral(n_vectors=8, n_neighbors=1)
    values = cost(Snapshot(x[:5], 0.0), Snapshot(x[5:], 1.0))
    steps = (x[5:, 0] - x[:5]).abs()
    assert_close(values / steps, torch.full_like(values, float(values[0, 0] / steps[0, 0])))

    x = pair(30, 10)[0].x
    near = np.argsort(cdist(x, x), 1)[:, 1:5]
    graph = np.zeros((30, 30))
    np.put_along_axis(graph, near, 1.0, 1)
    graph = np.maximum(graph, graph.T)
    inverse = np.linalg.pinv(np.diag(graph.sum(1)) - graph)
    resistance = np.diag(inverse)[:, None] + np.diag(inverse) - 2 * inverse
    values = Spectral(n_vectors=29, n_neighbors=4)(Snapshot(x[:18], 0.0), Snapshot(x[18:], 1.0))
    ratio = values.numpy() / resistance[:18, 18:]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-8)


def test_spectral_costs_have_the_scale_of_the_data():
    course = TimeCourse(tuple(pair(60, 50)))
    cost = Spectral(n_neighbors=5).fitted_to(course)
    all_cells = Snapshot(course.x, 0.0)
    assert_close(cost(all_cells, all_cells).mean(), HalfSquared()(all_cells, all_cells).mean())


def test_spectral_costs_of_blocks_are_those_of_the_course():
    """Fitted once, through a coupling; a cell that is not in the course is its neighbour there."""
    course = TimeCourse(tuple(pair(60, 50)))
    source, target = course.snapshots
    coupling = Exact(cost="spectral").fitted_to(course)
    whole = coupling.ground(source, target)
    block = source.subset(torch.arange(7, 20)), target.subset(torch.arange(11))
    assert_close(coupling.ground(*block), whole[7:20, :11])
    assert not torch.allclose(Spectral()(*block), whole[7:20, :11])
    beside = Snapshot(block[0].x + 1e-4, 0.0), block[1]
    assert_close(coupling.ground(*beside), whole[7:20, :11])


def test_spectral_sees_a_branch_through_noise_that_hides_it():
    """Cells on a long arc with 60 columns of noise: neighbours along it are told by the graph."""
    g = torch.Generator().manual_seed(0)
    angle = torch.linspace(0.0, 5.5, 1000, dtype=torch.float64)
    noise = 0.25 * torch.randn(1000, 60, generator=g, dtype=torch.float64)
    x = torch.cat([3 * angle.cos()[:, None], 3 * angle.sin()[:, None], noise], 1)
    everything = Snapshot(x, 0.0)
    apart = (angle[:, None] - angle).abs().flatten()
    far = apart > 5  # nearly a whole turn: close in the plane, apart along the arc
    straight, spectral = HalfSquared(), Spectral(n_vectors=5)
    ratios = [
        float(c.flatten()[far].mean() / c.mean())
        for c in (k(everything, everything) for k in (straight, spectral))
    ]
    assert ratios[0] < 1 < 2 < ratios[1]


# --- through methods and files ---------------------------------------------------------------


def small(coupling, **parts) -> cf.methods.FlowMatching:
    net, batching = MLPConfig(8, 2), Batching(8, 8)
    return replace(cf.OTCFM(net=net, batching=batching), coupling=coupling, **parts)


@pytest.mark.parametrize(
    "cost",
    [
        "euclidean",
        HalfSquared(WEIGHTS),
        Spectral(n_neighbors=5),
        Added(HalfSquared((0.0, 1.0, 0.0)), 2.0, cost="cosine"),
    ],
    ids=str,
)
def test_fits_by_a_cost_are_saved_with_it(cost, tmp_path):
    course = TimeCourse(tuple(pair(30, 30)))
    method = small(Exact(cost=cost))
    fit = method.fit(course, steps=2, progress=False)
    fit.save(tmp_path / "fit")
    assert cf.load(tmp_path / "fit").method.coupling == Exact(cost=cost)
    assert fit.method.coupling.cost == as_cost(cost)


def test_functions_and_matrices_are_not_saved_but_told_of(tmp_path):
    course = TimeCourse(tuple(pair(30, 30)))
    fit = small(Exact(cost=lambda x, y: torch.cdist(x, y, p=1))).fit(
        course, steps=2, progress=False
    )
    fit.save(tmp_path / "fit")
    with pytest.raises(RuntimeError, match="Exact was not saved with this fit"):
        cf.load(tmp_path / "fit").method.coupling(*course.snapshots)


def test_matrices_of_the_user_stay_as_they_are():
    """Solvers of whole matrices overwrite them."""
    matrix = torch.rand(20, 14, generator=torch.Generator().manual_seed(0)).double()
    before, coupling = matrix.clone(), Exact(cost=matrix)
    first = coupling(*pair()).dense()
    assert torch.equal(matrix, before) and torch.equal(coupling(*pair()).dense(), first)


def test_matrices_are_of_whole_snapshots_in_their_order():
    """A flow that is trained by a matrix has the pairs of its plan, whatever the blocks."""
    course = TimeCourse(tuple(pair(30, 30)))
    target = course.snapshots[1].x
    matrix = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    coupling = Exact(cost=matrix)
    assert coupling.needs_whole and coupling.knows_rows and not Exact().knows_rows
    nested = Exact(cost=Added(matrix))
    assert nested.knows_rows and nested.digest == coupling.digest
    assert coupling.digest != Exact(cost=matrix + 1).digest and Exact().digest is None
    by_plan = Given(coupling(*course.snapshots).dense())
    fits = [small(c).fit(course, steps=3, progress=False) for c in (coupling, by_plan)]
    assert_close(fits[0].velocity(0.5, target), fits[1].velocity(0.5, target))


BAD = {
    "name": (lambda: as_cost("cosinus"), ValueError, "`cost`: got 'cosinus', expected one of"),
    "class": (lambda: Exact(cost=Cosine), TypeError, "`cost`: got "),
    "number": (lambda: Exact(cost=3.0)(*pair()), ValueError, r"`cost`: got shape \(\), expected"),
    "shape": (lambda: Exact(cost=torch.ones(3, 4))(*pair()), ValueError, r"got shape \(3, 4\)"),
    "negative": (lambda: Exact(cost=lambda x, y: -x @ y.T)(*pair()), ValueError, "at least 0"),
    "nan": (lambda: Exact(cost=np.full((20, 14), np.nan))(*pair()), ValueError, "finite costs"),
    "weights": (lambda: HalfSquared((1.0, -1.0)), ValueError, "`weights`: got -1.0"),
    "columns": (lambda: HalfSquared((1.0,))(*pair()), ValueError, "`weights`: got 1, expected 3"),
    "vectors": (lambda: Spectral(n_vectors=0), ValueError, "`n_vectors`: got 0"),
    "added": (lambda: Added("clones", -1.0), ValueError, "`weight`: got -1.0"),
    "own": (lambda: Geodesic().by_cost("cosine"), TypeError, "got Geodesic, expected one that"),
}


@pytest.mark.parametrize(("call", "error", "text"), BAD.values(), ids=BAD)
def test_what_is_no_cost_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_fit_by_a_cost_is_that_of_its_coupling() -> None:
    cells = cf.datasets.embryoid()[::10]
    how = {"time_key": "day", "n_dims": 3, "steps": 3, "progress": False}
    named = cf.tl.fit(cells, method="otcfm", cost="cosine", **how)
    own = cf.tl.fit(cells, method=replace(cf.OTCFM(), coupling=Exact(cost=Cosine())), **how)
    plain = cf.tl.fit(cells, method="otcfm", **how)
    x = named.course.snapshots[0].x
    assert torch.equal(named.velocity(2.0, x), own.velocity(2.0, x))
    assert not torch.equal(named.velocity(2.0, x), plain.velocity(2.0, x))
    for method in ("icfm", "dsbm", "auto"):
        with pytest.raises((TypeError, ValueError), match="cost"):
            cf.tl.fit(cells, method=method, cost="cosine", **how)
