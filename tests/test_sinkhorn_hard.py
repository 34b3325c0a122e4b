"""Entropic plans where bare Newton steps lead nowhere."""

from __future__ import annotations

import torch

from cellflow.couplings import Entropic
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
