"""The members of each family, over which the law tests run.

Couplings and paths come from their registries: a new member inherits the laws of its
family without a line here.
"""

from __future__ import annotations

from collections.abc import Callable

from cellflow import couplings, paths, simulate
from cellflow.couplings import Coupling
from cellflow.paths import Path
from cellflow.timecourse import Snapshot

# --- couplings -------------------------------------------------------------------------------
#: Name -> maker of the coupling for two snapshots: an example of every registered class …
COUPLINGS: dict[str, Callable[[Snapshot, Snapshot], Coupling]] = {
    name: kind.example for name, kind in couplings.COUPLINGS.items()
}
# … and other settings, which take other ways through the code.
COUPLINGS |= {
    "exact_by_pot": lambda source, target: couplings.Exact(solver="pot"),
    "entropic_by_pot": lambda source, target: couplings.Entropic(epsilon=0.2, solver="pot"),
    "entropic_by_sigma": lambda source, target: couplings.Entropic(sigma=1.0),
    "geodesic_entropic": lambda source, target: couplings.Geodesic(epsilon=0.3),
    "global_blocks": lambda source, target: couplings.Hierarchical(8, tolerance=1.0),
}

# --- paths -----------------------------------------------------------------------------------
PATHS: dict[str, Path] = {name: kind() for name, kind in paths.PATHS.items()}
PATHS["straight_without_noise"] = paths.Straight(0.0)
PATHS["poisson_flow"] = paths.VarianceExploding(extra=4)
#: Those that generate cells from noise.
FROM_NOISE = {name: path for name, path in PATHS.items() if path.source_free}

# --- solvers ---------------------------------------------------------------------------------
#: Name and declared order of convergence on an ODE.
SOLVERS: dict[str, int] = {name: s.order for name, s in simulate.SOLVERS.items()}
#: Those that draw noise, and their strong order where it is additive.
NOISY_SOLVERS: dict[str, float] = {
    name: s.strong_order for name, s in simulate.SOLVERS.items() if s.strong_order is not None
}
