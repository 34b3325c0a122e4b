"""Snapshots of a population, and the time course that they form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from cellflow import _checks, _doors
from cellflow._typing import ArrayLike, Rng, Tensor

#: Numbers that are read at once of an array on disk.
_READ = 2**22


@_doors.door
@dataclass(frozen=True, eq=False)
class Snapshot:
    """Cells observed at one time.

    Parameters
    ----------
    x
        Cell states, shape ``(n, d)``.
    time
        Real time, in the user's unit (days unless said otherwise).
    mass
        Mass of each cell, shape ``(n,)``, positive; uniform with total one when omitted.
    labels
        Optional label of each cell (a condition, a cell type), length ``n``; kept as text.
    growth
        Optional prior net growth rate of each cell (birth minus death, per unit of time), ``(n,)``.
    velocity
        Optional measured velocity of each cell, such as RNA velocity, per unit of time, ``(n, d)``.
    """

    x: Tensor
    time: float
    mass: Tensor = None  # type: ignore[assignment] # a tensor once constructed
    labels: Sequence[str] | None = None
    growth: Tensor | None = None
    velocity: Tensor | None = None

    if TYPE_CHECKING:  # arrays are converted

        def __init__(
            self,
            x: ArrayLike,
            time: float,
            mass: ArrayLike | None = None,
            labels: Sequence[str] | None = None,
            growth: ArrayLike | None = None,
            velocity: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        x = _checks.as_cells(self.x, "x")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "time", _checks.number(self.time, "time"))
        n = x.shape[0]
        mass = x.new_full((n,), 1.0 / n) if self.mass is None else _per_cell(self.mass, "mass", x)
        if not bool(torch.isfinite(mass).all() and (mass > 0).all()):
            got = f"values from {mass.min():g} to {mass.max():g}"
            raise ValueError(
                _checks.message("mass", got, "positive finite", "Drop cells without mass.")
            )
        object.__setattr__(self, "mass", mass)
        if self.labels is not None:
            object.__setattr__(self, "labels", [str(label) for label in self.labels])
            if len(self.labels) != n:
                raise ValueError(_checks.message("labels", f"{len(self.labels)} labels", f"{n}"))
        if self.growth is not None:
            growth = _per_cell(self.growth, "growth", x)
            if not bool(torch.isfinite(growth).all()):
                got, remedy = "NaN or infinite values", "Use 0 where unknown."
                raise ValueError(_checks.message("growth", got, "finite rates", remedy))
            object.__setattr__(self, "growth", growth)
        if self.velocity is not None:
            velocity = _checks.as_cells(self.velocity, "velocity").to(x)
            if velocity.shape != x.shape:
                got, expected = f"shape {tuple(velocity.shape)}", f"{tuple(x.shape)}, as of x"
                raise ValueError(_checks.message("velocity", got, expected))
            object.__setattr__(self, "velocity", velocity)

    def __len__(self) -> int:
        return self.x.shape[0]

    def __repr__(self) -> str:
        return f"Snapshot({len(self)} cells × {self.x.shape[1]} dimensions, time={self.time:g})"

    @cached_property
    def total_mass(self) -> float:
        """Sum of the masses."""
        return float(self.mass.double().sum())

    @property
    def weights(self) -> Tensor:
        """Masses scaled to sum to one, shape ``(n,)``, in float64."""
        mass = self.mass.double()
        return mass / mass.sum()

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all cells carry the same mass."""
        return bool((self.mass == self.mass[0]).all())

    def subset(self, index: Tensor) -> Snapshot:
        """Return the cells at `index` (a long tensor), with all that is known of them."""
        _checks.rows(index, len(self), "index")
        labels = None if self.labels is None else [self.labels[i] for i in index.tolist()]
        growth, velocity = (None if v is None else v[index] for v in (self.growth, self.velocity))
        return Snapshot(self.x[index], self.time, self.mass[index], labels, growth, velocity)

    def shuffled(self, most: int, generator: torch.Generator) -> Snapshot:
        """Return its cells in random order by a CPU `generator`, `most` of them at most."""
        order = torch.randperm(len(self), generator=generator)[: _checks.count(most, "most")]
        return self.subset(order.to(self.x.device))

    @property
    def effective(self) -> float:
        """Effective number of cells: of as many equal masses a mean would be as uncertain."""
        w = self.weights
        return float(w.sum() ** 2 / w.square().sum())


def joined(parts: Sequence[Snapshot]) -> Snapshot:
    """Return the cells of `parts`, snapshots at one time, as one, with their masses.

    It has labels where all parts have them.
    """
    if len(parts) == 1:
        return parts[0]
    labels = None
    if all(s.labels is not None for s in parts):
        labels = [label for s in parts for label in s.labels or ()]
    x, mass = torch.cat([s.x for s in parts]), torch.cat([s.mass for s in parts])
    return Snapshot(x, parts[0].time, mass, labels)


@_doors.door
@dataclass(frozen=True, eq=False)
class TimeCourse:
    """Snapshots at strictly increasing, possibly unequally spaced, times.

    Build it with :meth:`from_arrays`.

    Parameters
    ----------
    snapshots
        At least two snapshots of equal dimension, dtype and device, in order of time.
    unit
        Name of the time unit, for labels only.
    """

    snapshots: tuple[Snapshot, ...]
    unit: str = "day"

    def __post_init__(self) -> None:
        snapshots = tuple(self.snapshots)
        for snapshot in snapshots:
            if not isinstance(snapshot, Snapshot):
                got = f"a {type(snapshot).__name__} among them"
                raise TypeError(_checks.message("snapshots", got, "snapshots"))
        object.__setattr__(self, "snapshots", snapshots)
        if len(snapshots) < 2:
            got, remedy = f"{len(snapshots)} time point(s)", "A course needs a start and an end."
            raise ValueError(_checks.message("snapshots", got, "at least two", remedy))
        for before, after in pairwise(snapshots):
            if after.time <= before.time:
                got, expected = f"{after.time:g} after {before.time:g}", "strictly increasing times"
                remedy = "Sort the snapshots by time and merge those of equal time."
                raise ValueError(_checks.message("times", got, expected, remedy))
            name = f"snapshot at time {after.time:g}"
            _checks.as_cells(after.x, name, dim=before.x.shape[1])
            kinds = [f"{s.x.dtype} on {s.x.device}" for s in (before, after)]
            if kinds[0] != kinds[1]:
                expected = f"{kinds[0]} as in the other snapshots"
                raise ValueError(_checks.message(name, kinds[1], expected, "Convert it with .to."))

    @classmethod
    def from_arrays(
        cls,
        xs: Sequence[ArrayLike],
        times: Sequence[float] | None = None,
        *,
        masses: Sequence[ArrayLike] | None = None,
        growths: Sequence[ArrayLike | None] | None = None,
        velocities: Sequence[ArrayLike | None] | None = None,
        unit: str = "day",
    ) -> TimeCourse:
        """Build a course from one array of cells per time point.

        Parameters
        ----------
        xs
            One ``(n_k, d)`` array or tensor per time point, taken to their common floating type.
        times
            Time of each; ``0, 1, 2, …`` when omitted.
        masses, growths, velocities
            Of each cell, as in :class:`Snapshot`: one array per time point.
        unit
            Name of the time unit.
        """
        xs = list(xs)
        times = list(range(len(xs))) if times is None else list(times)
        if len(times) != len(xs):
            raise ValueError(_checks.message("times", f"{len(times)} times", f"{len(xs)}"))
        known = {"masses": masses, "growths": growths, "velocities": velocities}
        for name, values in known.items():
            if values is not None and len(values) != len(xs):
                raise ValueError(_checks.message(name, f"{len(values)} arrays", f"{len(xs)}"))
        cells = [_checks.as_cells(x, f"xs[{k}]") for k, x in enumerate(xs)]
        if cells:
            dtype = reduce(torch.promote_types, (x.dtype for x in cells))
            cells = [x.to(dtype) for x in cells]
        given = ([None] * len(xs) if values is None else values for values in known.values())
        parts = zip(cells, times, *given, strict=True)
        made = (Snapshot(x, t, mass, None, rate, v) for x, t, mass, rate, v in parts)
        return cls(tuple(made), unit)

    @classmethod
    def from_blocks(
        cls,
        sources: Sequence[Iterable[ArrayLike]],
        times: Sequence[float] | None = None,
        *,
        most: int = 100_000,
        generator: Rng = 0,
        unit: str = "day",
    ) -> TimeCourse:
        """Build a course of cells that do not fit memory, by `most` cells of each time point.

        Each source is read once. Cells are drawn uniformly, without replacement; which ones,
        depends on the seed and on the order of cells, not on the size of blocks. In memory are a
        block and a few times `most` cells. A time point of no more than `most` cells is taken
        whole: of such, the course is that of :meth:`from_arrays`.

        Parameters
        ----------
        sources
            One per time point: blocks of ``(b, d)`` cells, such as a ``DataLoader`` or a generator
            gives, or an ``(n, d)`` array on disk (memory map, HDF5, zarr).
        times
            Time of each; ``0, 1, 2, …`` when omitted.
        most
            Cells of a time point to keep. A fit of S steps meets S times its batch size of them.
        generator
            Seed or generator of the draw. With other seeds, and each fit going on from the last
            one (``net=fit.networks``), training meets all cells.
        unit
            Name of the time unit.
        """
        _checks.count(most, "most")
        rng = _checks.as_generator(generator)
        drawn = [_drawn(s, f"sources[{k}]", most, rng) for k, s in enumerate(sources)]
        return cls.from_arrays(drawn, times, unit=unit)

    def __len__(self) -> int:
        return len(self.snapshots)

    @property
    def dim(self) -> int:
        """Dimension d of the state space."""
        return self.snapshots[0].x.shape[1]

    @property
    def times(self) -> tuple[float, ...]:
        """Time of each snapshot."""
        return tuple(s.time for s in self.snapshots)

    @property
    def steps(self) -> tuple[tuple[Snapshot, Snapshot], ...]:
        """Consecutive pairs of snapshots."""
        return tuple(pairwise(self.snapshots))

    @property
    def x(self) -> Tensor:
        """All cells, stacked in order of time, shape ``(sum n_k, d)``.

        Not a copy where they lie one behind the other in memory: leave it as it is.
        """
        xs = [s.x for s in self.snapshots]
        if all(_follows(after, before) for before, after in pairwise(xs)):
            return xs[0].as_strided((sum(map(len, xs)), self.dim), (self.dim, 1))
        return torch.cat(xs)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TimeCourse:
        """Return the course on another `device` or in another floating `dtype`."""
        place = _checks.as_device(device, self.x.device)
        return self.map(lambda x: x.to(device=place, dtype=dtype))

    def map(self, transform: Callable[[Tensor], Tensor]) -> TimeCourse:
        """Return the course with `transform`, a function of ``(n, d)`` cells, applied.

        Velocities become those of the transformed cells, by the derivative of `transform`.
        """
        # A snapshot takes its masses and rates to the device and dtype of its cells.
        made = []
        for s in self.snapshots:
            with _checks.by_function("transform"):
                x, v = transform(s.x), s.velocity
                if v is not None:
                    v = torch.func.jvp(transform, (s.x,), (v,))[1]
            made.append(replace(s, x=x, velocity=v))
        return TimeCourse(tuple(made), self.unit)

    def without(self, index: int) -> TimeCourse:
        """Return the course with the snapshot at position `index` left out."""
        n = len(self)
        index = _checks.count(index, "index", low=-n, high=n - 1)
        kept = tuple(s for k, s in enumerate(self.snapshots) if k != index % n)
        return TimeCourse(kept, self.unit)

    def retimed(self, times: Sequence[float]) -> TimeCourse:
        """Return the course with other `times`, for example ``range(len(course))``.

        Growth rates and velocities are per unit of time: where the span of an interval changes,
        those of the cells at its start are rescaled by as much.
        """
        times = _checks.several(times, "times")
        if len(times) != len(self):
            raise ValueError(_checks.message("times", f"{len(times)} times", f"{len(self)}"))
        pairs = zip(self.snapshots, times, strict=True)
        course = TimeCourse(tuple(replace(s, time=t) for s, t in pairs), self.unit)
        spans = [[b.time - a.time for a, b in c.steps] for c in (self, course)]
        ratios = [old / new for old, new in zip(*spans, strict=True)]
        ratios.append(ratios[-1])  # nothing follows the last snapshot
        rescaled = []
        for s, ratio in zip(course.snapshots, ratios, strict=True):
            growth, v = (None if r is None else r * ratio for r in (s.growth, s.velocity))
            rescaled.append(replace(s, growth=growth, velocity=v))
        return TimeCourse(tuple(rescaled), self.unit)


def _drawn(source: Iterable[ArrayLike], name: str, most: int, rng: torch.Generator) -> Tensor:
    """Return `most` cells of `source`, or all if it has fewer, in their order.

    Each cell gets a random key, and those of the least keys are kept.
    """
    cells: list[Tensor] = []
    keys: list[Tensor] = []
    least, have = math.inf, 0
    for block in _blocks(source):
        if isinstance(block, Sequence) and len(block) == 1 and getattr(block[0], "ndim", 1) == 2:
            block = block[0]  # of a loader of tuples of one tensor
        dim = cells[0].shape[1] if cells else None
        x = _checks.as_cells(block, name, dim=dim, min_cells=0).detach()
        key = torch.rand(len(x), generator=rng, device=rng.device, dtype=torch.float64)
        near = key < least
        cells.append(x[near.to(x.device)])
        keys.append(key[near])
        have += len(keys[-1])
        if have > 2 * most:
            cells, keys = _least(cells, keys, most)
            least, have = float(keys[0].max()), most
    if not have:
        remedy = "A generator is read once: make another one."
        raise ValueError(_checks.message(name, "no cells", "blocks of (b, d) cells", remedy))
    return _least(cells, keys, most)[0][0]


def _least(cells: list[Tensor], keys: list[Tensor], most: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the `most` cells of least key, in their order, and their keys, as one block."""
    key, x = torch.cat(keys), torch.cat(cells)
    kept = key.topk(min(most, len(key)), largest=False).indices.sort().values
    return [x[kept.to(x.device)]], [key[kept]]


def _blocks(source: Iterable[ArrayLike]) -> Iterator[ArrayLike]:
    """Return the blocks of cells of `source`; of an array, its rows in turn."""
    if getattr(source, "ndim", 0) != 2:
        return iter(source)
    n, d = source.shape  # type: ignore[attr-defined] # an array
    rows = max(1, _READ // max(1, d))
    return (source[k : k + rows] for k in range(0, n, rows))  # type: ignore[index]


def _per_cell(values: ArrayLike, name: str, x: Tensor) -> Tensor:
    """Return one number per cell, in the dtype and on the device of the cells `x`."""
    out = _checks.as_numbers(values, name).to(x)
    if out.shape != x.shape[:1]:
        raise ValueError(_checks.message(name, f"shape {tuple(out.shape)}", f"({len(x)},)"))
    return out


def _follows(after: Tensor, before: Tensor) -> bool:
    """Whether cells begin in memory where those `before` end."""
    whole = before.is_contiguous() and after.is_contiguous() and not before.requires_grad
    return (
        whole
        and before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
        and before.data_ptr() + before.numel() * before.element_size() == after.data_ptr()
    )
