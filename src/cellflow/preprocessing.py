"""Affine preprocessing of cells: centring, principal components, whitening."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import Tensor


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The affine map ``z = (x - mean) @ loadings / scale``.

    Parameters
    ----------
    mean
        Subtracted first, shape ``(d,)``.
    scale
        Divided by last, shape ``(k,)``, positive.
    loadings
        Orthonormal columns, shape ``(d, k)``; None leaves the dimensions as they are.
    """

    mean: Tensor
    scale: Tensor
    loadings: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Map cells `x` ``(n, d)`` to model coordinates ``(n, k)``."""
        z = x - self.mean.to(x)
        if self.loadings is not None:
            z = z @ self.loadings.to(x)
        return z / self.scale.to(x)

    def invert(self, z: Tensor) -> Tensor:
        """Map model coordinates `z` ``(n, k)`` back to the data's ``(n, d)``."""
        return self.invert_vectors(z) + self.mean.to(z)

    def invert_vectors(self, v: Tensor) -> Tensor:
        """Map displacements or velocities `v` ``(n, k)`` back, without the shift."""
        x = v * self.scale.to(v)
        return x if self.loadings is None else x @ self.loadings.to(v).T

    def invert_gradients(self, g: Tensor) -> Tensor:
        """Map gradients `g` in ``z``, shape ``(n, k)``, to gradients in ``x``."""
        x = g / self.scale.to(g)
        return x if self.loadings is None else x @ self.loadings.to(g).T


def fit_preprocessing(
    x: Tensor, *, n_components: int | None = None, whiten: bool = False
) -> Preprocessing:
    """Fit a preprocessing on cells.

    Parameters
    ----------
    x
        Cells, shape ``(n, d)``.
    n_components
        Principal components to rotate to; None keeps the dimensions.
    whiten
        Whether to scale each resulting dimension to unit standard deviation (the whitening of
        the OT-CFM paper, on principal components).

    Returns
    -------
    The preprocessing, in the dtype and on the device of `x`.

    Raises
    ------
    ValueError
        If there are fewer cells or dimensions than components, or a dimension is constant and
        cannot be whitened.
    """
    z = x.double()
    mean = z.mean(0)
    z = z - mean
    loadings = None
    if n_components is not None:
        _checks.count(n_components, "n_components")
        if n_components > min(x.shape):
            raise ValueError(
                _checks.message("n_components", n_components, f"at most {min(x.shape)}")
            )
        basis = torch.linalg.svd(z, full_matrices=False).Vh[:n_components].T
        # A sign convention, so that the same cells give the same components everywhere.
        sign = basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        loadings = basis * sign
        z = z @ loadings
    scale = torch.ones(z.shape[1], dtype=z.dtype, device=z.device)
    if whiten:
        scale = z.std(0, correction=0)
        # Without a rotation, rounding of the mean; with one, of the largest component.
        size = mean.abs() if loadings is None else scale.max()
        constant = scale <= 4 * torch.finfo(z.dtype).eps * len(z) ** 0.5 * size
        if bool(constant.any()):
            got = f"constant dimensions {constant.nonzero()[:, 0].tolist()}"
            raise ValueError(
                _checks.message("whiten", got, "varying dimensions", "Drop them, or use fewer.")
            )
    return Preprocessing(mean.to(x), scale.to(x), None if loadings is None else loadings.to(x))
