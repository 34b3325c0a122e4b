"""Log-densities of 1,000 cells, on one thread: seconds against zuko's flow of the same field.

    python benchmarks/speed/likelihood.py

The field is five times the default network, 3 x 64, in 5 and in 50 dimensions, over one interval:
ours by six Runge-Kutta steps, as `fit.log_prob`, exact and by 16 probes; zuko's FFJORD transform by
its adaptive solver at 1e-4, exact. The base is a standard normal law. Errors are the largest
difference from Runge-Kutta with 60 steps, in nats. An evaluation costs both the same.
"""

from __future__ import annotations

from functools import partial

import torch
from timing import Row, interleaved, print_rows, skip_aloud

from cellflow.dynamics import Dynamics
from cellflow.networks import MLPConfig, Units
from cellflow.simulate import log_likelihood
from cellflow.simulate.integration import Integration

TARGETS = {5: "≤ 0.5 s", 50: "≤ 5 s"}


def rows(dim: int) -> list[Row]:
    """Measure in `dim` dimensions."""
    net = MLPConfig().build(Units((0.0,) * dim), generator=0)

    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 5 * net(t, x)

    x = torch.randn(1000, dim, generator=torch.Generator().manual_seed(0))
    base = torch.distributions.MultivariateNormal(torch.zeros(dim), torch.eye(dim))
    known = {"base": base, "base_time": 0.0}
    ours = partial(log_likelihood, Dynamics(field), x, 1.0, **known)
    six, sixty = Integration(max_step=1 / 6), Integration(max_step=1 / 60)
    exact = ours(how=sixty).log_prob
    error = float((ours(how=six).log_prob - exact).abs().max())
    theirs, note = None, f"error {error:.1g}"
    try:
        from zuko.transforms import FreeFormJacobianTransform

        ends = torch.tensor(1.0), torch.tensor(0.0)
        peer = FreeFormJacobianTransform(field, *ends, atol=1e-4, rtol=1e-4)

        @torch.no_grad()
        def theirs() -> torch.Tensor:
            end, log_volume = peer.call_and_ladj(x)
            return base.log_prob(end) + log_volume

        note += f", zuko's {float((theirs() - exact).abs().max()):.1g}"
    except ImportError as error:
        skip_aloud("zuko", error)
    work = f"log_prob, 1,000 cells in {dim}-D"
    time = interleaved(partial(ours, how=six), theirs or (lambda: None), rounds=3)
    found = (
        (time.theirs, "s", TARGETS[dim], time.ratio) if theirs else (None, "s", TARGETS[dim], None)
    )
    out = [Row(f"{work}, exact", "zuko", time.ours, *found, note, span=time.span)]
    if dim > 16:
        probed = interleaved(partial(ours, how=six, probes=16), lambda: None, rounds=3)
        out.append(Row(f"{work}, 16 probes", "-", probed.ours, None, "s", "", None))
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    print_rows([row for dim in TARGETS for row in rows(dim)])
