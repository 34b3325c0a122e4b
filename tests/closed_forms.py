"""Closed forms of optimal transport between normal laws, by POT, and of linear flows, by SciPy."""

from __future__ import annotations

import numpy as np
import ot
import torch
from scipy.linalg import expm

from cellflow.toys import Gaussian

Tensor = torch.Tensor


def gaussian_w2(source: Gaussian, target: Gaussian) -> float:
    """Wasserstein-2 distance."""
    laws = source.mean, target.mean, source.cov, target.cov
    return float(ot.gaussian.bures_wasserstein_distance(*laws))


def gaussian_ot_map(source: Gaussian, target: Gaussian) -> tuple[Tensor, Tensor]:
    """Matrix and offset of the Monge map, by which cells move as ``x @ A.T + b``."""
    laws = source.mean, target.mean, source.cov, target.cov
    return ot.gaussian.bures_wasserstein_mapping(*laws)


def gaussian_displacement(s: float, source: Gaussian, target: Gaussian) -> Gaussian:
    """Law at the share `s` of the way from `source` to `target`."""
    matrix, offset = gaussian_ot_map(source, target)
    step = (1 - s) * torch.eye(source.dim, dtype=matrix.dtype) + s * matrix
    return Gaussian(step @ source.mean + s * offset, step @ source.cov @ step.T)


def linear_flow(t: float, x0: Tensor, *, matrix, offset=None) -> Tensor:
    """Where ``dx/dt = A x + b`` takes the cells `x0` ``(n, d)`` in a time `t`."""
    matrix = np.asarray(matrix, dtype=float)
    offset = np.zeros((len(matrix), 1)) if offset is None else np.asarray(offset)[:, None]
    generator = np.block([[matrix, offset], [np.zeros((1, len(matrix) + 1))]])
    flow = torch.from_numpy(expm(float(t) * generator)).to(x0)
    return x0 @ flow[:-1, :-1].T + flow[:-1, -1]
