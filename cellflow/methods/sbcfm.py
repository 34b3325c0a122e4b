"""SB-CFM: Brownian bridges between cells paired by entropic optimal transport."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings import Entropic
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import BrownianBridge
from cellflow.training.trainer import Training


def SBCFM(  # noqa: N802 - a method is named as its paper names it
    sigma: float = 1.0,
    *,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Schrödinger-bridge conditional flow matching (Tong et al. 2024, TMLR, section 3.2.4).

    Plans of regularisation ``sigma² · span`` feed Brownian bridges; the learned flow is the
    probability-flow ODE of the Schrödinger bridge (their proposition 3.5).

    Parameters
    ----------
    sigma
        Diffusion, in model coordinates per square root of time; positive.
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
        If `sigma` is not positive.
    """
    return FlowMatching(
        Entropic(sigma=sigma), BrownianBridge(sigma), net, batching, training, name="sbcfm"
    )
