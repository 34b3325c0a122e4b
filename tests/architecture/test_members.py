"""A new member of a family is one file: everything else finds it.

The files are added to a copy of the package, which the checks use as a user would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cellflow

ROOT = Path(__file__).parents[2]
#: One file of each family, by its place in the package. Each member's name is that of the file.
FILES = {
    "couplings/nearby.py": '''
"""Coupling at random."""

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
''',
    "paths/wide.py": '''
"""Straight path with a default of its own."""

from __future__ import annotations

from dataclasses import dataclass

from cellflow.paths.path import PATHS
from cellflow.paths.straight import Straight


@PATHS.register("wide")
@dataclass(frozen=True)
class Wide(Straight):
    """Path that a test has added."""
''',
    "simulate/steps/heun.py": '''
"""Solver that a test has added."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.solver import SOLVERS, Solver


def heun(field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float) -> Tensor:
    """Advance `x` by Heun's step."""
    return x + 0.5 * h * (slope + field(u + h, x + h * slope))


SOLVERS.register("heun")(Solver(order=2, step=heun))
''',
    "networks/affine.py": '''
"""Affine network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.networks.network import NETWORKS, Network, NetworkConfig, Units


class Affine(Network):
    """Affine map of a cell."""

    def __init__(self, units: Units, answer: str, generator: Rng) -> None:
        super().__init__(units)
        self.answer = answer
        out = 1 if answer == "growth" else len(units.centre)
        self.layer = nn.utils.skip_init(nn.Linear, len(units.centre), out)
        rng = _checks.as_generator(generator)
        for p in self.layer.parameters():
            p.data = torch.randn(p.shape, generator=rng)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out[:, 0] if self.answer == "growth" else out


@NETWORKS.register("affine")
@dataclass(frozen=True)
class AffineConfig(NetworkConfig):
    """Network that a test has added."""

    def build(self, units: Units, *, answer: str, generator: Rng) -> Network:
        return Affine(units, answer, generator)
''',
    "densities/blocks.py": '''
"""Autoregressive flow in two passes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cellflow.densities.density import DENSITIES, Density, zuko


@DENSITIES.register("blocks")
@dataclass(frozen=True)
class Blocks(Density):
    """Density that a test has added."""

    def build(self, dim: int) -> nn.Module:
        return zuko().MAF(dim, passes=2, **self.layers)
''',
    "metrics/shift.py": '''
"""Distance of means."""

from __future__ import annotations

from cellflow._typing import ArrayLike
from cellflow.metrics.metric import as_clouds, metric


@metric("shift")
def shift(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_mass: ArrayLike | None = None,
    y_mass: ArrayLike | None = None,
) -> float:
    """Metric that a test has added."""
    clouds = as_clouds(x, y, x_mass=x_mass, y_mass=y_mass)
    return float((clouds.a @ clouds.x - clouds.b @ clouds.y).norm())
''',
    "methods/plain.py": '''
"""Method of the other added members."""

from __future__ import annotations

from cellflow.batches import Batching
from cellflow.couplings.nearby import Nearby
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.method import METHODS
from cellflow.networks import NetworkConfig
from cellflow.networks.affine import AffineConfig
from cellflow.paths.wide import Wide
from cellflow.training import Training


@METHODS.register("plain")
def plain(
    sigma: float = 0.1,
    *,
    net: NetworkConfig = AffineConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """Method that a test has added."""
    return FlowMatching(Nearby(), Wide(sigma), net, batching, training, name="plain")
''',
}
NAMES = [Path(file).stem for file in FILES]
#: Tests that run over the members of a family.
FILES_OF_LAWS = ("laws", "densities/test_densities.py", "simulate/test_simulate.py")
LAWS = [str(ROOT / "tests" / file) for file in FILES_OF_LAWS]

#: A fit by the added method, from the AnnData to the file and back, simulated by the added solver.
USE = """
import anndata, numpy as np, torch
import cellflow as cf

rng = np.random.default_rng(0)
adata = anndata.AnnData(rng.normal(size=(60, 3)))
adata.obs["day"] = np.repeat([0, 1, 2], 20)
adata.obsm["X_pca"] = adata.X
fit = cf.tl.fit(adata, time_key="day", method="plain", steps=3, progress=False)
adata.write_h5ad("cells.h5ad")
fit.save("saved")
same = cf.load("saved")
assert same.method == fit.method and type(same.method.net).__name__ == "AffineConfig"
x = fit.course.snapshots[0].x
assert torch.equal(same.velocity(0.5, x), fit.velocity(0.5, x))
path = same.simulate(x, [0.0, 1.0], solver="heun", progress=False)
assert torch.isfinite(path.x).all()
assert cf.tl.couple(adata, time_key="day", coupling="nearby", progress=False).transitions
print(cf.metrics.METRICS["shift"](x, x + 1.0))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    skip = shutil.ignore_patterns("__pycache__", "*.nb?")
    shutil.copytree(Path(cellflow.__file__).parent, folder / "cellflow", ignore=skip)
    for file, text in FILES.items():
        (folder / "cellflow" / file).write_text(text.lstrip(), encoding="utf8")
    return folder


def run(folder: Path, *command: str) -> str:
    path = os.pathsep.join([str(folder), str(ROOT / "docs")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_added_members_are_fitted_saved_loaded_and_simulated(extended):
    assert float(run(extended, "-c", USE)) == pytest.approx(3**0.5, rel=1e-5)

    command = ["couple", "cells.h5ad", "--time-key", "day", "--coupling", "nearby", "--out", "maps"]
    run(extended, "-m", "cellflow.cli", *command, "--quiet")
    assert len(list((extended / "maps").glob("tmaps_*.h5ad"))) == 2


@pytest.mark.parametrize(("command", "name"), [("fit", "plain"), ("simulate", "heun")])
def test_command_line_lists_added_members(extended, command, name):
    assert name in run(extended, "-m", "cellflow.cli", command, "--help")


def test_documentation_lists_added_members(extended):
    text = run(extended, "-c", "import members; print(members.tables())")
    for name in NAMES:
        assert f"| `{name}` |" in text
    assert text.count("that a test has added") == len(NAMES)
    rows = [row.split(" | ", 1)[1] for row in text.splitlines() if row.startswith("| `")]
    assert len(rows) == len(set(rows)) and ":math:" not in text


@pytest.mark.slow
def test_laws_of_their_families_hold_for_added_members(extended):
    """The law tests collect the members by themselves, and pass."""
    select, settings = " or ".join(NAMES), str(ROOT / "pyproject.toml")
    options = ["-v", "-p", "no:cacheprovider", "-k", select, "-c", settings, "--rootdir", str(ROOT)]
    out = run(extended, "-m", "pytest", *options, *LAWS)
    for name in NAMES:
        assert any(name in line and "PASSED" in line for line in out.splitlines()), name
