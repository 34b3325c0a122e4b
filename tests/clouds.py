"""Cells in one cloud, and in clusters, for couplings."""

from __future__ import annotations

import torch

from cellflow.timecourse import Snapshot


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def snapshots(n=1000, m=None, *, d=5, masses=False, seed=0):
    """Three clusters, of other shares and places in the target."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for size, shares, time in ((n, (0.5, 0.3, 0.2), 0.0), (m or n, (0.3, 0.3, 0.4), 1.0)):
        which = torch.multinomial(torch.tensor(shares), size, replacement=True, generator=g)
        centres = 2 * torch.randn(3, d, generator=g, dtype=torch.float64)
        x = centres[which] + torch.randn(size, d, generator=g, dtype=torch.float64)
        mass = torch.rand(size, generator=g, dtype=torch.float64) + 0.1 if masses else None
        out.append(Snapshot(x, time, mass))
    return out
