"""What fitting returns."""

from cellflow.fits.answers import EnsembleTrajectory, Interpolation, Spread
from cellflow.fits.ensemble import Ensemble
from cellflow.fits.fit import Fit

__all__ = ["Ensemble", "EnsembleTrajectory", "Fit", "Interpolation", "Spread"]
