"""Flows and mixtures of zuko, as densities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from cellflow import _checks
from cellflow.densities.density import DENSITIES, Density, zuko


@dataclass(frozen=True)
class ZukoFlow(Density):
    """Flow whose layers are steered by perceptrons.

    Parameters
    ----------
    transforms
        Number of layers.
    width, depth
        Hidden units and hidden layers of each perceptron.
    """

    transforms: int = 3
    width: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("transforms", "width", "depth"):
            _checks.count(getattr(self, name), name)

    @property
    def shape(self) -> dict[str, Any]:
        """What every flow of zuko is given."""
        return {"transforms": self.transforms, "hidden_features": (self.width,) * self.depth}


@DENSITIES.register("nsf")
@dataclass(frozen=True)
class NSF(ZukoFlow):
    """Neural spline flow :cite:`durkan2019`: autoregressive rational-quadratic splines.

    Parameters
    ----------
    bins
        Pieces of each spline, between -5 and 5 standard deviations; beyond, cells stay as they are.
    """

    bins: int = 8

    def build(self, dim: int) -> nn.Module:
        """Return the flow of `dim` dimensions."""
        return zuko().NSF(dim, bins=self.bins, **self.shape)
