"""A new member of a family is one file: everything else finds it.

The files are added to a copy of the package, in which the checks run as a user would see them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

NEAREST = '''
"""Coupling of each cell with a random one, said to be near."""

from __future__ import annotations

from dataclasses import dataclass

from cellflow.couplings.coupling import COUPLINGS, Coupling
from cellflow.couplings.independent import Independent
from cellflow.plans import Plan
from cellflow.timecourse import Snapshot


@COUPLINGS.register("nearby")
@dataclass(frozen=True)
class Nearby(Coupling):
    """Coupling that a test has added."""

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        return Independent()(source, target)
'''
WIDE = '''
"""Straight path of twice the width."""

from __future__ import annotations

from dataclasses import dataclass

from cellflow.paths.path import PATHS
from cellflow.paths.straight import Straight


@PATHS.register("wide")
@dataclass(frozen=True)
class Wide(Straight):
    """Path that a test has added."""
'''
HEUN = '''
"""Heun's step, order 2."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.solver import SOLVERS, Solver


def heun(field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float) -> Tensor:
    """Advance `x` from ``u`` to ``u + h`` by the mean of both ends' slopes."""
    return x + 0.5 * h * (slope + field(u + h, x + h * slope))


SOLVERS.register("heun")(Solver(order=2, step=heun))
'''
PLAIN = '''
"""A method of straight paths between cells at random."""

from __future__ import annotations

from cellflow.couplings import Independent
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.method import METHODS
from cellflow.paths import Straight


@METHODS.register("plain")
def plain(sigma: float = 0.1, **settings) -> FlowMatching:
    """Method that a test has added."""
    return FlowMatching(Independent(), Straight(sigma), name="plain", **settings)
'''


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'docs'}"}
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout
