"""Entropic plans where bare Newton steps lead nowhere, and those of POT in their place."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Entropic, Exact, entropic
from cellflow.timecourse import Snapshot


def pair(n=30, m=20, *, weighted=False):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(k, 3, generator=g, dtype=torch.float64) for k in (n, m))
    masses = [torch.rand(k, generator=g) + 0.1 if weighted else None for k in (n, m)]
    return Snapshot(x, 0.0, masses[0]), Snapshot(1.3 * y + 0.5, 1.0, masses[1])


def test_entropic_converges_between_clusters_of_other_shares() -> None:
    """Two far clusters whose shares differ: sweeps take over where no Newton step gains."""
    g = torch.Generator().manual_seed(14)
    like = {"generator": g, "dtype": torch.float64}
    centres = 6.0 * torch.randn(2, 3, **like)

    def cloud() -> torch.Tensor:
        return centres[torch.randint(2, (128,), generator=g)] + 0.5 * torch.randn(128, 3, **like)

    plan = Entropic(epsilon=0.4)(Snapshot(cloud(), 0.0), Snapshot(cloud(), 1.0))
    assert plan.fallback is None
    assert plan.marginal_error < 1e-6


def test_entropic_of_next_to_no_noise_is_the_exact_plan() -> None:
    """Where Sinkhorn would need millions of sweeps; just above, its cost is all but the same."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, 5, generator=g, dtype=torch.float64)
    source, target = Snapshot(x, 0.0), Snapshot(y + 1, 1.0)
    exact = Exact()(source, target)
    tiny = Entropic(sigma=1e-4)(source, target)
    assert tiny.fallback is None
    assert torch.equal(tiny.dense(), exact.dense())
    above = Entropic(epsilon=2e-6 * exact.cost)(source, target)
    assert above.fallback is None
    assert abs(above.cost - exact.cost) < 2e-6 * exact.cost * torch.log(torch.tensor(60.0))


@pytest.mark.parametrize("weighted", [False, True])
def test_entropic_of_pot_is_the_same_plan(weighted):
    source, target = pair(weighted=weighted)
    ours, pot = (
        Entropic(epsilon=0.5, tolerance=1e-9, solver=name)(source, target)
        for name in ("auto", "pot")
    )
    assert pot.fallback is None
    assert pot.marginal_error <= 1e-9
    assert_close(pot.dense(), ours.dense(), atol=1e-8, rtol=0)
    assert pot.cost == pytest.approx(ours.cost, rel=1e-7)


def test_entropic_says_when_the_plan_of_pot_replaced_it(monkeypatch):
    """A solver that got nowhere: no data are known on which it does not converge."""
    source, target = pair()
    expected, real = Entropic(epsilon=1.0)(source, target), entropic.solve

    def lost(*args, solver, **settings):
        s = real(*args, solver=solver, **settings)
        return s if solver == "pot" else s._replace(error=float("inf"), plan=torch.zeros(30, 20))

    monkeypatch.setattr(entropic, "solve", lost)
    plan = Entropic(epsilon=1.0)(source, target)
    assert plan.fallback.startswith("sinkhorn did not converge at epsilon 1: marginal error inf")
    assert plan.fallback.endswith("iterations; the plan of POT's solver is used")
    assert_close(plan.dense(), expected.dense(), atol=1e-6, rtol=0)
