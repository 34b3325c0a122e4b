"""Entropic plans where bare Newton steps lead nowhere."""

from __future__ import annotations

import torch

from cellflow.couplings import Entropic, Exact
from cellflow.timecourse import Snapshot


def test_clusters_that_must_exchange_cells_converge() -> None:
    """Two far clusters whose shares differ: sweeps take over where no Newton step gains."""
    g = torch.Generator().manual_seed(14)
    like = {"generator": g, "dtype": torch.float64}
    centres = 6.0 * torch.randn(2, 3, **like)

    def cloud() -> torch.Tensor:
        return centres[torch.randint(2, (128,), generator=g)] + 0.5 * torch.randn(128, 3, **like)

    plan = Entropic(epsilon=0.4)(Snapshot(cloud(), 0.0), Snapshot(cloud(), 1.0))
    assert plan.fallback is None
    assert plan.marginal_error < 1e-6


def test_next_to_no_noise_is_the_exact_plan() -> None:
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
