"""The members of each family, over which the law tests run.

A new member is one line here, and it inherits the laws of its family.
"""

from __future__ import annotations

from functools import partial

from cellflow import metrics

# --- couplings -------------------------------------------------------------------------------

# --- paths -----------------------------------------------------------------------------------

# --- solvers ---------------------------------------------------------------------------------
#: Name and declared order of convergence.
SOLVERS: dict[str, int] = {"euler": 1, "midpoint": 2, "rk4": 4, "dopri5": 5, "tsit5": 5}

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
