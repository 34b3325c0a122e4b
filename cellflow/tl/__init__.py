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
    # Pair cells, and fit
    "fit",
    "couple",
    "Coupled",
    # Is it to be trusted?
    "holdout",
    "holdout_conditions",
    "velocity_agreement",
    "uncertainty",
    "outlier_score",
    # Cells of another time or condition
    "interpolate",
    "expression",
    "forecast",
    "predict",
    "simulate",
    "velocity",
    # What becomes of cells
    "fates",
    "ancestors",
    "transitions",
    "composition",
    "growth",
    # Genes
    "drivers",
    "gene_trends",
    "perturb",
    "gene_sets",
    "influence",
    # Conditions and batches
    "compare",
    "density_ratio",
    "batch_free",
    # On a map
    "project_points",
    "project_velocity",
    # To another package
    "to_cellrank",
]


_doors.guard(__name__)
