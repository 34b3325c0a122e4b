"""Recipes: published methods as a coupling, a path and what is learned.

Each takes ``sigma`` first, in model coordinates: the constant standard deviation of a path, or the
diffusion of a bridge per square root of time. The other settings are those of
:class:`~cellflow.methods.FlowMatching`: ``net`` is the shape of each network, ``batching`` says how
pairs are made, ``training`` how the networks are trained.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from cellflow import _checks
from cellflow.batches import Batching
from cellflow.costs import WassersteinFisherRao
from cellflow.couplings import Coupling, Entropic, Exact, Independent, Reach, Unbalanced
from cellflow.couplings.coupling import COUPLINGS
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.iterated import Iterated
from cellflow.methods.method import METHODS
from cellflow.networks import MLPConfig, NetworkConfig
from cellflow.paths import BrownianBridge, Carried, Cone, Spline, Straight
from cellflow.training.trainer import Training

#: Diffusion as a multiple of the data's own, where none is given. Of multiples from 0.1 to 0.8 the
#: one whose fits predicted left-out time points of four other courses with the least W1, on average
#: 0.4 % above each course's best; 0.3 is 1 % above it (benchmarks/accuracy/sigma.py).
RELATIVE_SIGMA = 0.2


@METHODS.register("otcfm")
def OTCFM(  # noqa: N802 - a method is named as its paper names it
    sigma: float = 0.1,
    *,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Optimal-transport conditional flow matching (Tong et al. 2024, TMLR, section 3.2.3).

    Its flow is the dynamic optimal transport between snapshots as the noise vanishes and the
    coupled blocks grow (:cite:`tong2024improving`, proposition 3.4).

    The constant standard deviation of the path is `sigma`, in model coordinates; `net`, `batching`
    and `training` are as in :class:`FlowMatching`.
    """
    return FlowMatching(Exact(), Straight(sigma), net, batching, training, name="otcfm")


@METHODS.register("icfm")
def ICFM(  # noqa: N802
    sigma: float = 0.1,
    *,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Independent conditional flow matching (Tong et al. 2024, TMLR, section 3.2.2).

    Cells are paired without regard to distance, so paths cross and flows bend: the baseline that
    couplings are measured against :cite:`tong2024improving`.

    With `sigma`, `net`, `batching` and `training` as in :func:`OTCFM`.
    """
    return FlowMatching(Independent(), Straight(sigma), net, batching, training, name="icfm")


@METHODS.register("mmfm")
def MMFM(  # noqa: N802
    sigma: float = 0.1,
    *,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Multi-marginal flow matching (Rohbeck et al. 2025, ICLR) with exact plans.

    Cells are paired as by OT-CFM, and meet on natural cubic splines through the cells' partners
    in the snapshots before and after (:cite:`rohbeck2025`; :func:`cellflow.batches.spline_rates`),
    so that the flow does not turn a corner at a snapshot. It pays where snapshots are dense enough
    for a spline: more than some three in every turn of the motion. With two snapshots it is OT-CFM.

    With `sigma`, `net`, `batching` and `training` as in :func:`OTCFM`.
    """
    return FlowMatching(Exact(), Spline(sigma), net, batching, training, name="mmfm")


@METHODS.register("curly")
def CurlyFM(  # noqa: N802
    sigma: float = 0.1,
    *,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Curly flow matching: relative to measured velocities (Petrović et al. 2025, NeurIPS).

    Optimal transport takes the shortest way, also where cells run in a circle. Here the snapshots'
    `velocity`, such as RNA velocity, is smoothed to a field; cells are carried along it to the
    time of the next snapshot, and from there paired by exact plans
    (:cite:`petrovic2025`, algorithm 2, on :class:`~cellflow.paths.Carried`). Velocities must be
    per unit of time of the snapshots. Without any, it is OT-CFM.

    With `sigma`, `net`, `batching` and `training` as in :func:`OTCFM`.
    """
    return FlowMatching(Exact(), Carried(sigma), net, batching, training, name="curly")


@METHODS.register("sbcfm")
def SBCFM(  # noqa: N802
    sigma: float = 1.0,
    *,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Schrödinger-bridge conditional flow matching (Tong et al. 2024, TMLR, section 3.2.4).

    Plans of regularisation ``sigma² · span`` feed Brownian bridges; the learned flow is the
    probability-flow ODE of the Schrödinger bridge (:cite:`tong2024improving`, proposition 3.5).

    The diffusion `sigma` is positive, in model coordinates per square root of time; `net`,
    `batching` and `training` are as in :class:`FlowMatching`.
    """
    bridge = BrownianBridge(sigma)
    return FlowMatching(Entropic(sigma=sigma), bridge, net, batching, training, name="sbcfm")


@METHODS.register("sf2m")
def SF2M(  # noqa: N802
    sigma: float | None = None,
    *,
    coupling: str | Coupling = "sinkhorn",
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    r"""Simulation-free score and flow matching (Tong et al. 2023, [SF]2M).

    Learns the Schrödinger bridge :math:`dX = (v + \tfrac12\sigma^2 \nabla\log p)\,dt + \sigma\,dW`
    between consecutive snapshots: among all processes with these marginals the one closest to
    Brownian motion of diffusion `sigma` (:cite:`tong2024simulation`, proposition 3.4, as the
    coupled blocks grow).

    Parameters
    ----------
    sigma
        Diffusion, in model coordinates per square root of time; positive. When omitted, 0.2 times
        the data's own (:func:`~cellflow.training.cells.natural_sigma`): the multiple whose fits
        predicted left-out time points best by W1, on courses that no published figure is about.
        W1 hardly tells diffusions below 0.3 apart; see :func:`cellflow.pp.suggest_sigma` for a
        choice by the data.
    coupling
        ``"sinkhorn"`` for entropic plans of regularisation ``sigma² · span``, whose bridges are
        the Schrödinger bridge; ``"exact"`` for transport plans, ``"geodesic"`` for transport
        along the data (their section 4.3), ``"independent"`` for none; or a coupling.
    net, batching, training
        As in :class:`FlowMatching`.
    """
    size = RELATIVE_SIGMA if sigma is None else sigma
    path, name = BrownianBridge(size), "sf2m"
    if isinstance(coupling, str):
        plain = ("exact", "geodesic", "independent")
        if _checks.choice(coupling, ("sinkhorn", *plain), "coupling") == "sinkhorn":
            coupling = Entropic(sigma=size)
        else:
            coupling, name = COUPLINGS[coupling](), f"{name}_{coupling}"
    parts = coupling, path, net, batching, training, name
    return FlowMatching(*parts, score=True, relative_sigma=sigma is None)


# Names are written out: the command line reads them from this text, without importing it.
METHODS.register("sf2m_exact")(partial(SF2M, coupling="exact"))
METHODS.register("sf2m_geodesic")(partial(SF2M, coupling="geodesic"))
METHODS.register("sf2m_independent")(partial(SF2M, coupling="independent"))


@METHODS.register("dsbm")
def DSBM(  # noqa: N802
    sigma: float | None = None,
    *,
    coupling: str | Coupling = "sinkhorn",
    rounds: int = 4,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> Iterated:
    """Diffusion Schrödinger bridge matching (Shi et al. 2023) that starts from [SF]2M.

    :func:`SF2M` learns the Schrödinger bridge only as well as its plans are those of the whole
    snapshots. Here rounds follow in which the bridge is learned again from pairs that the dynamics
    so far have made, alternately forward and backward (:cite:`shi2023`, algorithm 1): see
    :class:`Iterated`. It pays where the
    first coupling is far from the entropic plan (small blocks in many dimensions, independent
    pairs); where it is not, the rounds only add the errors of the networks. Between normal laws in
    the plane, four rounds of 375 steps left variances of the mean flow up to 8 % off, where one
    fit left 2 %: give the rounds more steps, and ``Batching(reuse=1)`` fresh pairs.

    The `sigma` and `coupling` of the first fit are as in :func:`SF2M`, after which `rounds` follow.
    In every round `net`, `batching` and `training` are as in :class:`FlowMatching`; of how pairs
    are made, the rounds use only their number and reuse.
    """
    base = SF2M(sigma, coupling=coupling, net=net, batching=batching, training=training)
    return Iterated(base, rounds, name=base.name.replace("sf2m", "dsbm"))


@METHODS.register("uotcfm")
def UOTCFM(  # noqa: N802
    sigma: float = 0.02,
    *,
    relaxation: float | None = 1.0,
    net: NetworkConfig = MLPConfig(intervals=True),
    batching: Batching = Batching(block_size=512),
    training: Training = Training(learning_rate=3e-3, validation=0.0),
) -> FlowMatching:
    r"""Unbalanced optimal-transport flow matching, with growth rates.

    OT-CFM (:cite:`tong2024improving`, section 3.2.3) on unbalanced plans, as in UOT-FM
    (:cite:`eyring2024`, section 3.2), whose marginals here are not forgotten but learned: a pair
    gains mass on its way at the rate that takes it from its share of the source cell to its share
    of the target cell, and :math:`\partial_t p + \nabla\cdot(p v) = g p` has the snapshots as
    marginals.

    What is known of growth beforehand goes into the snapshots' `growth`; the masses of the
    snapshots set how much the population grows as a whole.

    Masses are carried over all snapshots, so errors add up: blocks are larger, sigma is smaller and
    no cell is kept for validation, which halves the distance to later snapshots
    (benchmarks/accuracy/growth.py; chosen on tigon_sim3d).

    How strongly the source's marginal (or its prior growth) is held says `relaxation`, in units of
    the mean cost: see :class:`~cellflow.couplings.Unbalanced`; None believes it entirely. With
    `sigma`, `net`, `batching` and `training` as in :func:`OTCFM`.
    """
    coupling, path = Unbalanced(relaxation=relaxation), Straight(sigma)
    return FlowMatching(coupling, path, net, batching, training, name="uotcfm", growth=True)


@METHODS.register("reach")
def ReachFM(  # noqa: N802
    sigma: float = 0.1,
    *,
    reach: float | None = None,
    net: NetworkConfig = MLPConfig(intervals=True),
    batching: Batching = Batching(block_size=512),
    training: Training = Training(),
) -> FlowMatching:
    r"""Unbalanced flow matching within a reach, for populations that grow as they move.

    Between two days populations grow and shrink more than they move. Plans of
    :class:`~cellflow.couplings.Reach` let a pair of cells move where they are close for what the
    data can tell, and die and be born where they are not; velocity and growth are learned from
    them as by :func:`UOTCFM` (:cite:`chizat2018`, section 3, for the plans;
    :cite:`tong2024improving`, theorem 3.1, for the regression). A population between two snapshots
    is predicted from both, and the clock is between that of days and
    that of the distance travelled (:meth:`cellflow.clock.Clock.by_distance`).

    The `reach` is the distance, in model coordinates, beyond which cells die and are born rather
    than move; measured in each interval when omitted, infinity for none. With `sigma`, `net`,
    `batching` and `training` as in :func:`OTCFM`.
    """
    parts = Reach(reach), Straight(sigma), net, batching, training
    return FlowMatching(*parts, name="reach", growth=True, both_sides=True, clock="tempered")


@METHODS.register("wfrfm")
def WFRFM(  # noqa: N802
    sigma: float = 0.02,
    *,
    delta: float | None = None,
    net: NetworkConfig = MLPConfig(intervals=True),
    batching: Batching = Batching(block_size=512),
    training: Training = Training(learning_rate=3e-3, validation=0.0),
) -> FlowMatching:
    r"""Wasserstein-Fisher-Rao flow matching (Peng et al. 2026).

    Plans of the Wasserstein-Fisher-Rao distance pair cells, which meet on its geodesics
    (:class:`~cellflow.paths.Cone`); velocity and growth are regressed on theirs
    (:cite:`peng2026`), as by :func:`UOTCFM`. As blocks grow and noise vanishes, the dynamics have
    the least action :math:`\int\!\!\int \tfrac12 (\lVert v \rVert^2 + \delta^2 g^2)\,dm\,ds`
    between snapshots, which is that of OT-CFM for large δ and equal masses. Growth rates change on
    the way, and die-offs are steep.

    The length `delta`, in model coordinates, is as in
    :class:`~cellflow.costs.WassersteinFisherRao`. With `sigma`, `net`, `batching` and `training` as
    in :func:`UOTCFM`.
    """
    coupling = Reach(cost=WassersteinFisherRao(delta), relative_epsilon=0.01)
    return FlowMatching(
        coupling, Cone(sigma, delta), net, batching, training, name="wfrfm", growth=True
    )


@METHODS.register("ubsb")
def UBSB(  # noqa: N802
    sigma: float | None = None,
    *,
    relaxation: float | None = 1.0,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    r"""Unbalanced Schrödinger bridges: [SF]2M with growth rates.

    Entropic plans with soft marginals feed Brownian bridges whose mass changes on the way;
    velocity, score and growth of
    :math:`dX = (v + \tfrac12\sigma^2\nabla\log p)\,dt + \sigma\,dW`, :math:`d\log m = g\,dt` are
    learned together (:cite:`tong2024simulation`, [SF]2M, for the bridge; :cite:`chen2022`, "The
    most likely evolution of diffusing and vanishing particles", for what it stands for).

    With `sigma`, `net`, `batching` and `training` as in :func:`SF2M`, and `relaxation` as in
    :func:`UOTCFM`.
    """
    size = RELATIVE_SIGMA if sigma is None else sigma
    base = SF2M(sigma, coupling=Unbalanced(sigma=size, relaxation=relaxation), net=net)
    return replace(base, batching=batching, training=training, name="ubsb", growth=True)
