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


#: Three lines a bug: its name, file and tests; the text; and what takes its place.
TABLE = """\
# --- the plan
span missing from epsilon | costs.py | exact/test_bridges
  - return sigma**2 * _checks.number(span, "span", low=0.0, open_low=True)
  + return sigma**2 * (0 * _checks.number(span, "span", low=0.0, open_low=True) + 1)
epsilon of the full squared distance | costs.py | exact/test_bridges
  - return sigma**2 * _checks
  + return 2 * sigma**2 * _checks
mass missing from the plan's problem | couplings/entropic.py | exact/test_bridges
  - return self.source.weights, self.target.weights
  + return tuple(s.weights.new_full((len(s),), 1 / len(s)) for s in (self.source, self.target))
mass missing from draws of pairs | plans/forms.py | laws/test_couplings
  - return self.mass.cumsum(0)
  + return torch.ones_like(self.mass).cumsum(0)
mass missing from draws of a matrix | plans/forms.py | laws/test_couplings
  - return self.matrix.flatten().cumsum(0)
  + return torch.ones_like(self.matrix).flatten().cumsum(0)
total mass missing from growth | couplings/unbalanced.py | exact/test_bridge_growth
  - source_growth=growth[0] + math.log(ratio)
  + source_growth=growth[0]
span missing from prior growth | couplings/unbalanced.py | couplings/test_unbalanced
  - log = source.growth.detach().double() * span
  + log = source.growth.detach().double()
price of other masses missing from batches | transport/entropic/marginals.py | transport/test_batched
  - return self.mass if self.exact else self.mass * torch.exp(-f / self.rho)
  + return self.mass
epsilon of POT halved | transport/entropic/solve.py | transport/test_batched
  - sinkhorn_log(a, b, c, epsilon,
  + sinkhorn_log(a, b, c, 0.5 * epsilon,
reach as the cost itself | couplings/reach.py | couplings/test_reach
  - rho = math.inf if reach is None else reach**2 / 2
  + rho = math.inf if reach is None else reach
noise of one half in all components | couplings/reach.py | couplings/test_reach
  - if x.shape[1] > LEADING:
  + if False:
few cells say who grew | couplings/reach.py | couplings/test_reach
  - if reach is None and min(len(source), len(target)) >= FEWEST:
  + if reach is None:
# --- pairs
growth missing from pairs | batches/pools.py | exact/test_bridge_growth
  - growing = torch.stack([still if r is None else r for r in rates])
  + growing = None
growth of the source alone | batches/pools.py | exact/test_bridge_growth
  - return plan.source_growth[rows] + plan.target_growth[cols]
  + return plan.source_growth[rows]
growth not per unit of time | batches/pools.py | exact/test_bridge_growth
  - torch.cat(growth)[keep] / span if growth
  + torch.cat(growth)[keep] if growth
growth not shuffled with its pairs | batches/sampler.py | exact/test_bridge_growth
  - None if pool.growth is None else pool.growth[:, order]
  + pool.growth
a block has a mass of its own | batches/pools.py | exact/test_bridge_fields
  - snapshot.total_mass / blocks.shape[1])
  + 1.0)
a block forgets the prior growth of its cells | batches/pools.py | exact/test_bridge_fields
  - [None] * len(blocks) if snapshot.growth is None else snapshot.growth[blocks]
  + [None] * len(blocks)
cells held back take mass with them | training/cells.py | exact/test_bridge_fields
  - (mass.double() * (s.total_mass / mass.double().sum())).to(mass)
  + 1 * mass
# --- the path
span missing from the bridge's deviation | paths/bridge.py | laws/test_paths
  - return self.sigma * (pairs.span * s * (1 - s)).sqrt()
  + return self.sigma * (s * (1 - s)).sqrt() + 0 * pairs.span
span missing from the deviation's rate | paths/bridge.py | laws/test_paths
  - (1 - 2 * s) * (pairs.span / (s * (1 - s))).sqrt()
  + (1 - 2 * s) * (1 / (s * (1 - s))).sqrt()
no half of the variance's rate | paths/bridge.py | objectives/test_objectives
  - return 0.5 * self.sigma**2 * (1 - 2 * s)
  + return self.sigma**2 * (1 - 2 * s)
weights at the end of the path | paths/path.py | objectives/test_objectives
  - (rate * s * pairs.span).exp()
  + (rate * pairs.span).exp()
one interval's growth drowns another's | paths/path.py | simulate/test_stochastic_edges
  - pairs.growth - pairs.mean_growth
  + pairs.growth
# --- the losses
no weight in the losses | objectives/_mean.py | objectives/test_objectives
  - if weight is None:
  + if True:
no weight in the growth loss | objectives/growth.py | objectives/test_objectives
  - target[:, None], batch.weight)
  + target[:, None], None)
sign of the noise in the score loss | objectives/score.py | objectives/test_objectives
  - mean_square(found, -batch.noise,
  + mean_square(found, batch.noise,
the mean's velocity for the flow's | objectives/velocity.py | objectives/test_objectives
  - mean_square(found, batch.velocity,
  + mean_square(found, batch.mean_velocity,
the flow's velocity for the mean's | objectives/velocity.py | objectives/test_objectives
  - mean_square(found, batch.mean_velocity,
  + mean_square(found, batch.velocity,
# --- what they make up
fraction of the interval reversed | training/networks.py | objectives/test_objectives
  - s = ((t.reshape(-1, 1) - t0) / (t1 - t0))
  + s = ((t1 - t.reshape(-1, 1)) / (t1 - t0))
the interval that ends counts | training/networks.py | objectives/test_objectives
  - right=True) - 1)
  + right=False) - 1)
a bridge that goes on beyond its end | training/networks.py | exact/test_bridge_fields
  - / (t1 - t0)).clamp(0.0, 1.0)
  + / (t1 - t0))
span missing from the data's own sigma | training/cells.py | exact/test_bridge_fields
  - / len(within) / span)
  + / len(within))
no breaks | training/networks.py | exact/test_bridge_fields
  - sigma=parts.path.diffusion, breaks=breaks)
  + sigma=parts.path.diffusion)
no half of the score in the drift | dynamics.py | simulate/test_sde
  - self._tilted(t, x, +0.5)
  + self._tilted(t, x, +1.0)
sign of the reverse drift | dynamics.py | simulate/test_sde
  - self._tilted(t, x, -0.5)
  + self._tilted(t, x, +0.5)
the score goes back as a velocity | preprocessing.py | exact/test_bridge_fields
  - x = g / self.scale.to(g)
  + x = g * self.scale.to(g)
sides count the other way round | fits/fit.py | fits/test_both_sides
  - near = (after.time - time) * len(before)
  + near = (time - before.time) * len(before)
equal cells forget masses | fits/fit.py | fits/test_both_sides doors/test_ensembles
  - shares = torch.stack([s.weights for s in predicted]).mean(0)
  + shares = torch.full_like(predicted[0].weights, 1 / len(predicted[0]))
share of cells at the start | training/prepare.py | fits/test_report
  - grown = log_mass[-1].double()
  + grown = log_mass[0].double()
intervals begin too early | networks/mlp.py | networks/test_intervals
  - begun = t >= knots[1:-1]
  + begun = t >= knots[:-2]
clock by distance alone | clock.py | test_clock
  - steps = steps**weight * even ** (1 - weight)
  + steps = steps
# --- simulation
noise as the step, not its root | simulate/integrate/stochastic.py | simulate/test_sde
  - field.dynamics.sigma * math.sqrt(abs(field.span) * h)
  + field.dynamics.sigma * abs(field.span) * h
Euler-Maruyama without noise | simulate/steps/euler_maruyama.py | simulate/test_sde
  - else new + noise.total
  + else new
noise that ignores the step's mean | simulate/steps/sra1.py | simulate/test_sde
  - 1.5 * noise.mean
  + 1.5 * noise.total
the forward drift both ways | simulate/field.py | simulate/test_sde
  - ("drift" if span > 0 else "reverse_drift")
  + "drift"
mass grows backward in time | simulate/field.py | objectives/test_objectives
  - torch.cat([velocity, growth[:, None]], dim=1)
  + torch.cat([velocity, (growth if self.span > 0 else -growth)[:, None]], dim=1)
interpolated cells keep their mass | fits/fit.py | exact/test_bridge_growth
  - start.mass if grown is None else _grown_mass(start.mass, grown[-1], time)
  + start.mass
velocities per unit of progress, not of the user's time | fits/fit.py | test_clock
  - v = self.dynamics.velocity(t, z) * rate[..., None].to(z)
  + v = self.dynamics.velocity(t, z)
distances that keep the noise of sampling | clock.py | test_clock
  - max(between - within, SIGNAL * between)
  + between
fits that ignore the tolerance asked for | fits/fit.py | fits/test_fit
  - limits=limits,
  + limits=Limits(),
networks simulated with the units of another one | networks/mlp.py | networks/test_evaluator
  - (first[:, :dim] / u.scale).float()
  + first[:, :dim].float()
settings that are gone read as if they were off | fits/folder.py | networks/test_registry
  - or (v and k != "kind")
  + or False
steps that ignore their interval | simulate/job.py | simulate/test_chunks
  - abs(segment.span) / segment.interval
  + abs(segment.span)
# --- fast ways to the same result
a step's pairs taken from those of all steps | batches/pools.py | batches/test_pools
  - torch.arange(total).view(self.steps, -1)[
  + torch.arange(total).view(-1, self.steps).t()[
pairs of fresh steps shuffled as those of a pool | batches/sampler.py | batches/test_pools
  - self._shuffles = not fresh
  + self._shuffles = True
threads put chunks of a pool in the wrong order | batches/pools.py | batches/test_pools
  - for k, f in enumerate(self.futures)]
  + for k, f in enumerate(self.futures)][::-1]
rows pay nothing for their columns | transport/assignment/_auction.py | transport/test_assignment
  - u[i] = c[i, col[i]] - v[col[i]]
  + u[i] = c[i, col[i]]
shortest paths leave prices behind | transport/assignment/_auction.py | transport/test_assignment
  - v[order[q]] += distance[order[q]] - least
  + v[order[q]] += 0.0 * least
blocks take any reassignment | transport/clouds/_block_auction.py | couplings/test_hierarchical
  - if not done or not new < old:
  + if not done:
a block's prices move the wrong way | transport/clouds/_block_auction.py | couplings/test_hierarchical
  - += DAMPING * (v[q]
  + -= DAMPING * (v[q]
a certificate that skips cells | transport/clouds/_block_auction.py | couplings/test_hierarchical
  - for start in range(0, len(y), width):
  + for start in range(0, len(y), 2 * width):
a certificate of rows' prices for columns' | transport/clouds/duality_gap.py | couplings/test_hierarchical
  - u = _least((x, y), v, everything[0], run)
  + u = _least((x, y), mean, everything[0], run)
a sampled certificate without its errors | transport/clouds/duality_gap.py | couplings/test_hierarchical
  - gaps.mean() + ERRORS * gaps.std() / len(rows) ** 0.5
  + gaps.mean()
exact distances certified by infeasible duals | transport/network/solve.py | transport/test_network
  - a @ (u + low) + b @ v
  + a @ u + b @ v
masses of a plan in the order of the tree | transport/network/solve.py | couplings/test_exact
  - return rows[order], cols[order], share[order]
  + return rows[order], cols[order], share[: len(order)]
plans that do not carry all mass | transport/network/solve.py | transport/test_network
  -         if left == 0:
  +         if True:
all members have the first one's seed | several/members.py | several/test_members
  - stream_seed(options.seed, k, 50)
  + stream_seed(options.seed, 0 * k, 50)
a member fitted with another one's seed | several/members.py | several/test_members
  - draw_seed(seeds[k])
  + draw_seed(seeds[k - 1])
parts of a store in the wrong order | simulate/zarr_store.py | simulate/test_zarr_store
  - group["x"][:, rows] =
  + group["x"][:, n - rows.stop : n - rows.start] =
every part of a store draws the first one's noise | simulate/zarr_store.py | simulate/test_zarr_store
  - x0[rows], first=first,
  + x0[rows], first=0,
ranks' means without their shares | _process_group.py | several/test_process_group
  - t.detach().reshape(-1) * share
  + t.detach().reshape(-1)
shares of ranks that ignore mass | paths/path.py | several/test_process_group
  - share = n * weight[k::n].sum() / weight.sum()
  + share = 1.0 * share
an activation's slope at its result | networks/fast.py | networks/test_networks
  - kept[2 * k - 1], kept[2 * k])
  + kept[2 * k], kept[2 * k - 1])
# --- the answers
sparse zeros left out of a gene's spread | answers/drivers.py | answers/test_drivers
  - squares += (b - stored) * mean**2
  + squares += 0 * (b - stored) * mean**2
gradients with neighbourhoods of a fixed width | answers/labels.py | answers/test_drivers
  - widths = squares[:, size // 2, None]
  + widths = squares[:, size // 2, None].detach()
penalties chosen without regard to freedom | answers/trends.py | answers/test_trends
  - score = (within + off) / np.maximum(free, 1e-9) ** 2
  + score = (within + off) / np.maximum(free, 1e-9) ** 0
# --- the doors
null effects of steps of any length | tl/perturb.py | doors/test_perturb
  - null = found.effect[beside] * scale[:, None]
  + null = found.effect[beside]
times in the wrong unit | pp/times.py | doors/test_times
  - return [m.value * SECONDS[m.unit or unit] / SECONDS[unit] for m in read], unit
  + return [m.value * SECONDS[unit] / SECONDS[m.unit or unit] for m in read], unit
a label asked for in the wrong unit | pp/times.py | doors/test_tl_options
  - time *= SECONDS[moment.unit] / scale
  + time *= scale / SECONDS[moment.unit]
cells of a group at the other time | pp/check.py | doors/test_check
  - n * totals[b] / totals[a]
  + n * totals[a] / totals[b]
batches compared with the next time alone | pp/check.py | doors/test_check
  - if one != other)
  + if not (batches[a] * batches[b]).any())
scales of excluded days | tl/suggest_sigma.py | doors/test_suggest_sigma
  - prep = preprocessing_of(kept.x, n_components, whiten)
  + prep = preprocessing_of(cells.x, n_components, whiten)
options without the function's defaults | cli/options.py | cli/test_commands
  - given = {"required": True} if self.required else {"default": self.default}
  + given = {"required": self.required, "default": None}
verdicts without the noise of cells | evaluate/table.py | evaluate/test_holdout
  - error = math.sqrt(deviation(values) ** 2 / len(values) + noise**2)
  + error = math.sqrt(deviation(values) ** 2 / len(values) + 0 * noise**2)
bootstrap errors of few cells for many | evaluate/table.py | evaluate/test_holdout
  - return spread * math.sqrt(min(1.0, DRAWN / cells))
  + return spread
midpoints in an order of their own | evaluate/scorer.py | evaluate/test_holdout
  - rows, order = rows.sort(stable=True)
  + order = torch.arange(len(rows))
draws of truth and prediction alike | evaluate/scorer.py | evaluate/test_holdout
  - _drawn(y, stream_seed(0, k, 23))
  + _drawn(y, stream_seed(0, k, 22))
choices that see the held-out day | evaluate/holdout.py | evaluate/test_choose
  - self.fold(k).without(k),
  + self.fold(k),
choices without regard to the error | evaluate/choose.py | evaluate/test_choose
  - sure = mean < -2 * error
  + sure = mean < 0
"""


def bugs(table: str) -> dict[str, Bug]:
    """Read the table, by names."""
    lines = [line for line in table.splitlines() if not line.startswith("#")]
    out = {}
    for head, old, new in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, file, tests = head.split(" | ")
        out[name] = Bug(file, old.removeprefix("  - "), new.removeprefix("  + "), tests)
    return out


BUGS = bugs(TABLE)


def run(source: Path, tests: str) -> tuple[int, str]:
    """Run test files against the package in `source`; the exit status, and the first failure."""
    paths = {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}  # not the working directory
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1"}
    where = "import cellflow; print(cellflow.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=environment, capture_output=True, text=True, check=False
    )
    if str(source) not in found.stdout:
        return 2, f"the copy is not what is imported: {found.stdout}{found.stderr[-200:]}"
    files = [f"tests/{name}.py" for name in tests.split()]
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    out = result.stdout
    lines = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
    text = lines[0].split(" ", 1)[1].split(" - ")[0] if lines else out[-300:]
    # A copy that does not even run is no bug that a test found.
    broken = any(word in out for word in ("NameError", "SyntaxError", "ImportError"))
    return (2 if broken or result.returncode not in (0, 1) else result.returncode), text


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
        source = Path(folder)
        shutil.copytree(
            ROOT / "cellflow", source / "cellflow", ignore=shutil.ignore_patterns("__pycache__")
        )
        files = " ".join(dict.fromkeys(f for name in names for f in BUGS[name].tests.split()))
        status, text = run(source, files)
        if status != 0:
            print(f"The tests are not green to begin with: {text}")
            return 1
        for name in names:
            bug = BUGS[name]
            path = source / "cellflow" / bug.file
            original = path.read_text(encoding="utf8") if path.exists() else ""
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
