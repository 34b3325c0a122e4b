"""OT-CFM: straight paths between cells paired by minibatch optimal transport."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.training.trainer import Training


def OTCFM(  # noqa: N802 - a method is named as its paper names it
    sigma: float = 0.1,
    *,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Optimal-transport conditional flow matching (Tong et al. 2024, TMLR, section 3.2.3).

    Its flow is the dynamic optimal transport between snapshots as the noise vanishes and the
    coupled blocks grow (their proposition 3.4).

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
    return FlowMatching(Exact(), Straight(sigma), net, batching, training, name="otcfm")
