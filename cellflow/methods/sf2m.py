"""[SF]2M: Brownian bridges between coupled cells, with their velocity and their score."""

from __future__ import annotations

from cellflow import _checks
from cellflow.batches import Batching
from cellflow.couplings import Coupling, Entropic, Exact, Geodesic, Independent
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import BrownianBridge
from cellflow.training.trainer import Training

#: Diffusion as a multiple of the data's own, where none is given. Of multiples from 0.1 to 0.8 the
#: one whose fits predicted left-out time points of four other courses with the least W1, on average
#: 0.4 % above each course's best; 0.3 is 1 % above it (benchmarks/accuracy/sigma.py).
RELATIVE_SIGMA = 0.2


def SF2M(  # noqa: N802 - a method is named as its paper names it
    sigma: float | None = None,
    *,
    coupling: str | Coupling = "sinkhorn",
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    r"""Simulation-free score and flow matching (Tong et al. 2023, [SF]2M).

    Learns the Schrödinger bridge :math:`dX = (v + \tfrac12\sigma^2 \nabla\log p)\,dt + \sigma\,dW`
    between consecutive snapshots: among all processes with these marginals the one closest to
    Brownian motion of diffusion `sigma` (their proposition 3.4, as the coupled blocks grow).

    Parameters
    ----------
    sigma
        Diffusion, in model coordinates per square root of time; positive. When omitted, 0.2 times
        the data's own (:func:`~cellflow.training.cells.natural_sigma`): the multiple whose fits
        predicted left-out time points best by W1, on courses that no published figure is about.
        W1 hardly tells diffusions below 0.3 apart; see :func:`cellflow.tl.suggest_sigma` for a
        choice by the data.
    coupling
        ``"sinkhorn"`` for entropic plans of regularisation ``sigma² · span``, whose bridges are
        the Schrödinger bridge; ``"exact"`` for transport plans, ``"geodesic"`` for transport
        along the data (their section 4.3), ``"independent"`` for none; or a coupling.
    net
        Shape of each of the two networks.
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
        If `sigma` is not positive or `coupling` is unknown.
    """
    size = RELATIVE_SIGMA if sigma is None else sigma
    path = BrownianBridge(size)
    name = "sf2m"
    if isinstance(coupling, str):
        known: dict[str, Coupling] = {
            "sinkhorn": Entropic(sigma=size),
            "exact": Exact(),
            "geodesic": Geodesic(),
            "independent": Independent(),
        }
        choice = _checks.choice(coupling, known, "coupling")
        name = name if choice == "sinkhorn" else f"{name}_{choice}"
        coupling = known[choice]
    return FlowMatching(
        coupling,
        path,
        net,
        batching,
        training,
        name=name,
        score=True,
        relative_sigma=sigma is None,
    )
