"""What fitting returns."""

from cellflow import _doors
from cellflow.fits.ensemble import Ensemble, EnsembleTrajectory, Interpolation, Spread
from cellflow.fits.evidence import evidence
from cellflow.fits.fit import Fit

__all__ = ["Ensemble", "EnsembleTrajectory", "Fit", "Interpolation", "Spread", "evidence"]

_doors.guard(__name__)
