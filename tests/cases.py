"""The members of each family, over which the law tests run.

Couplings and paths come from their registries: a new member inherits the laws of its
family without a line here.
"""

from __future__ import annotations

from collections.abc import Callable

from cellflow import couplings, paths
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
    "entropic_by_sigma": lambda source, target: couplings.Entropic(sigma=1.0),
    "geodesic_entropic": lambda source, target: couplings.Geodesic(epsilon=0.3),
    "global_blocks": lambda source, target: couplings.Hierarchical(8, tolerance=1.0),
    "unbalanced_both": lambda source, target: couplings.Unbalanced(
        epsilon=0.5, relaxation=0.5, target_relaxation=2.0, reg_type="entropy"
    ),
    "unbalanced_tv": lambda source, target: couplings.Unbalanced(
        0.5, relaxation=0.2, penalty="tv", tolerance=1e-9
    ),
}

# --- paths -----------------------------------------------------------------------------------
PATHS: list[Path] = [*(kind() for kind in paths.PATHS.values()), paths.Straight(0.0)]

# --- solvers ---------------------------------------------------------------------------------
#: Name and declared order of convergence on an ODE.
SOLVERS: dict[str, int] = {
    "euler": 1,
    "midpoint": 2,
    "rk4": 4,
    "dopri5": 5,
    "tsit5": 5,
    "euler_maruyama": 1,
    "sra1": 2,
}
#: Those that draw noise, and their strong order where it is additive.
NOISY_SOLVERS: dict[str, float] = {"euler_maruyama": 1.0, "sra1": 1.5}
