"""Matching: any cloud carried to any other, and back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cellflow import _checks
from cellflow._files import whole_folder, write_state
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.densities import DENSITIES, Density, FittedDensity
from cellflow.fits.fit import Fit
from cellflow.fits.folder import CELLS, FORMAT, MATCH, SIDES, WHOLE, cells_of, replaceable
from cellflow.methods.generative import GENERATIVE, FittedGenerative, Generative
from cellflow.methods.method import METHODS, Method
from cellflow.metrics import METRICS
from cellflow.metrics.metric import Distance
from cellflow.simulate import path_energy
from cellflow.timecourse import Snapshot, TimeCourse

#: Longest step on the way from 0 to 1. Steps are fixed, so that where a point goes does not depend
#: on which others go with it, as it would with steps that adapt to all.
_STEP = 1 / 32
#: Items of a data set that are read at a time.
_READ = 1024


def match(
    x0: ArrayLike | Iterable[ArrayLike] | Dataset[Any] | DataLoader[Any],
    x1: ArrayLike | Iterable[ArrayLike] | Dataset[Any] | DataLoader[Any],
    method: str | Method | Density | Generative = "otcfm",
    *,
    steps: int | None = None,
    generator: Rng = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Matching:
    """Learn to carry the cloud `x0` to the cloud `x1`, of which no points belong together.

    The matching that is returned can carry other points, and be saved.

    Parameters
    ----------
    x0, x1
        Points ``(n, d)`` and ``(m, d)``: arrays, tensors or sparse matrices; or data sets and
        loaders of torch, of which items are flattened, and labels beside them left out; or other
        iterables of blocks of points. Of the last two a uniform sample is kept: see
        :meth:`cellflow.timecourse.TimeCourse.from_blocks`.
    method
        A name of :data:`cellflow.methods.METHODS`, :data:`cellflow.methods.GENERATIVE` or
        :data:`cellflow.densities.DENSITIES`, or one of those with settings of your own. A method
        learns dynamics between the clouds. Of the others, models of one cloud, two are learned:
        points go to the normal base of the first one, and from there by the second one.
    steps
        Training steps, of each model; by default the method says how many.
    generator
        Seed or generator of everything random.
    device
        Where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``; that of the points when omitted.
    dtype
        ``torch.float32`` or ``torch.float64``; that of the points when omitted.
    progress
        Whether to show a bar on standard error; by default as ``cf.settings.verbosity`` says.
    """
    mapped = {name: kind for name, kind in DENSITIES.items() if kind.invertible}
    known: dict[str, Callable[[], Method | Density | Generative]]
    known = {**METHODS, **GENERATIVE, **mapped}
    if not isinstance(method, Method | Density | Generative):
        method = known[_checks.choice(method, known, "method")]()
    course = _course(x0, x1, generator)
    how: dict[str, Any] = {"steps": steps, "device": device, "dtype": dtype, "progress": progress}
    if isinstance(method, Method):
        return DirectMatching(method.fit(course, generator=generator, **how))
    rng, model = _checks.as_generator(generator), method
    source, target = (model.fit(snapshot.x, generator=rng, **how) for snapshot in course.snapshots)
    return BaseMatching(source, target, course)


class Matching(ABC):
    """Two clouds, and maps from one to the other and back.

    The first one stands at time 0, the other at time 1 of their `course`.
    """

    course: TimeCourse

    @abstractmethod
    def carry(self, start: Snapshot) -> Snapshot:
        """Return the snapshot `start` of one side, carried to the other, with its masses."""

    @abstractmethod
    def log_prob(self, y: ArrayLike) -> Tensor:
        """Log density at `y` ``(n, d)`` of the first cloud, carried to the other: ``(n,)``."""

    @abstractmethod
    def path_energy(self, x: ArrayLike | None = None) -> float:
        r"""Mean over `x` ``(n, d)`` of :math:`\int_0^1 \lVert v(t, X_t) \rVert^2 dt` on their way.

        Of the first cloud when omitted. It is at least the mean squared distance between where
        points start and end, and just that where there is no path, through a base.
        """

    @abstractmethod
    def _write(self, folder: FilePath) -> None:
        """Write the parts to a new `folder`."""

    def transport(self, x: ArrayLike) -> Tensor:
        """Return points `x` ``(n, d)`` of the first cloud, carried to the other."""
        return self.carry(Snapshot(x, 0.0)).x

    def inverse(self, y: ArrayLike) -> Tensor:
        """Return points `y` ``(n, d)`` of the second cloud, carried back to the first."""
        return self.carry(Snapshot(y, 1.0)).x

    def score(
        self,
        metric: str | Distance = "w2",
        x0: ArrayLike | None = None,
        x1: ArrayLike | None = None,
    ) -> float:
        """Distance between the first cloud, carried, and the other.

        By a `metric`, a name of :data:`cellflow.metrics.METRICS` or such a function; of clouds `x0`
        ``(n, d)`` and `x1` ``(m, d)`` that were held back, those fitted to when omitted.
        """
        if isinstance(metric, str):
            metric = METRICS[_checks.choice(metric, METRICS, "metric")]
        start, end = self.course.snapshots
        start = start if x0 is None else Snapshot(x0, 0.0)
        end = end if x1 is None else Snapshot(x1, 1.0)
        moved = self.carry(start)
        return metric(moved.x, end.x, x_mass=moved.mass, y_mass=end.mass)

    def save(self, folder: str | FilePath) -> FilePath:
        """Write the matching to `folder`, whole or not at all; :func:`cellflow.load` reads it.

        The folder is new, empty, or that of an earlier matching, which is replaced.
        """
        folder = replaceable(folder)
        with whole_folder(folder) as place:
            self._write(place)
            (place / MATCH).write_text(json.dumps({"format": FORMAT}), encoding="utf-8")
        return folder


@dataclass(frozen=True, eq=False)
class DirectMatching(Matching):
    """Matching by dynamics that carry one cloud to the other.

    Points follow the mean flow of `fit`, that of the course of both clouds; where the method
    learned a score, ``fit.simulate`` draws their paths.
    """

    fit: Fit

    @property
    def course(self) -> TimeCourse:  # type: ignore[override]
        """Both clouds, as snapshots."""
        return self.fit.course

    def carry(self, start: Snapshot) -> Snapshot:
        return self.fit.predict(start, 1.0 - start.time, max_step=_STEP)

    def log_prob(self, y: ArrayLike) -> Tensor:
        return self.fit.log_prob(y, 1.0)

    def path_energy(self, x: ArrayLike | None = None) -> float:
        x = self.course.snapshots[0].x if x is None else x
        return path_energy(self.fit, x, t0=0.0, t1=1.0)

    def _write(self, folder: FilePath) -> None:
        self.fit.save(folder / WHOLE)


@dataclass(frozen=True, eq=False)
class BaseMatching(Matching):
    """Matching by two models: from one cloud to their common normal base, and on to the other.

    As between diffusion models :cite:`su2023`. What it carries has the second cloud's law where
    both models are exact, but its way is not short: the base does not know who is near whom.

    The models of the first and of the second cloud are `source` and `target`; both clouds, as
    snapshots, are `course`.
    """

    source: FittedDensity | FittedGenerative
    target: FittedDensity | FittedGenerative
    course: TimeCourse

    def carry(self, start: Snapshot) -> Snapshot:
        here, there = (self.target, self.source) if start.time else (self.source, self.target)
        with torch.no_grad():
            x = there.decode(here.encode(start.x))
        return replace(start, x=x.to(start.x), time=1.0 - start.time)

    def log_prob(self, y: ArrayLike) -> Tensor:
        return self.target.log_prob(y)

    def path_energy(self, x: ArrayLike | None = None) -> float:
        start = self.course.snapshots[0] if x is None else Snapshot(x, 0.0)
        return float((self.carry(start).x - start.x).square().sum(1).mean())

    def _write(self, folder: FilePath) -> None:
        for name, model in zip(SIDES, (self.source, self.target), strict=True):
            if isinstance(model, FittedGenerative):
                model.fit.save(folder / name)
            else:
                write_state(folder / name, model.tensors(), model.facts())
        write_state(folder / CELLS, cells_of(self.course), {})


def _course(x0: Any, x1: Any, generator: Rng) -> TimeCourse:
    """Return both clouds as snapshots at times 0 and 1."""
    sources: list[Any] = []
    streams = False
    for name, x in (("x0", x0), ("x1", x1)):
        if isinstance(x, Dataset):
            x = DataLoader(x, batch_size=_READ, generator=torch.Generator())  # the global one stays
        if isinstance(x, DataLoader):
            x = map(_points, x)
        stream = isinstance(x, Iterable) and not isinstance(x, str | list | tuple)
        stream = stream and not hasattr(x, "ndim")
        dim = sources[0].shape[1] if sources and not streams else None
        sources.append(x if stream else _checks.as_cells(x, name, dim=dim))
        streams = streams or stream
    if streams:
        return TimeCourse.from_blocks(sources, generator=generator)
    return TimeCourse.from_arrays(sources)


def _points(block: Any) -> Any:
    """Return a block of a loader as points ``(b, d)``, without what stands beside them."""
    x = block[0] if isinstance(block, list | tuple) else block
    return x.reshape(len(x), -1) if isinstance(x, torch.Tensor) else x
