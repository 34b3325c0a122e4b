"""What fitting returns."""

from cellflow.fits.ensemble import Ensemble, EnsembleTrajectory, Interpolation, Spread
from cellflow.fits.fit import Fit

__all__ = ["Ensemble", "EnsembleTrajectory", "Fit", "Interpolation", "Spread"]
