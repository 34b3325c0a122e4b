"""Optimal transport for distances along the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import half_squared_distance
from cellflow.couplings._blocks import Block, blocks, ordered
from cellflow.couplings._pair import centred, pair_plan
from cellflow.couplings.entropic import Entropic
from cellflow.couplings.exact import GAP, network_simplex
from cellflow.plans.forms import PairPlan
from cellflow.timecourse import Snapshot
from cellflow.transport.assignment.solve import assign
from cellflow.transport.entropic.marginals import Marginal, Marginals
from cellflow.transport.entropic.solve import solve

METRICS = ("shortest_path", "heat")
#: Partitions that an exact plan is averaged over.
ROUNDS = 8
#: Mass of a block that may be lost to entries too small to list.
DUST = 1e-9
#: Cells from which the scale of a heat kernel is read.
SCALE_CELLS = 64
#: Why a plan is for straight distances.
APART = (
    "no path in the graph of nearest neighbours leads from source to target cells; "
    "straight distances took the place of those along it"
)

#: Cost between source and target cells of these indices.
Ground: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Geodesic:
    r"""Pair cells by optimal transport for half the squared distance *along the data*.

    Straight lines between cells may cross regions where there are no cells. Here the distance is
    that along a graph which joins each cell to its nearest neighbours among the cells of *both*
    snapshots together, so that pairs follow the manifold (Tong et al., 2023, "Simulation-free
    Schrödinger bridges via score and flow matching", the geodesic cost). Components of the graph
    are joined by their shortest bridges, as in a minimum spanning tree: every distance is
    finite. If no component holds cells of both snapshots, no path along the data leads from one
    to the other; the straight distance takes its place, and `fallback` says so.

    The plan is exact, or entropic if `sigma` or `epsilon` is given. Large snapshots are cut at
    random into blocks of equal mass, which are coupled block by block: it is the law of minibatch
    couplings with distances from the whole graph. Masses are respected exactly, by splitting
    cells between blocks where need be. No n × m matrix is ever made.

    The graph is only as good as the cells are dense: where snapshots hardly touch, all paths lead
    through the few cells at the contact, and distances say little about who becomes whom.

    The plan's `cost` is the straight one, as for every coupling, and so comparable with theirs.

    Parameters
    ----------
    sigma
        Diffusion of the reference for an entropic plan, data units per square root of time:
        :math:`\varepsilon = \sigma^2 \cdot \text{span}`.
    epsilon
        Regularisation of an entropic plan, in squared data units; at most one of the two.
    metric
        ``"shortest_path"`` along the graph, in data units; or ``"heat"``: Varadhan's
        :math:`-4 t \log H_t` of the graph's heat kernel, which averages over all paths, with one
        factor that gives it the median of the shortest paths. It is slower, compresses the
        farthest distances, and knows a gap by how rarely it is crossed, not by its width.
    n_neighbors
        Neighbours of each cell in the graph.
    heat_time
        Time of the heat kernel, in steps of a random walk on the graph.
    block_size
        Cells coupled together, about; snapshots no larger are coupled whole.
    rounds
        Partitions into blocks whose plans are averaged; 8 when omitted, and 1 for entropic plans,
        in which each cell has several partners already.
    tolerance, max_iter
        Of entropic plans, as in :class:`~cellflow.couplings.Entropic`.
    seed
        Decides the blocks. The order of the cells does not matter.

    Raises
    ------
    TypeError, ValueError
        If `sigma` and `epsilon` are both given, or an argument is out of bounds.

    Examples
    --------
    Cells move along an arc that almost closes. By straight distances the first cell goes across
    the gap.

    >>> import torch
    >>> from cellflow.couplings import Exact
    >>> from cellflow.timecourse import Snapshot
    >>> angle = torch.linspace(0.0, 5.5, 40, dtype=torch.float64)
    >>> arc = torch.stack([angle.cos(), angle.sin()], 1)
    >>> source, target = Snapshot(arc[:20], 0.0), Snapshot(arc[20:], 1.0)
    >>> straight, along = Exact()(source, target), Geodesic(n_neighbors=2)(source, target)
    >>> int(straight.cols[0]), int(along.cols[0])
    (15, 0)
    """

    #: The graph needs all cells: samplers must not cut snapshots into blocks.
    needs_whole: ClassVar[bool] = True

    sigma: float | None = None
    epsilon: float | None = None
    metric: str = field(default="shortest_path", kw_only=True)
    n_neighbors: int = field(default=10, kw_only=True)
    heat_time: float = field(default=10.0, kw_only=True)
    block_size: int = field(default=512, kw_only=True)
    rounds: int | None = field(default=None, kw_only=True)
    tolerance: float = field(default=1e-6, kw_only=True)
    max_iter: int = field(default=1000, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.sigma is not None and self.epsilon is not None:
            raise ValueError(_checks.message("sigma, epsilon", "both", "at most one of them"))
        _checks.choice(self.metric, METRICS, "metric")
        _checks.count(self.n_neighbors, "n_neighbors")
        # Beyond, the kernel of a cell with itself would underflow.
        _checks.number(self.heat_time, "heat_time", low=0.0, high=300.0, open_low=True)
        _checks.count(self.block_size, "block_size", low=2)
        if self.rounds is not None:
            _checks.count(self.rounds, "rounds")
        _checks.count(self.seed, "seed", low=0, high=_checks.MAX_SEED)
        Entropic(  # checks what it is given
            self.sigma,
            1.0 if self.sigma is None and self.epsilon is None else self.epsilon,
            tolerance=self.tolerance,
            max_iter=self.max_iter,
        )

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        """Couple two snapshots.

        Parameters
        ----------
        source, target
            Snapshots of n and m cells; with `sigma`, the target is the later one.

        Returns
        -------
        The plan, as pairs, on the device of the cells.

        Raises
        ------
        TypeError, ValueError
            If the snapshots do not fit each other.
        """
        x, y = centred(source, target)
        entropic = None if self.sigma is None and self.epsilon is None else self._entropic
        epsilon = None if entropic is None else entropic.epsilon_for(source, target)
        default = ROUNDS if epsilon is None else 1
        cut = blocks(
            source,
            target,
            size=self.block_size,
            rounds=default if self.rounds is None else self.rounds,
            generator=_checks.as_generator(self.seed),
        )
        ground, failed = self._ground(source, target)
        found: list[_Part] = []
        for rows, partners in cut:
            ends = np.unique(np.concatenate([block.cells for block in partners]))
            cost = ground(rows.cells, ends)
            for cols in partners:
                part = cost[:, np.searchsorted(ends, cols.cells)]
                found.append(self._solve(part, rows, cols, epsilon))
        pairs = _merged(found, (len(x), len(y)), x.device)
        plan = pair_plan(
            pairs,
            (x, y),
            (source.weights, target.weights),
            converged=all(part.converged for part in found),
        )
        reasons = [failed, *(part.fallback for part in found)]
        return replace(plan, fallback=next((text for text in reasons if text), None))

    @property
    def _entropic(self) -> Entropic:
        return Entropic(self.sigma, self.epsilon, tolerance=self.tolerance, max_iter=self.max_iter)

    def _ground(self, source: Snapshot, target: Snapshot) -> tuple[Ground, str | None]:
        """Return the cost between source and target cells, and why it is not the one asked for."""
        x, y = centred(source, target)
        n = len(x)
        from cellflow.transport import neighbours  # loads scipy's sparse matrices

        graph = neighbours.neighbour_graph(torch.cat([x, y]).cpu().numpy(), self.n_neighbors)
        if not np.isin(graph.component[:n], graph.component[n:]).any():

            def straight(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
                return half_squared_distance(x[rows], y[cols]).cpu().numpy()

            return straight, APART
        if self.metric == "shortest_path":
            return lambda rows, cols: 0.5 * graph.paths(rows, cols + n) ** 2, None
        order = np.concatenate([ordered(source), ordered(target) + n])
        nodes = order[np.linspace(0, len(order) - 1, min(SCALE_CELLS, len(order))).astype(int)]
        scale = neighbours.heat_scale(graph, nodes, self.heat_time)

        def heat(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
            # Half of -4 t log H, up to constants of rows and columns: no plan depends on these.
            cost = -2 * self.heat_time * scale * graph.log_heat(rows, cols + n, self.heat_time)
            return cost - cost.min()

        return heat, None

    def _solve(self, cost: np.ndarray, rows: Block, cols: Block, epsilon: float | None) -> _Part:
        """Couple two blocks."""
        fallback = None
        if epsilon is not None:
            a, b = (torch.from_numpy(block.mass / block.mass.sum()) for block in (rows, cols))
            s = solve(
                torch.from_numpy(cost),
                Marginals(Marginal(a), Marginal(b)),
                epsilon=epsilon,
                tolerance=self.tolerance,
                max_iter=self.max_iter,
            )
            if s.error <= self.tolerance:
                plan = s.plan.numpy()
                i, j = np.nonzero(plan > DUST / plan.size)
                mass = plan[i, j] * (rows.mass.sum() / plan[i, j].sum())
                return _Part(rows.cells[i], cols.cells[j], mass)
            fallback = (
                f"sinkhorn did not converge at epsilon {epsilon:.3g}: marginal error "
                f"{s.error:.2g} after {s.iterations} iterations"
            )
        i, j, mass, converged = _exact(cost, rows.mass, cols.mass)
        return _Part(rows.cells[i], cols.cells[j], mass, converged, fallback)


class _Part(NamedTuple):
    """Part of a plan: rows, columns and mass of its pairs, and how it went."""

    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray
    converged: bool = True
    fallback: str | None = None


def _exact(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return rows, columns and mass of an optimal plan, and whether duals certify it."""
    if len(a) == len(b) and (a == a[0]).all() and (b == a[0]).all():
        i = np.arange(len(a))
        j, u, v = assign(cost)
        primal = cost[i, j].sum()
        gap = primal - u.sum() - v.sum()
        return i, j, a, bool(gap <= GAP * (primal + 1e-6 * cost.sum() / len(a)))
    total = a.sum()
    p, q, c = (torch.from_numpy(value) for value in (a / total, b / b.sum(), cost))
    rows, cols, mass, converged = network_simplex(
        p, q, c, max_iter=100_000 + 1_000 * sum(cost.shape)
    )
    return rows.numpy(), cols.numpy(), total * mass.numpy(), converged


def _merged(
    parts: list[_Part], shape: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Put parts together, of total mass one, each pair once, sorted by row and column."""
    rows, cols, mass = (np.concatenate([part[k] for part in parts]) for k in range(3))
    keys, index = np.unique(rows * shape[1] + cols, return_inverse=True)
    rows, cols = np.divmod(keys, shape[1])
    mass = np.bincount(index, mass)
    left, right, share = (torch.from_numpy(v).to(device) for v in (rows, cols, mass / mass.sum()))
    return left, right, share
