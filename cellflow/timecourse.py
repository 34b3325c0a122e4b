"""The time course that snapshots of a population form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import cast

import torch

from cellflow import _checks, _doors
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.conditions import Condition, Conditions
from cellflow.snapshot import Snapshot, totals

__all__ = ["Snapshot", "TimeCourse"]

#: Numbers that are read at once of an array on disk.
_READ = 2**22


@_doors.door
@dataclass(frozen=True, eq=False)
class TimeCourse:
    """Snapshots at strictly increasing, possibly unequally spaced, times.

    Build it with :meth:`from_arrays`.

    At least two `snapshots` of equal dimension, dtype and device are in order of time, whose `unit`
    is for labels only. The `conditions` are what the codes of the cells' conditions stand for, None
    where cells have none. Where all snapshots have a mass of one, which says nothing of a
    population's size, each stratum of conditions is given a mass of one at each time instead.
    """

    snapshots: tuple[Snapshot, ...]
    unit: str = "day"
    conditions: Conditions | None = None

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
        known = 0 if self.conditions is None else len(self.conditions)
        for s in snapshots:
            if (s.condition is None) == bool(known):
                got = "conditions without codes" if known else "codes without conditions"
                expected = "both or neither, for all snapshots"
                raise ValueError(_checks.message("conditions", got, expected))
            if s.condition is not None and int(s.condition.max()) >= known:
                got, expected = f"a code of {int(s.condition.max())}", f"codes below {known}"
                raise ValueError(_checks.message("condition", got, expected))
        if known and all(math.isclose(s.total_mass, 1.0, rel_tol=1e-4) for s in snapshots):
            pairs = zip(snapshots, self.strata, strict=True)
            alike = (replace(s, mass=s.mass.double() / totals(s.mass, n)[n]) for s, n in pairs)
            object.__setattr__(self, "snapshots", tuple(alike))

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
        conditions: Conditions | None = None,
        codes: Sequence[ArrayLike] | None = None,
    ) -> TimeCourse:
        """Build a course from one array of cells per time point.

        There is one ``(n_k, d)`` array or tensor of `xs` per time point, taken to their common
        floating type; the `times`, in the `unit` of that name, are ``0, 1, 2, …`` when omitted. As
        in :class:`Snapshot`, of each cell, are `masses`, `growths` and `velocities`: one array per
        time point. So are `codes` ``(n_k,)``, the position of each cell's condition among the
        `conditions`.
        """
        xs = list(xs)
        times = list(range(len(xs))) if times is None else list(times)
        if len(times) != len(xs):
            raise ValueError(_checks.message("times", f"{len(times)} times", f"{len(xs)}"))
        known = {"masses": masses, "growths": growths, "velocities": velocities, "codes": codes}
        for name, values in known.items():
            if values is not None and len(values) != len(xs):
                raise ValueError(_checks.message(name, f"{len(values)} arrays", f"{len(xs)}"))
        cells = [_checks.as_cells(x, f"xs[{k}]") for k, x in enumerate(xs)]
        if cells:
            dtype = reduce(torch.promote_types, (x.dtype for x in cells))
            cells = [x.to(dtype) for x in cells]
        given = ([None] * len(xs) if values is None else values for values in known.values())
        parts = zip(cells, times, *given, strict=True)
        made = (Snapshot(x, t, mass, None, g, code, v) for x, t, mass, g, v, code in parts)
        return cls(tuple(made), unit, conditions)

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

        There is one of the `sources` per time point: blocks of ``(b, d)`` cells, such as a
        ``DataLoader`` or a generator gives, or an ``(n, d)`` array on disk (memory map, HDF5,
        zarr). Their `times` are ``0, 1, 2, …`` when omitted, in the `unit` of that name. A fit of S
        steps meets S times its batch size of cells. With other seeds or states of the `generator`,
        and each fit going on from the last one (``net=fit.networks``), training meets all cells.
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
    def strata(self) -> tuple[Tensor, ...]:
        """Number of each cell's stratum, ``(n_k,)`` for each snapshot; 0 without conditions."""
        if self.conditions is None:
            return tuple(s.x.new_zeros(len(s), dtype=torch.long) for s in self.snapshots)
        of_code = torch.empty(len(self.conditions), dtype=torch.long)
        for j, codes in enumerate(self.conditions.strata()):
            of_code[list(codes)] = j
        known = (s.condition for s in self.snapshots if s.condition is not None)
        return tuple(of_code.to(codes.device)[codes] for codes in known)

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
        return replace(self, snapshots=tuple(made))

    def without(self, index: int) -> TimeCourse:
        """Return the course with the snapshot at position `index` left out."""
        n = len(self)
        index = _checks.count(index, "index", low=-n, high=n - 1)
        kept = tuple(s for k, s in enumerate(self.snapshots) if k != index % n)
        return replace(self, snapshots=kept)

    def part(self, k: int, rows: Tensor) -> Snapshot:
        """Return the cells at `rows`, in order, of snapshot `k`, with the masses that they have.

        They are not copied where they lie one behind the other.
        """
        s, low, high = self.snapshots[k], int(rows[0]), int(rows[-1]) + 1
        if high - low != len(rows):
            return s.subset(rows)
        near = slice(low, high)
        return Snapshot(s.x[near], s.time, s.mass[near], *s.rest(near))

    def under(self, condition: Condition) -> TimeCourse:
        """Return the course of the cells under one `condition`, without codes.

        One that does not tell all covariates is that of all cells which agree in those it tells.
        Time points before its first cells are those of its control; others that it lacks are left
        out. An error for a condition that no cell was under.
        """
        if not self.saw(condition):
            got = "none: the course has none" if self.conditions is None else repr(condition)
            remedy = "The course of another one is predicted: fit.given(condition).course."
            raise ValueError(_checks.message("condition", got, "one that cells had", remedy))
        return TimeCourse(tuple(self._under(condition)), self.unit)

    def start_of(self, condition: Condition) -> Snapshot | None:
        """Return the first cells that those under a `condition` come from, seen or not.

        They are its own or its control's; None where no cell was under it and there is no control.
        """
        return next(self._under(condition), None)

    def saw(self, condition: Condition) -> bool:
        """Return whether some cell was under a `condition`."""
        own = () if self.conditions is None else self.conditions.codes(condition)
        return any(bool(_among(s, own).any()) for s in self.snapshots if own)

    def _under(self, condition: Condition) -> Iterator[Snapshot]:
        """Yield the snapshots of a condition, its control's until it begins, if it does."""
        if self.conditions is None:
            return
        known, own = self.conditions, self.conditions.codes(condition)
        bases = [known.control_of(known.values[code]) for code in own]
        base = [c for c in bases or [known.control_of(condition)] if c is not None]
        begun = False
        for k, s in enumerate(self.snapshots):
            mine = _among(s, own)
            begun = begun or bool(mine.any())
            rows = (mine if begun else _among(s, base)).nonzero()[:, 0]
            if len(rows):
                yield replace(self.part(k, rows), condition=None)

    def retimed(self, times: Sequence[float]) -> TimeCourse:
        """Return the course with other `times`, for example ``range(len(course))``.

        Growth rates and velocities are per unit of time: where the span of an interval changes,
        those of the cells at its start are rescaled by as much.
        """
        times = _checks.several(times, "times")
        if len(times) != len(self):
            raise ValueError(_checks.message("times", f"{len(times)} times", f"{len(self)}"))
        pairs = zip(self.snapshots, times, strict=True)
        course = replace(self, snapshots=tuple(replace(s, time=t) for s, t in pairs))
        spans = [[b.time - a.time for a, b in c.steps] for c in (self, course)]
        ratios = [old / new for old, new in zip(*spans, strict=True)]
        ratios.append(ratios[-1])  # nothing follows the last snapshot
        rescaled = []
        for s, ratio in zip(course.snapshots, ratios, strict=True):
            growth, v = (None if r is None else r * ratio for r in (s.growth, s.velocity))
            rescaled.append(replace(s, growth=growth, velocity=v))
        return replace(self, snapshots=tuple(rescaled))


def _among(snapshot: Snapshot, codes: Sequence[int]) -> Tensor:
    """Return which cells of a `snapshot` are under conditions of these `codes`, ``(n,)`` bool."""
    own = cast(Tensor, snapshot.condition)
    return torch.isin(own, own.new_tensor(codes))


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


def _follows(after: Tensor, before: Tensor) -> bool:
    """Whether cells begin in memory where those `before` end."""
    whole = before.is_contiguous() and after.is_contiguous() and not before.requires_grad
    return (
        whole
        and before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
        and before.data_ptr() + before.numel() * before.element_size() == after.data_ptr()
    )
