"""What a network may predict on a path from noise: velocity, noise, score or target."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow._typing import Tensor
from cellflow.paths.path import Pairs, Path

#: What a network may predict.
PREDICTIONS = ("velocity", "noise", "score", "target")


@dataclass(frozen=True, eq=False)
class Mix:
    r"""Share of target and noise in :math:`x_s = \alpha_s x_1 + \sigma_s z`, and their rates in s.

    Parameters
    ----------
    alpha, sigma, alpha_rate, sigma_rate
        Of shape ``()`` or ``(n, 1)``; no share is zero.
    """

    alpha: Tensor
    sigma: Tensor
    alpha_rate: Tensor
    sigma_rate: Tensor

    @classmethod
    def of(cls, path: Path, s: Tensor) -> Mix:
        """Shares of a source-free path.

        Parameters
        ----------
        path
            The path, whose mean is a multiple of the target.
        s
            Fractions, shape ``(n, 1)``.
        """
        one = torch.ones_like(s)
        pairs = Pairs(one, one, one, one + 1)
        rates = path.mean_rate(pairs, s), path.std_rate(pairs, s)
        return cls(path.mean(pairs, s), path.std(pairs, s), *rates)

    def to(self, x: Tensor) -> Mix:
        """Return the same in the type and on the device of `x`."""
        return Mix(*(v.to(x) for v in (self.alpha, self.sigma, self.alpha_rate, self.sigma_rate)))

    @property
    def size(self) -> Tensor:
        """Root mean square of the state, where that of targets is one."""
        return torch.hypot(self.alpha, self.sigma)

    def convert(self, value: Tensor, x: Tensor, *, given: str, wanted: str) -> Tensor:
        r"""Return another prediction for the same state (Salimans and Ho 2022, appendix D).

        All are affine in each other given the state, and so are their expectations:
        :math:`u = \dot\alpha x_1 + \dot\sigma z` and, for normal noise, the score is
        :math:`-z/\sigma` :cite:`salimans2022`.

        Parameters
        ----------
        value
            What was predicted, shape ``(n, d)``; a velocity is per unit of s.
        x
            The state, shape ``(n, d)``.
        given, wanted
            Two of ``"velocity"``, ``"noise"``, ``"score"``, ``"target"``.
        """
        a, b, da, db = self.alpha, self.sigma, self.alpha_rate, self.sigma_rate
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
        if wanted == "velocity":
            return da * target + db * noise
        return {"target": target, "noise": noise, "score": -noise / b}[wanted]
