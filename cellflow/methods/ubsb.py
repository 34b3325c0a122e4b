"""Schrödinger bridges for cells that divide and die."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings import Unbalanced
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.sf2m import RELATIVE_SIGMA
from cellflow.networks import MLPConfig
from cellflow.paths import BrownianBridge
from cellflow.training.trainer import Training


def UBSB(  # noqa: N802 - a method is named by its initials
    sigma: float | None = None,
    *,
    relaxation: float | None = 1.0,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    r"""Unbalanced Schrödinger bridges: [SF]2M with growth rates.

    Entropic plans with soft marginals feed Brownian bridges whose mass changes on the way;
    velocity, score and growth of
    :math:`dX = (v + \tfrac12\sigma^2\nabla\log p)\,dt + \sigma\,dW`, :math:`d\log m = g\,dt` are
    learned together (Tong et al. 2023, [SF]2M, for the bridge; Chen, Georgiou and Pavon, 2022,
    "The most likely evolution of diffusing and vanishing particles", for what it stands for).

    Parameters
    ----------
    sigma
        Diffusion, in model coordinates per square root of time; as in
        :func:`~cellflow.methods.SF2M` when omitted.
    relaxation
        How strongly the source's marginal (or its prior growth) is held, in units of the mean
        cost: see :class:`~cellflow.couplings.Unbalanced`. None believes it entirely.
    net
        Shape of each of the three networks.
    batching
        How pairs are made.
    training
        How the networks are trained.

    Returns
    -------
    FlowMatching
        The method, ready to fit.

    Raises
    ------
    ValueError
        If `sigma` or `relaxation` is not positive.
    """
    size = RELATIVE_SIGMA if sigma is None else sigma
    return FlowMatching(
        Unbalanced(sigma=size, relaxation=relaxation),
        BrownianBridge(size),
        net,
        batching,
        training,
        name="ubsb",
        score=True,
        growth=True,
        relative_sigma=sigma is None,
    )
