"""Problems with exact answers, and seeded clouds to play with."""

from cellflow import _doors
from cellflow.toys.drugs import TOGGLE, DosedGaussians, ToggleSwitch
from cellflow.toys.exact import Gaussian, GaussianBridge, cycle
from cellflow.toys.genes import BIFURCATING, TRIFURCATING, GeneNetwork
from cellflow.toys.samplers import eight_gaussians, moons

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
    "moons",
]


_doors.guard(__name__)
