"""Transport between normal laws, where every answer is known in closed form (float64)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal law of `mean` ``(d,)`` and `cov` ``(d, d)``, symmetric and positive semidefinite.

    Numbers of any kind, kept as float64 tensors.
    """

    mean: Tensor
    cov: Tensor

    if TYPE_CHECKING:  # arrays are converted

        def __init__(self, mean: ArrayLike, cov: ArrayLike) -> None: ...

    def __post_init__(self) -> None:
        mean = torch.as_tensor(self.mean, dtype=torch.float64)
        if mean.ndim != 1:
            raise ValueError(_checks.message("mean", f"shape {tuple(mean.shape)}", "shape (d,)"))
        _checks.as_cells(mean[None], "mean")
        cov = _checks.as_cells(torch.as_tensor(self.cov, dtype=torch.float64), "cov", dim=len(mean))
        if cov.shape[0] != cov.shape[1]:
            expected = f"shape ({len(mean)}, {len(mean)})"
            raise ValueError(_checks.message("cov", f"shape {tuple(cov.shape)}", expected))
        size = float(cov.abs().max())
        if float((cov - cov.T).abs().max()) > 1e-6 * size:
            raise ValueError(_checks.message("cov", "an asymmetric matrix", "a symmetric one"))
        cov = (cov + cov.T) / 2
        lowest = float(torch.linalg.eigvalsh(cov)[0])
        if lowest < -1e-6 * size:
            got = f"a lowest eigenvalue of {lowest:g}"
            raise ValueError(_checks.message("cov", got, "a positive semidefinite matrix"))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "cov", cov.to(mean.device))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return len(self.mean)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log-density at cells ``(n, d)``, in the dtype of `x`."""
        centred = x.double() - self.mean
        return -torch.linalg.solve(self.cov, centred.T).T.to(x.dtype)


def matrix_root(cov: Tensor) -> Tensor:
    """Symmetric square root of `cov`, a positive semidefinite ``(d, d)`` matrix."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


def gaussian_w2(source: Gaussian, target: Gaussian) -> float:
    r"""Wasserstein-2 distance of two normal laws (Gelbrich 1990).

    .. math::
        W_2^2 = |m_0 - m_1|^2
        + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    for `source` and `target` of equal dimension, and the full squared cost; in data units.
    """
    _same_dim(source, target)
    root = matrix_root(source.cov)
    spread = torch.trace(source.cov + target.cov - 2.0 * matrix_root(root @ target.cov @ root))
    return float((source.mean - target.mean).square().sum() + spread.clamp(min=0.0)) ** 0.5


def gaussian_ot_map(source: Gaussian, target: Gaussian) -> tuple[Tensor, Tensor]:
    """Affine Monge map ``x -> A x + b`` of the squared cost between two normal laws.

    :math:`A = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}` and :math:`b = m_1 - A m_0`,
    for `source` and `target` of equal dimension, `source` not singular. Returns the symmetric
    matrix ``(d, d)`` and the offset ``(d,)``: move cells with ``x @ A.T + b``.
    """
    _same_dim(source, target)
    _regular(source)
    root = matrix_root(source.cov)
    inverse = torch.linalg.inv(root)
    matrix = inverse @ matrix_root(root @ target.cov @ root) @ inverse
    matrix = (matrix + matrix.T) / 2
    return matrix, target.mean - matrix @ source.mean


def gaussian_displacement(t: float, source: Gaussian, target: Gaussian) -> Gaussian:
    """Displacement interpolation: the law of ``(1 − t) X + t (A X + b)`` (McCann 1997).

    `t` is the fraction of the way from `source`, which is not singular, to `target`.
    """
    t = _checks.number(t, "t", low=0.0, high=1.0)
    matrix, offset = gaussian_ot_map(source, target)
    eye = torch.eye(source.dim, dtype=torch.float64, device=matrix.device)
    step = (1.0 - t) * eye + t * matrix
    return Gaussian(step @ source.mean + t * offset, step @ source.cov @ step.T)


def _same_dim(source: Gaussian, target: Gaussian) -> None:
    if source.dim != target.dim:
        got, expected = f"{target.dim} dimensions", f"{source.dim} as in `source`"
        raise ValueError(_checks.message("target", got, expected))


def _regular(source: Gaussian) -> None:
    values = torch.linalg.eigvalsh(source.cov)
    if float(values[0]) <= 1e-12 * float(values[-1]):
        got, expected = "a singular covariance", "a positive definite one"
        raise ValueError(_checks.message("source", got, expected))
