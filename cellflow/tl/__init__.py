"""Tools: from an AnnData to answers, and back into the AnnData."""

from cellflow import _doors
from cellflow.tl.compare import compare
from cellflow.tl.couple import couple
from cellflow.tl.coupled import Coupled
from cellflow.tl.densities import batch_free, density_ratio, outlier_score
from cellflow.tl.evaluation import holdout
from cellflow.tl.fates import ancestors, fates
from cellflow.tl.fit import fit
from cellflow.tl.forecast import forecast
from cellflow.tl.genes import drivers, gene_trends
from cellflow.tl.groups import composition, transitions
from cellflow.tl.growth import growth
from cellflow.tl.holdout_conditions import holdout_conditions
from cellflow.tl.influence import influence
from cellflow.tl.interpolate import expression, interpolate
from cellflow.tl.perturb import gene_sets, perturb
from cellflow.tl.predict import predict
from cellflow.tl.projection import project_points, project_velocity
from cellflow.tl.simulate import simulate
from cellflow.tl.to_cellrank import to_cellrank
from cellflow.tl.uncertainty import uncertainty
from cellflow.tl.velocity import velocity, velocity_agreement

__all__ = [
    "Coupled",
    "ancestors",
    "batch_free",
    "compare",
    "composition",
    "couple",
    "density_ratio",
    "drivers",
    "expression",
    "fates",
    "fit",
    "forecast",
    "gene_sets",
    "gene_trends",
    "growth",
    "holdout",
    "holdout_conditions",
    "influence",
    "interpolate",
    "outlier_score",
    "perturb",
    "predict",
    "project_points",
    "project_velocity",
    "simulate",
    "to_cellrank",
    "transitions",
    "uncertainty",
    "velocity",
    "velocity_agreement",
]


_doors.guard(__name__)
