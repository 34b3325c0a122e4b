"""The members of each family, over which the law tests run.

A new member is one line here, and it inherits the laws of its family.
"""

from __future__ import annotations

from functools import partial

from cellflow import couplings, metrics, simulate
from cellflow.paths import BrownianBridge, Path, Spline, Straight

# --- couplings -------------------------------------------------------------------------------
# name -> maker of the coupling for two snapshots (only a given plan depends on them)
COUPLINGS = {
    "independent": lambda source, target: couplings.Independent(),
    "exact": lambda source, target: couplings.Exact(),
    "entropic": lambda source, target: couplings.Entropic(epsilon=0.2),
    "entropic_by_sigma": lambda source, target: couplings.Entropic(sigma=1.0),
    "geodesic": lambda source, target: couplings.Geodesic(),
    "geodesic_entropic": lambda source, target: couplings.Geodesic(epsilon=0.3, metric="heat"),
    "hierarchical": lambda source, target: couplings.Hierarchical(),
    "hierarchical_blocks": lambda source, target: couplings.Hierarchical(8, tolerance=1.0),
    "given": lambda source, target: couplings.Given(
        3.0 * couplings.Entropic(epsilon=0.5, tolerance=1e-9)(source, target).dense()
    ),
    "unbalanced": lambda source, target: couplings.Unbalanced(relative_epsilon=0.1),
    "unbalanced_both": lambda source, target: couplings.Unbalanced(
        epsilon=0.5, relaxation=0.5, target_relaxation=2.0, reg_type="entropy"
    ),
    "unbalanced_tv": lambda source, target: couplings.Unbalanced(
        0.5, relaxation=0.2, penalty="tv", tolerance=1e-9
    ),
    "partial": lambda source, target: couplings.Partial(0.75),
}
#: Members whose cells grow, and those that leave some out: their marginals differ.
GROWING = ("unbalanced", "unbalanced_both", "unbalanced_tv")
PARTIAL = ("partial",)

# --- paths -----------------------------------------------------------------------------------
PATHS: list[Path] = [Straight(0.0), Straight(0.3), Spline(0.2), BrownianBridge(0.8)]

# --- solvers ---------------------------------------------------------------------------------
#: Name and declared order of convergence on an ODE.
SOLVERS: dict[str, int] = {name: s.order for name, s in simulate.SOLVERS.items()}
#: Those that draw noise, and their strong order where it is additive.
NOISY_SOLVERS: dict[str, float] = {
    name: s.strong_order for name, s in simulate.SOLVERS.items() if s.strong_order is not None
}

# --- metrics ---------------------------------------------------------------------------------
# name -> (metric, exponent of its growth with the data's scale or None, exactly rotation invariant)
METRICS = {
    "w1": (metrics.wasserstein1, 1, True),
    "w2": (metrics.wasserstein2, 1, True),
    "sliced_w2": (metrics.sliced_wasserstein2, 1, False),
    "energy": (metrics.energy_distance, 1, True),
    "mmd": (partial(metrics.mmd, bandwidth=1.0, unbiased=False), None, True),
}

# --- methods ---------------------------------------------------------------------------------
METHODS: list[str] = [
    "otcfm",
    "icfm",
    "mmfm",
    "sbcfm",
    "sf2m",
    "sf2m_exact",
    "sf2m_geodesic",
    "sf2m_independent",
    "dsbm",
    "uotcfm",
    "ubsb",
]
