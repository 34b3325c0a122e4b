"""Bases of a likelihood: what is known of the population's density at one time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from cellflow import _checks
from cellflow._random import systematic
from cellflow._typing import Tensor
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density
from cellflow.timecourse import Snapshot

#: Components at most, and cells by which they are fitted.
COMPONENTS, CELLS = 12, 5000


def gaussian_mixture(snapshot: Snapshot) -> MixtureSameFamily:
    """Return the mixture of normal laws of the cells of `snapshot`, by mass, with the least BIC.

    Components are added for as long as the criterion falls, with full covariances or with diagonal
    ones, whichever has less of it; up to 5,000 cells are looked at. It has ``log_prob`` and
    ``sample``, in the dtype and on the device of the cells.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = snapshot.x.detach()
    rows = systematic(snapshot.weights, min(len(x), CELLS), torch.Generator().manual_seed(0))
    cells = x[rows.to(x.device)].cpu().double().numpy()
    cells = cells.repeat(2, 0) if len(cells) == 1 else cells  # the least that it takes
    floor = max(1e-6 * float(cells.var(0).mean()), 1e-12 * float((cells**2).mean()), 1e-30)
    most = min(COMPONENTS, max(1, len(np.unique(cells, axis=0)) // 2))
    tried: list[tuple[float, int, GaussianMixture]] = []
    for kind in ("full", "diag"):
        for k in range(1, most + 1):
            law = GaussianMixture(k, covariance_type=kind, reg_covar=floor, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                tried.append((float(law.fit(cells).bic(cells)), len(tried), law))
            if k > 1 and tried[-1][0] >= tried[-2][0]:
                break
    best = min(tried)[-1]
    weights, means, covs = map(torch.from_numpy, (best.weights_, best.means_, best.covariances_))
    root = torch.linalg.cholesky(torch.diag_embed(covs) if covs.ndim == 2 else covs)
    normals = MultivariateNormal(means.to(x), scale_tril=root.to(x))
    return MixtureSameFamily(Categorical(weights.to(x)), normals)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Density of a `base` in data coordinates, at cells in the model's.

    Of a `preprocessing` that drops no dimension: a projection has no inverse.
    """

    base: Density
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        d, k = len(self.preprocessing.mean), len(self.preprocessing.scale)
        if k < d:
            expected = f"None: a fit on {k} components of {d} has no density in all {d}"
            remedy = "Use cellflow.simulate.log_likelihood(fit.dynamics, ...) on the components."
            raise ValueError(_checks.message("base", type(self.base).__name__, expected, remedy))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density at cells `z` ``(n, k)``, with respect to these coordinates: ``(n,)``."""
        prep = self.preprocessing
        return self.base.log_prob(prep.invert(z)) + prep.log_scale
