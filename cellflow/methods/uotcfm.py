"""OT-CFM for cells that divide and die."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings import Unbalanced
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.training.trainer import Training


def UOTCFM(  # noqa: N802 - a method is named as its paper names it
    sigma: float = 0.1,
    *,
    relaxation: float | None = 1.0,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    r"""Unbalanced optimal-transport flow matching, with growth rates.

    OT-CFM (Tong et al. 2024, section 3.2.3) on unbalanced plans, as in UOT-FM (Eyring et al.
    2024, section 3.2), whose marginals here are not forgotten but learned: a pair gains mass on
    its way at the rate that takes it from its share of the source cell to its share of the
    target cell, and :math:`\partial_t p + \nabla\cdot(p v) = g p` has the snapshots as marginals.

    What is known of growth beforehand goes into the snapshots' `growth`; the masses of the
    snapshots set how much the population grows as a whole.

    Parameters
    ----------
    sigma
        Constant standard deviation of the path, in model coordinates.
    relaxation
        How strongly the source's marginal (or its prior growth) is held, in units of the mean
        cost: see :class:`~cellflow.couplings.Unbalanced`. None believes it entirely.
    net
        Shape of the networks.
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
        If `sigma` is negative or `relaxation` is not positive.
    """
    coupling = Unbalanced(relaxation=relaxation)
    return FlowMatching(
        coupling, Straight(sigma), net, batching, training, name="uotcfm", growth=True
    )
