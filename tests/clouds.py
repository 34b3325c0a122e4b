"""Cells for couplings: in clusters, around two points, and of embryoid bodies."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch
from scipy.spatial.distance import cdist

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


def pair(n=20, m=14, *, d=3, masses=(None, None), span=1.0):
    """Two normal clouds, the later one shifted and wider; `masses` are the least ones, or none."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randn(m, d, generator=g, dtype=torch.float64) * 1.3 + 0.5
    weights = [
        None if least is None else torch.rand(k, generator=g, dtype=torch.float64) + least
        for k, least in zip((n, m), masses, strict=True)
    ]
    return Snapshot(x, 0.0, weights[0]), Snapshot(y, span, weights[1])


def embryoid(dim, n, m):
    """Cells of the first two times, in raw principal components."""
    with (
        resources.as_file(resources.files("cellflow.datasets") / "embryoid.npz") as path,
        np.load(path) as stored,
    ):
        x, t = stored["X"][:, :dim], stored["t"]
    return Snapshot(torch.tensor(x[t == 0][:n]), 0.0), Snapshot(torch.tensor(x[t == 1][:m]), 1.0)


def half_cost(source, target):
    return 0.5 * cdist(source.x.double(), target.x.double(), "sqeuclidean")
