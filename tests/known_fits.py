"""Dynamics that are known, on a line whose cells are labelled by their side, as fits."""

from __future__ import annotations

import torch
from torch import nn

from cellflow import OTCFM, SF2M
from cellflow.dynamics import Dynamics
from cellflow.fits import Fit
from cellflow.timecourse import Snapshot, TimeCourse

SIGMA, SPAN = 0.8, 2.0


def course() -> TimeCourse:
    """Cells on a line, at the end labelled by their side, with 2,000 of them around the border."""
    line = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    sides = ["left" if x < 0 else "right" for x in line[:, 0].tolist()]
    start = Snapshot(torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None], 0.0)
    return TimeCourse((start, Snapshot(line, SPAN, labels=sides)))


def fit(velocity, growth=None, sigma: float = SIGMA) -> Fit:
    """Dynamics that are known, as a fit: a drift without a score is that of an SDE."""
    score = (lambda t, x: torch.zeros_like(x)) if sigma else None
    known = Dynamics(velocity, score=score, growth=growth, sigma=sigma)
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    return Fit(known, SF2M(sigma) if sigma else OTCFM(), course(), networks)
