"""MeanFlow: average velocities, by which cells are carried in one step or few."""

from __future__ import annotations

from dataclasses import replace

from cellflow import _checks
from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.method import METHODS
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.training.trainer import Training


@METHODS.register("mean_flow")
def MeanFlow(  # noqa: N802
    sigma: float = 0.1,
    *,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """MeanFlow (Geng et al. 2025, NeurIPS) on the pairs of OT-CFM.

    One network learns the velocity and its averages from a time until any other before the next
    snapshot (:cite:`geng2025`, eq. 9; :func:`cellflow.objectives.average_velocity_matching`). The
    fit simulates and answers as that of :func:`OTCFM` does, by the velocity;
    :class:`FewSteps` carries cells by its averages, in one step or few.

    Parameters
    ----------
    sigma, batching, training
        As in :func:`OTCFM`.
    net
        Shape of the network, which is told until when as well.
    """
    if not isinstance(net, MLPConfig):  # others are not told until when
        raise TypeError(_checks.message("net", type(net).__name__, "an MLPConfig"))
    parts = Exact(), Straight(sigma), replace(net, average=True), batching, training
    return FlowMatching(*parts, name="mean_flow")
