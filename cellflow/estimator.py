"""The scikit-learn face: an estimator that carries points to a normal law, or another cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state, validation

from cellflow import _checks
from cellflow._typing import ArrayLike
from cellflow.densities import Density
from cellflow.methods import Generative, Method, match

#: Draws of the normal law, at least.
_DRAWS = 2000


class FlowTransport(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Carry points to the standard normal law, or to another cloud, and back.

    As a step of a pipeline it makes any features normal; with a `target` it adapts points of one
    domain to another, without pairs: ``FlowTransport(target=X_old).fit(X_new)``. The target is a
    setting and not `y`, which in a pipeline holds classes. Whatever the target, the model is one
    of `X`: :meth:`sample` draws such points and :meth:`score_samples` is their log density.

    Parameters
    ----------
    method
        As in :func:`cellflow.match`.
    target
        Points ``(m, d)`` to carry to; the standard normal law when omitted.
    steps
        Budget of training steps; by default the method says how many.
    random_state
        Seed of everything random, a ``numpy.random.RandomState``, or None.
    device, progress
        Where to compute, the CPU when omitted; and whether to show a bar on standard error.

    Attributes
    ----------
    matching_
        Matching from the target to the points fitted, a :class:`~cellflow.methods.Matching`.
    n_features_in_
        Number of features.
    """

    def __init__(
        self,
        method: str | Method | Density | Generative = "otcfm",
        *,
        target: ArrayLike | None = None,
        steps: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.steps = steps
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def fit(self, X: ArrayLike, y: object = None) -> FlowTransport:
        """Learn to carry points `X` ``(n, d)`` to the target; `y` is not looked at."""
        points = _checks.as_cells(self._points(X, fitting=True), "X")
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(2**31 - 1))
        n, dim = points.shape
        target = self.target
        if target is None:
            target = rng.standard_normal((max(_DRAWS, n), dim))
        target = _checks.as_cells(target, "target", dim=dim).to(points)
        how: dict[str, Any] = {"device": self.device, "progress": self.progress}
        self.matching_ = match(target, points, self.method, steps=self.steps, generator=seed, **how)
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return points `X` ``(n, d)`` carried to the target."""
        points = self._points(X)  # first: it asks whether this was fitted
        return self.matching_.inverse(points).cpu().numpy()

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Return points `X` ``(n, d)`` of the target, carried back."""
        validation.check_is_fitted(self)
        return self.matching_.transport(X).cpu().numpy()

    def sample(self, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw `n_samples` points like those fitted, by the seed `random_state`: ``(n, d)``.

        They are points of the target, or draws of the normal law, carried back.
        """
        validation.check_is_fitted(self)
        rng, seen = check_random_state(random_state), self.matching_.course.snapshots[0].x
        n = _checks.count(n_samples, "n_samples")
        if self.target is None:
            drawn = torch.from_numpy(rng.standard_normal((n, seen.shape[1])))
            return self.inverse_transform(drawn.to(seen))
        return self.inverse_transform(seen[rng.randint(len(seen), size=n)])

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Return the log density at points `X` ``(n, d)`` of those fitted: ``(n,)``."""
        points = self._points(X)
        return self.matching_.log_prob(points).cpu().numpy()

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Return the mean log density at points `X` ``(n, d)``; `y` is not looked at."""
        return float(self.score_samples(X).mean())

    def _points(self, X: ArrayLike, fitting: bool = False) -> np.ndarray:
        """Return `X` as an array, with as many features as were fitted."""
        if not fitting:
            validation.check_is_fitted(self)
        how: dict[str, Any] = {"reset": fitting, "dtype": [np.float64, np.float32]}
        how["ensure_min_samples"] = 2 if fitting else 1
        if hasattr(validation, "validate_data"):
            return validation.validate_data(self, X, **how)
        return self._validate_data(X, **how)  # scikit-learn before 1.6
