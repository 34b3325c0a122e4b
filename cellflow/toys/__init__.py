"""Problems with exact answers, and seeded clouds to play with."""

from cellflow import _doors
from cellflow.toys.drugs import TOGGLE, DosedGaussians, ToggleSwitch
from cellflow.toys.exact import (
    Gaussian,
    GaussianBridge,
    cycle,
    gaussian_bridge,
    gaussian_displacement,
    gaussian_ot_map,
    gaussian_w2,
    linear_flow,
)
from cellflow.toys.genes import BIFURCATING, TRIFURCATING, GeneNetwork
from cellflow.toys.samplers import eight_gaussians, gaussian, moons, s_curve

__all__ = [
    "BIFURCATING",
    "TOGGLE",
    "TRIFURCATING",
    "DosedGaussians",
    "Gaussian",
    "GaussianBridge",
    "GeneNetwork",
    "ToggleSwitch",
    "cycle",
    "eight_gaussians",
    "gaussian",
    "gaussian_bridge",
    "gaussian_displacement",
    "gaussian_ot_map",
    "gaussian_w2",
    "linear_flow",
    "moons",
    "s_curve",
]


_doors.guard(__name__)
