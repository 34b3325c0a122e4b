"""MMFM: splines through chains of cells paired by optimal transport."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Spline
from cellflow.training.trainer import Training


def MMFM(  # noqa: N802 - a method is named as its paper names it
    sigma: float = 0.1,
    *,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Multi-marginal flow matching (Rohbeck et al. 2025, ICLR) with exact plans.

    Cells are paired as by OT-CFM, and meet on natural cubic splines through the cells' partners
    in the snapshots before and after (:func:`cellflow.batches.spline_rates`), so that the flow
    does not turn a corner at a snapshot. It pays where snapshots are dense enough for a spline:
    more than some three in every turn of the motion. With two snapshots it is OT-CFM.

    Parameters
    ----------
    sigma
        Constant standard deviation of the path, in model coordinates.
    net
        Shape of the network.
    batching
        How pairs are made.
    training
        How the network is trained.

    Returns
    -------
    FlowMatching
        The method, ready to fit.

    Raises
    ------
    ValueError
        If `sigma` is negative.
    """
    return FlowMatching(Exact(), Spline(sigma), net, batching, training, name="mmfm")
