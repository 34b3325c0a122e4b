"""Flows and mixtures of zuko, as densities: each member is its name, its paper and a call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.densities.density import DENSITIES, Density, zuko


@DENSITIES.register("nice")
@dataclass(frozen=True)
class NICE(Density):
    r"""Additive couplings, :math:`y_b = x_b + m(x_a)`, and one scaling at the end.

    Of :cite:t:`dinh2015`. Fast both ways; its layers keep volumes, so that clusters of unequal
    spread are beyond it.
    """

    def build(self, dim: int) -> nn.Module:
        add = {"univariate": zuko("transforms").AdditiveTransform, "shapes": [()]}
        flow = zuko().NICE(dim, **add, **self.layers)
        flow.transform.transforms.append(zuko().ElementWiseTransform(dim))
        return flow


@DENSITIES.register("realnvp")
@dataclass(frozen=True)
class RealNVP(Density):
    r"""Affine couplings, :math:`y_b = e^{s(x_a)} x_b + t(x_a)`.

    Of :cite:t:`dinh2017`. Fast both ways, for many dimensions or many samples; thin bridges of
    density remain between clusters.
    """


@DENSITIES.register("maf")
@dataclass(frozen=True)
class MAF(Density):
    r"""Masked autoregressive flow, :math:`z_i = e^{a(x_{<i})} x_i + b(x_{<i})`.

    Of :cite:t:`papamakarios2017`. Likelihoods are fast; samples take a pass for each dimension.
    """


@DENSITIES.register("iaf")
@dataclass(frozen=True)
class IAF(Density):
    r"""Inverse autoregressive flow, :math:`x_i = e^{a(z_{<i})} z_i + b(z_{<i})`.

    Of :cite:t:`kingma2016`. Samples are fast; likelihoods, and so training by them, take a pass for
    each dimension.
    """

    def build(self, dim: int) -> nn.Module:
        flow = zuko().MAF(dim, **self.layers)
        return zuko().Flow(flow.transform.inv, flow.base)


@DENSITIES.register("naf")
@dataclass(frozen=True)
class NAF(Density):
    r"""Neural autoregressive flow, :math:`z_i = f(x_i; \theta(x_{<i}))`, `f` a monotone network.

    Of :cite:t:`huang2018`. Smooth and flexible; samples take bisections. A report that zuko's gives
    likelihoods above the truth (its issue 55) does not hold here: fitted to a known mixture in 2-D,
    it stays 0.03 nats below on fresh cells, and integrates to one within 1e-4.
    """

    size: int = 2


@DENSITIES.register("unaf")
@dataclass(frozen=True)
class UNAF(Density):
    r"""Unconstrained monotone flow, :math:`z_i = b + \int_0^{x_i} g(u; \theta(x_{<i})) du, g > 0`.

    Of :cite:t:`wehenkel2019`. Smooth and flexible; the slowest, by quadratures and bisections.
    """

    size: int = 2

    def build(self, dim: int) -> nn.Module:
        return zuko().UNAF(dim, network={"hidden_features": (16, 16)}, **self.layers)


@DENSITIES.register("nsf")
@dataclass(frozen=True)
class NSF(Density):
    r"""Neural spline flow, :math:`z_i = f(x_i; \theta(x_{<i}))`, `f` a rational-quadratic spline.

    Of :cite:t:`durkan2019`. The first to try: sharp, and exact to invert; samples take a pass for
    each dimension.

    Parameters
    ----------
    size
        Number of layers.
    bins
        Pieces of a spline, between -5 and 5 standard deviations; beyond, it is the identity.
    """

    size: int = 3
    bins: int = 8

    def build(self, dim: int) -> nn.Module:
        return zuko().NSF(dim, bins=_checks.count(self.bins, "bins", low=2), **self.layers)


@DENSITIES.register("gmm")
@dataclass(frozen=True)
class GMM(Density):
    r"""Gaussian mixture, :math:`p(x) = \sum_k w_k \mathcal N(x; \mu_k, \Sigma_k)`.

    Of :cite:t:`dempster1977`. First by scikit-learn, then by gradients as far as held-back
    cells agree. For few cells. Its `size` is the number of components; it has a density, but no
    layers, and no map to a normal base.
    """

    invertible: ClassVar[bool] = False

    def build(self, dim: int) -> nn.Module:
        return zuko().GMM(dim, components=self.size)

    @torch.no_grad()
    def start(self, flow: Any, z: Tensor) -> None:
        from sklearn.mixture import GaussianMixture

        seed = int(torch.randint(2**31, ()))
        found = GaussianMixture(self.size, reg_covar=1e-4, max_iter=1000, random_state=seed)
        found.fit(z.cpu().double().numpy())
        root = torch.linalg.cholesky(torch.from_numpy(found.covariances_))
        rows, cols = torch.tril_indices(z.shape[1], z.shape[1], offset=-1)
        weights, means = map(torch.from_numpy, (found.weights_, found.means_))
        parts = weights.log(), means, root.diagonal(dim1=1, dim2=2).log(), root[:, rows, cols]
        for parameter, value in zip(flow.phi, parts, strict=True):
            parameter.copy_(value)


@torch.no_grad()
def normalise(density: Density, flow: Any, z: Tensor) -> None:
    """Let element-wise layers of `flow`, of any `density`, give cells `z` mean 0 and variance 1."""
    for layer in flow.transform.transforms:
        if isinstance(layer, zuko().ElementWiseTransform):
            std, mean = torch.std_mean(z, 0, correction=0)
            log = -std.clamp(min=1e-2).log()
            layer.phi[0].copy_(-mean * log.exp())
            layer.phi[1].copy_(log / (1 + log.abs() / math.log(1e-3)))  # zuko's smallest slope
        z = layer()(z)


@DENSITIES.register("glow")
@dataclass(frozen=True)
class Glow(Density):
    r"""Glow for vectors: layers :math:`y = s \odot x + b`, :math:`y = L U P x`, affine coupling.

    Of :cite:t:`kingma2018`. Each layer normalises (first so that the cells have mean zero and
    variance one), permutes and mixes linearly, with triangular `L` and `U`, and scales and shifts
    one half by the other. Fast both ways, for correlated dimensions.
    """

    def build(self, dim: int) -> nn.Module:
        flow, layers, transforms = couplings(self, dim), [], zuko("transforms")
        once = zuko().UnconditionalTransform
        for coupling in flow.transform.transforms:
            order = once(transforms.PermutationTransform, torch.randperm(dim), buffer=True)
            mix = once(transforms.LULinearTransform, torch.eye(dim))
            layers += [zuko().ElementWiseTransform(dim), order, mix, coupling]
        return zuko().Flow(layers, flow.base)

    start = normalise


def couplings(density: Density, dim: int) -> Any:
    """Return a flow of affine couplings of `dim` dimensions, as `density` says, that rest."""
    flow = zuko().RealNVP(dim, **density.layers)
    for coupling in flow.transform.transforms:
        for parameter in list(coupling.parameters())[-2:]:
            nn.init.zeros_(parameter)
    return flow
