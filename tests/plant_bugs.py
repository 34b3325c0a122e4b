"""Plant bugs in a copy of the package, one at a time, and see that the tests find each.

    python tests/plant_bugs.py [name ...]

Each bug replaces one piece of text, which must occur exactly once, and must turn the named tests
red; without bugs they must be green. Exit status 1 where a bug survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Bug:
    """One replacement of `old` by `new` in a file, and the test files that must see it."""

    file: str
    old: str
    new: str
    tests: str


OBJECTIVES, BRIDGES, GROWTH = "test_objectives", "test_bridges", "test_bridge_growth"
FIELDS, SDE = "test_bridge_fields", "test_simulate_sde"
BUGS = {
    # --- the plan
    "span missing from epsilon": Bug(
        "costs.py",
        'return sigma**2 * _checks.number(span, "span", low=0.0, open_low=True)',
        'return sigma**2 * (0 * _checks.number(span, "span", low=0.0, open_low=True) + 1)',
        BRIDGES,
    ),
    "epsilon of the full squared distance": Bug(
        "costs.py", "return sigma**2 * _checks", "return 2 * sigma**2 * _checks", BRIDGES
    ),
    "mass missing from the plan's problem": Bug(
        "couplings/entropic.py",
        "masses = source.weights, target.weights",
        "masses = tuple(s.weights.new_full((len(s),), 1 / len(s)) for s in (source, target))",
        BRIDGES,
    ),
    "mass missing from draws of pairs": Bug(
        "couplings/plans.py",
        "return self.mass.cumsum(0)",
        "return torch.ones_like(self.mass).cumsum(0)",
        "test_couplings",
    ),
    "mass missing from draws of a matrix": Bug(
        "couplings/plans.py",
        "return self.matrix.flatten().cumsum(0)",
        "return torch.ones_like(self.matrix).flatten().cumsum(0)",
        "test_couplings",
    ),
    "total mass missing from growth": Bug(
        "couplings/unbalanced.py",
        "source_growth=growth[0] + math.log(ratio)",
        "source_growth=growth[0]",
        GROWTH,
    ),
    "span missing from prior growth": Bug(
        "couplings/unbalanced.py",
        "log = source.growth.detach().double() * span",
        "log = source.growth.detach().double()",
        "test_unbalanced",
    ),
    # --- pairs
    "growth missing from pairs": Bug(
        "batches/sampler.py",
        "growing = torch.stack([still if r is None else r for r in rates]).to(self._x)",
        "growing = None",
        GROWTH,
    ),
    "growth of the source alone": Bug(
        "batches/sampler.py",
        "return plan.source_growth[rows] + plan.target_growth[cols]",
        "return plan.source_growth[rows]",
        GROWTH,
    ),
    "growth not per unit of time": Bug(
        "batches/sampler.py",
        "rates.append(None if growth is None else growth / (target.time - source.time))",
        "rates.append(growth)",
        GROWTH,
    ),
    "growth not shuffled with its pairs": Bug(
        "batches/sampler.py",
        "None if self.growth is None else self.growth[:, order]",
        "self.growth",
        GROWTH,
    ),
    "a block has a mass of its own": Bug(
        "batches/sampler.py",
        "each = float(snapshot.mass.double().sum()) / len(index)",
        "each = 1.0",
        FIELDS,
    ),
    "a block forgets the prior growth of its cells": Bug(
        "batches/sampler.py",
        "None if snapshot.growth is None else snapshot.growth[index]",
        "None",
        FIELDS,
    ),
    "cells held back take mass with them": Bug(
        "methods/cells.py",
        "(mass.double() * (s.mass.double().sum() / mass.double().sum())).to(mass)",
        "1 * mass",
        FIELDS,
    ),
    # --- the path
    "span missing from the bridge's deviation": Bug(
        "paths/brownian.py",
        "return self.sigma * (pairs.span * s * (1 - s)).sqrt()",
        "return self.sigma * (s * (1 - s)).sqrt() + 0 * pairs.span",
        "test_paths",
    ),
    "span missing from the deviation's rate": Bug(
        "paths/brownian.py",
        "(1 - 2 * s) * (pairs.span / (s * (1 - s))).sqrt()",
        "(1 - 2 * s) * (1 / (s * (1 - s))).sqrt()",
        "test_paths",
    ),
    "no half of the variance's rate": Bug(
        "paths/brownian.py",
        "return 0.5 * self.sigma**2 * (1 - 2 * s)",
        "return self.sigma**2 * (1 - 2 * s)",
        OBJECTIVES,
    ),
    "weights at the end of the path": Bug(
        "paths/base.py", "(rate * s * span).exp()", "(rate * span).exp()", OBJECTIVES
    ),
    "one interval's growth drowns another's": Bug(
        "paths/base.py",
        "pairs.growth - pairs.mean_growth",
        "pairs.growth",
        "test_stochastic_edges",
    ),
    # --- the losses
    "no weight in the losses": Bug(
        "objectives/_mean.py", "if weight is None:", "if True:", OBJECTIVES
    ),
    "no weight in the growth loss": Bug(
        "objectives/growth.py",
        "(rate - target)[:, None], batch.weight)",
        "(rate - target)[:, None], None)",
        OBJECTIVES,
    ),
    "sign of the noise in the score loss": Bug(
        "objectives/score.py",
        "dynamics.score(batch.t, batch.x) + batch.noise",
        "dynamics.score(batch.t, batch.x) - batch.noise",
        OBJECTIVES,
    ),
    "the mean's velocity for the flow's": Bug(
        "objectives/velocity.py",
        "batch.x) - batch.velocity",
        "batch.x) - batch.mean_velocity",
        OBJECTIVES,
    ),
    "the flow's velocity for the mean's": Bug(
        "objectives/velocity.py",
        "field(batch.t, batch.x) - batch.mean_velocity",
        "field(batch.t, batch.x) - batch.velocity",
        OBJECTIVES,
    ),
    # --- what they make up
    "fraction of the interval reversed": Bug(
        "methods/networks.py",
        "s = ((t.reshape(-1, 1) - t0) / (t1 - t0))",
        "s = ((t1 - t.reshape(-1, 1)) / (t1 - t0))",
        OBJECTIVES,
    ),
    "the interval that ends counts": Bug(
        "methods/networks.py", "right=True) - 1)", "right=False) - 1)", OBJECTIVES
    ),
    "a bridge that goes on beyond its end": Bug(
        "methods/networks.py", "/ (t1 - t0)).clamp(0.0, 1.0)", "/ (t1 - t0))", FIELDS
    ),
    "span missing from the data's own sigma": Bug(
        "methods/cells.py", "/ len(within) / span)", "/ len(within))", FIELDS
    ),
    "no breaks": Bug(
        "methods/networks.py",
        "sigma=method.path.diffusion, breaks=breaks)",
        "sigma=method.path.diffusion)",
        FIELDS,
    ),
    "no half of the score in the drift": Bug(
        "dynamics.py", "self._tilted(t, x, +0.5)", "self._tilted(t, x, +1.0)", SDE
    ),
    "sign of the reverse drift": Bug(
        "dynamics.py", "self._tilted(t, x, -0.5)", "self._tilted(t, x, +0.5)", SDE
    ),
    "the score goes back as a velocity": Bug(
        "preprocessing.py", "x = g / self.scale.to(g)", "x = g * self.scale.to(g)", FIELDS
    ),
    # --- simulation
    "noise as the step, not its root": Bug(
        "simulate/stochastic.py",
        "field.dynamics.sigma * math.sqrt(abs(field.span) * h)",
        "field.dynamics.sigma * abs(field.span) * h",
        SDE,
    ),
    "Euler-Maruyama without noise": Bug(
        "simulate/euler_maruyama.py", "else new + noise.total", "else new", SDE
    ),
    "noise that ignores the step's mean": Bug(
        "simulate/sra1.py", "1.5 * noise.mean", "1.5 * noise.total", SDE
    ),
    "the forward drift both ways": Bug(
        "simulate/field.py", '("drift" if span > 0 else "reverse_drift")', '"drift"', SDE
    ),
    "mass grows backward in time": Bug(
        "simulate/field.py",
        "torch.cat([velocity, growth[:, None]], dim=1)",
        "torch.cat([velocity, (growth if self.span > 0 else -growth)[:, None]], dim=1)",
        OBJECTIVES,
    ),
    "interpolated cells keep their mass": Bug(
        "methods/fit.py",
        "mass = grown_mass(mass, out.log_mass[-1], time)",
        "mass = mass * 1",
        GROWTH,
    ),
}


def run(source: Path, tests: str) -> tuple[int, str]:
    """Run test files against the package in `source`; the exit status, and the first failure."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    where = "import cellflow; print(cellflow.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=environment, capture_output=True, text=True, check=False
    )
    if str(source) not in found.stdout:
        return 2, f"the copy is not what is imported: {found.stdout}{found.stderr[-200:]}"
    files = [f"tests/{name}.py" for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    out = result.stdout
    lines = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
    text = lines[0].split(" ", 1)[1].split(" - ")[0] if lines else out[-300:]
    # A copy that does not even run is no bug that a test found.
    broken = any(word in out for word in ("NameError", "SyntaxError", "ImportError"))
    return (2 if broken or result.returncode > 1 else result.returncode), text


def main() -> int:
    """Plant the bugs that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="; ".join(BUGS))
    names = parser.parse_args().names or list(BUGS)
    unknown = sorted(set(names) - set(BUGS))
    if unknown:
        parser.error(f"no bug named {unknown}")
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        files = " ".join(dict.fromkeys(f for name in names for f in BUGS[name].tests.split()))
        status, text = run(source, files)
        if status != 0:
            print(f"The tests are not green to begin with: {text}")
            return 1
        for name in names:
            bug = BUGS[name]
            path = source / "cellflow" / bug.file
            original = path.read_text(encoding="utf8")
            count = original.count(bug.old)
            if count != 1:
                print(f"{'STALE':9}{name}: its text is found {count} times in {bug.file}")
                survived += 1
                continue
            path.write_text(original.replace(bug.old, bug.new), encoding="utf8")
            start = time.perf_counter()
            status, text = run(source, bug.tests)
            path.write_text(original, encoding="utf8")
            verdict = {0: "SURVIVED", 1: "found", 2: "BROKEN"}[status]
            survived += status != 1
            seconds = time.perf_counter() - start
            print(f"{verdict:9}{name:44}{seconds:4.0f} s  {text}", flush=True)
    print(f"{len(names) - survived} of {len(names)} bugs found")
    return int(survived > 0)


if __name__ == "__main__":
    raise SystemExit(main())
