"""I-CFM: straight paths between cells paired at random."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings import Independent
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.training.trainer import Training


def ICFM(  # noqa: N802 - a method is named as its paper names it
    sigma: float = 0.1,
    *,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Independent conditional flow matching (Tong et al. 2024, TMLR, section 3.2.2).

    Cells are paired without regard to distance, so paths cross and flows bend: the baseline that
    couplings are measured against.

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
    return FlowMatching(Independent(), Straight(sigma), net, batching, training, name="icfm")
