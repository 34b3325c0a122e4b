"""Plans between many cells that are held as potentials, never as a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow._typing import Tensor
from cellflow.plans.plan import Plan
from cellflow.transport.entropic.tiled import Gibbs, tile_entries


@dataclass(frozen=True, eq=False, kw_only=True)
class PotentialPlan(Plan):
    r"""Plan :math:`P_{ij} = a_i\,\mathrm{softmax}_j(x_i \cdot y_j / \varepsilon + h_j)`.

    Takes ``O((n + m) d)`` memory. Rows are computed in tiles of bounded size where they are asked
    for: `k` pairs cost ``O(k m d)`` time, at most ``O(n m d)``.

    Parameters
    ----------
    gibbs
        The clouds and the regularisation.
    a
        Mass of each source cell, shape ``(n,)``, float64, of total one.
    h
        Column part of the scores, shape ``(m,)``.
    reached
        Mass that reaches each target cell, shape ``(m,)``.
    effective
        Effective number of partners of a source cell.
    """

    gibbs: Gibbs
    a: Tensor
    h: Tensor
    reached: Tensor
    effective: float

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.h)

    @property
    def row_mass(self) -> Tensor:
        return self.a

    @property
    def col_mass(self) -> Tensor:
        return self.reached

    @property
    def partners(self) -> float:
        return self.effective

    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # One uniform number in each stratum of the cumulated mass, as from the matrix row by row:
        # the row it falls into, and how far into it.
        uniform = torch.rand(k, generator=generator, device=generator.device, dtype=torch.float64)
        order = torch.randperm(k, generator=generator, device=generator.device)
        level = ((order + uniform) / k).to(self.a.device)
        ends = self.a.cumsum(0)
        level, back = torch.sort(level * ends[-1])
        below = torch.nextafter(ends[-1], torch.zeros_like(ends[-1]))
        rows = torch.searchsorted(ends, torch.minimum(level, below), right=True)
        part = (level - (ends - self.a)[rows]) / self.a[rows]
        cols = torch.empty_like(rows)
        which, inverse = torch.unique_consecutive(rows, return_inverse=True)
        step = max(1, tile_entries(self.a) // len(self.h))
        for start in range(0, len(which), step):
            now = (inverse >= start) & (inverse < start + step)
            cols[now] = self._within(which[start : start + step], inverse[now] - start, part[now])
        place = torch.empty_like(back)
        place[back] = torch.arange(k, device=back.device)
        return rows[place], cols[place]

    def _within(self, rows: Tensor, tile_row: Tensor, part: Tensor) -> Tensor:
        """Return the columns where the cumulated mass of some rows passes a part of it."""
        m = len(self.h)
        ends = torch.softmax(self.gibbs.scores(rows, self.h), 1).cumsum(1)
        ends /= ends[:, -1:].clone()
        # Row after row on one line, so that a row may be asked for more than once.
        line = (ends + torch.arange(len(rows), device=ends.device)[:, None]).flatten()
        inside = part.clamp(0.0, 1.0 - 1e-12)
        return (torch.searchsorted(line, tile_row + inside, right=True) - tile_row * m).clamp(
            0, m - 1
        )

    def _dense(self) -> Tensor:
        tiles = [torch.softmax(self.gibbs.scores(r, self.h), 1) for r in self.gibbs.tiles()]
        return self.a[:, None] * torch.cat(tiles)


def potential_plan(
    gibbs: Gibbs,
    masses: tuple[Tensor, Tensor],
    h: Tensor,
    *,
    shift: Tensor,
    converged: bool,
    fallback: str | None,
) -> PotentialPlan:
    r"""Return the plan of `h`: one pass for its cost, its columns and its partners.

    The cost is :math:`\tfrac12|x_i + \text{shift} - y_j|^2`.
    """
    a, b = masses
    x, y, epsilon = gibbs
    reached, effective, inner = torch.zeros_like(h), 0.0, 0.0
    for rows in gibbs.tiles():
        scores = gibbs.scores(rows, h)
        share = torch.softmax(scores, 1)
        # Where a share underflows, its score is finite: nothing times something.
        mean = (share * scores).sum(1)
        entropy = torch.logsumexp(scores, 1) - mean
        effective += float(torch.dot(a[rows], entropy.exp()))
        inner += epsilon * float(torch.dot(a[rows], mean - share @ h))
        reached += a[rows] @ share
    moved = x + shift
    cost = 0.5 * float(a @ (moved * moved).sum(1) + reached @ (y * y).sum(1))
    return PotentialPlan(
        cost=max(cost - inner - float(shift @ (y.T @ reached)), 0.0),
        converged=converged,
        fallback=fallback,
        marginal_error=float((reached - b).abs().sum()),
        gibbs=gibbs,
        a=a,
        h=h,
        reached=reached,
        effective=effective / float(a.sum()),
    )
