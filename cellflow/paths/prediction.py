"""What a network may predict on a path from noise: velocity, noise, score or target."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.paths.path import Pairs, Path

#: What a network may predict.
PREDICTIONS = ("velocity", "noise", "score", "target")


class Mix(NamedTuple):
    r"""Shares of target and noise in :math:`x_s = \alpha_s x_1 + \sigma_s z`, and their rates in s.

    All are of shape ``()`` or ``(n, 1)``.
    """

    alpha: Tensor
    sigma: Tensor
    alpha_rate: Tensor
    sigma_rate: Tensor

    @classmethod
    def of(cls, path: Path, s: Tensor, like: Tensor) -> Mix:
        """Return those of a source-free `path` at `s` ``(n, 1)``, in the type of `like`."""
        one = torch.ones_like(s)
        pairs = Pairs(one, one, one, one + 1)
        given = path.mean, path.std, path.mean_rate, path.std_rate
        return cls(*(share(pairs, s).to(like) for share in given))

    @property
    def size(self) -> Tensor:
        """Root mean square of the state, where that of targets is one."""
        return torch.hypot(self.alpha, self.sigma)

    def convert(self, value: Tensor, x: Tensor, *, given: str, wanted: str) -> Tensor:
        r"""Return what is `wanted` at states `x` ``(n, d)``, of a `value` that is `given`.

        Both are of `PREDICTIONS`, a velocity per unit of s. Given the state they are affine in each
        other (:cite:`salimans2022`, appendix D), and so are their expectations: the velocity is
        :math:`\dot\alpha x_1 + \dot\sigma z`, the score of normal noise :math:`-z/\sigma`.
        """
        a, b, da, db = self
        if given == wanted:
            return value
        if given == "target":
            target, noise = value, (x - a * value) / b
        elif given == "velocity":
            both = a * db - b * da
            target, noise = (db * x - b * value) / both, (a * value - da * x) / both
        else:
            noise = -b * value if given == "score" else value
            target = (x - b * noise) / a
        velocity = da * target + db * noise
        return {"target": target, "noise": noise, "score": -noise / b}.get(wanted, velocity)
