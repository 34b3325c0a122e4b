"""Affine preprocessing of cells: centring, principal components, whitening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cellflow import _checks, _moments
from cellflow._typing import Tensor


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The affine map ``z = (x - mean) @ loadings / scale``.

    The `mean` has shape ``(d,)``, the positive `scale` ``(k,)``. The `loadings` ``(d, k)`` are
    orthonormal columns; None leaves the dimensions as they are.
    """

    mean: Tensor
    scale: Tensor
    loadings: Tensor | None = None

    def __post_init__(self) -> None:
        ends = (*self.mean.shape, *self.scale.shape)
        inner = 2 * self.mean.shape if self.loadings is None else self.loadings.shape
        if len(ends) != 2 or ends != tuple(inner):
            got = f"a mean and a scale of {ends}, and loadings of {tuple(inner)}"
            raise ValueError(_checks.message("preprocessing", got, "shapes (d,), (k,) and (d, k)"))
        if not bool((self.scale > 0).all() and torch.isfinite(self.scale).all()):
            got = f"scales from {self.scale.min():g} to {self.scale.max():g}"
            raise ValueError(_checks.message("preprocessing", got, "positive ones"))

    @property
    def log_scale(self) -> float:
        """Log-volume, along the components, that the unit cube of model coordinates has in data."""
        return float(self.scale.double().log().sum())

    def apply(self, x: Tensor) -> Tensor:
        """Map cells `x` ``(n, d)`` to model coordinates ``(n, k)``."""
        z = x - self.mean.to(x)
        if self.loadings is not None:
            z = z @ self.loadings.to(x)
        return z.div_(self.scale.to(x))  # in place: one copy of the cells, not two

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


def oriented(basis: Tensor) -> Tensor:
    """Return columns `basis` ``(d, k)`` with a sign of their own: the largest entry is positive.

    So the same cells give the same components everywhere.
    """
    return basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()


def fit_preprocessing(
    x: Tensor | Sequence[Tensor], *, n_components: int | None = None, whiten: bool = False
) -> Preprocessing:
    """Fit a preprocessing on cells, in their dtype and on their device.

    Of cells `x` ``(n, d)``, or several such tensors that are taken together, in two or three passes
    of O(n d²) operations (O(n d) without components), in blocks: beside the cells, memory does not
    grow with their number. It rotates to `n_components` principal components; None keeps the
    dimensions. To `whiten` scales each resulting dimension to unit standard deviation (the
    whitening of the OT-CFM paper, on principal components); an error for a constant dimension.
    """
    xs = [x] if isinstance(x, Tensor) else list(x)
    n, d = sum(map(len, xs)), xs[0].shape[1]
    mean, loadings = _moments.mean(xs), None
    if n_components is not None:
        _checks.count(n_components, "n_components")
        if n_components > min(n, d):
            raise ValueError(_checks.message("n_components", n_components, f"at most {min(n, d)}"))
        loadings = oriented(_moments.directions(xs, mean)[:n_components].T)
    scale = torch.ones(d if n_components is None else n_components).to(mean)
    if whiten:
        scale = _moments.variance(xs, mean, loadings).sqrt()
        # Without a rotation, rounding of the mean; with one, of the largest component.
        size = mean.abs() if loadings is None else scale.max()
        constant = scale <= 4 * torch.finfo(scale.dtype).eps * n**0.5 * size
        if bool(constant.any()):
            got = f"constant dimensions {constant.nonzero()[:, 0].tolist()}"
            remedy = "Drop them, or use fewer."
            raise ValueError(_checks.message("whiten", got, "varying dimensions", remedy))
    loadings = None if loadings is None else loadings.to(xs[0])
    return Preprocessing(mean.to(xs[0]), scale.to(xs[0]), loadings)
