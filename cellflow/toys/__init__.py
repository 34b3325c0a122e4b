"""Problems with exact answers, and seeded clouds to play with."""

from cellflow import _doors
from cellflow.toys.exact import (
    Gaussian,
    GaussianBridge,
    gaussian_bridge,
    gaussian_displacement,
    gaussian_ot_map,
    gaussian_w2,
    linear_flow,
)
from cellflow.toys.genes import BIFURCATING, TRIFURCATING, GeneNetwork
from cellflow.toys.samplers import eight_gaussians, gaussian, moons, s_curve

__all__ = ["BIFURCATING", "TRIFURCATING", "Gaussian", "GaussianBridge", "GeneNetwork"]
__all__ += ["eight_gaussians", "gaussian", "gaussian_bridge", "gaussian_displacement"]
__all__ += ["gaussian_ot_map", "gaussian_w2", "linear_flow", "moons", "s_curve"]

_doors.guard(__name__)
