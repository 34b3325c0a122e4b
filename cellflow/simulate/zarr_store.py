"""Trajectories in a zarr store, written part by part, so that they need not fit in memory.

A store is a zarr group of ``x`` ``(T, n, d)``, ``times``, with growth ``log_mass`` ``(T, n)``, and
``evaluations``: for each part (some thousand cells at all times) how often the fields were asked,
or -1 until the part is written. A part is marked after it is there, so that whatever interrupts
the work costs one part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from cellflow import _checks
from cellflow._files import whole_folder
from cellflow._typing import Tensor
from cellflow.simulate.job import Chunks, Job, integrate_cells
from cellflow.simulate.trajectory import Trajectory, row_of

#: Raised when the layout of stores changes; and under which our attributes are kept.
FORMAT, KEY = 1, "cellflow"
#: Chunks written at once, at most, and their bytes: one time is read without reading all of them.
PART_CHUNKS, CHUNK_BYTES = 16, 2**24
#: Types of numbers that a store can hold.
STORE_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class StoredTrajectory:
    """A trajectory in the zarr store `path`, of which nothing is in memory until it is asked for.

    Its `times`, `n_evaluations` and `solver` are those of :class:`Trajectory`.
    """

    path: Path
    times: Tensor
    n_evaluations: int = 0
    solver: str = ""

    @property
    def x(self) -> Any:
        """States, ``(T, n, d)``: a :class:`zarr.Array`, whose slices are numpy arrays."""
        return self._group["x"]

    @property
    def log_mass(self) -> Any:
        """Log masses relative to the first time, ``(T, n)``, as a zarr array; None without growth.

        See :attr:`Trajectory.log_mass`.
        """
        return self._group.get("log_mass")

    @property
    def final(self) -> Tensor:
        """States at the last time, ``(n, d)``, in memory."""
        return torch.from_numpy(self.x[-1])

    @property
    def path_length(self) -> Tensor:
        """Length of the polygon through each cell's states, ``(n,)``, read chunk by chunk."""
        x, cells = self.x, self.x.chunks[1]
        parts = []
        for first in range(0, x.shape[1], cells):
            states = torch.from_numpy(x[:, first : first + cells])
            wide = states.float() if states.dtype == torch.float16 else states
            parts.append(wide.diff(dim=0).norm(dim=-1).sum(0))
        return torch.cat(parts)

    def index(self, time: float) -> int:
        """Return the row of one of the simulated times, `time`."""
        return row_of(self.times, time)

    def at(self, time: float) -> Tensor:
        """Return the states at one of the simulated times, `time`, as ``(n, d)`` in memory."""
        return torch.from_numpy(self.x[self.index(time)])

    def load(self) -> Trajectory:
        """Return all of it in memory, ``T * n * d`` numbers."""
        masses = None if self.log_mass is None else torch.from_numpy(self.log_mass[:])
        x = torch.from_numpy(self.x[:])
        return Trajectory(self.times, x, masses, self.n_evaluations, self.solver)

    @cached_property
    def _group(self) -> Any:
        return _require_zarr().open_group(str(self.path), mode="r")


def open_trajectory(path: str | Path) -> StoredTrajectory:
    """Open the trajectory that a simulation has written to `path`, to be read as it is asked for.

    An interrupted simulation is refused: simulate into it again with the same arguments.
    """
    group = _open_ours(Path(path))
    facts = dict(group.attrs)[KEY] if group is not None else None
    if group is None or facts is None:
        expected = "a store that `simulate` has written"
        raise ValueError(_checks.message("path", repr(str(path)), expected))
    if not facts["complete"]:
        done = np.asarray(group["evaluations"][:])
        got = f"{str(path)!r}, of which {(done >= 0).sum()} of {len(done)} parts are written"
        remedy = "Simulate into it again with the same arguments: it goes on where it stopped."
        raise ValueError(_checks.message("path", got, "a whole simulation", remedy))
    times = torch.from_numpy(np.asarray(group["times"][:]))
    n_evaluations = int(np.asarray(group["evaluations"][:]).sum())
    return StoredTrajectory(Path(path), times, n_evaluations, facts["job"]["solver"])


def _open_ours(path: Path, mode: str = "r") -> Any:
    """Return the group at `path`, opened in `mode`; None if that is no store of this layout."""
    zarr = _require_zarr()
    if not path.is_dir():
        return None
    try:
        group = zarr.open_group(str(path), mode=mode)
        facts = dict(group.attrs).get(KEY)
    except (OSError, ValueError, KeyError, TypeError):  # no group, or unreadable attributes
        return None
    return group if isinstance(facts, dict) and facts.get("format") == FORMAT else None


def _require_zarr() -> ModuleType:
    """Import zarr, which newer versions of anndata bring along."""
    try:
        import zarr
    except ImportError as error:
        text = "Trajectories on disk need zarr: `pip install zarr`."
        raise ImportError(text) from error
    return zarr


# --- writing ---------------------------------------------------------------------------------


def write_cells(
    job: Job,
    x0: Tensor,
    *,
    times: Tensor,
    chunks: Chunks,
    like: Tensor,
    advance: Callable[[float], object],
) -> None:
    """Integrate all cells into the job's store, or those that are missing there.

    `times` ``(T,)`` are those asked for; `like` ``(1, d)`` is what is kept of one cell, in the type
    of the store.
    """
    n, width = len(x0), like.shape[1]
    per_cell = len(times) * (width + job.n_columns) * x0.element_size()
    parts = min(PART_CHUNKS, int(job.how.limits.memory / 2 // (per_cell * chunks.cells)))
    facts, shape = _facts(job, x0, times=times, like=like), (len(times), n, width)
    group = _open(job, facts, shape=shape, cells=chunks.cells * max(1, parts), times=times)
    cells = dict(group.attrs)[KEY]["cells"]
    for part, first in enumerate(range(0, n, cells)):
        rows = slice(first, min(first + cells, n))
        size = rows.stop - first
        if int(group["evaluations"][part]) >= 0:
            advance(-(-size // chunks.cells))
            continue
        kept = x0.dtype if job.how.output.readout is None else job.how.output.readout(x0[:1]).dtype
        out = x0.new_empty(len(times), size, width, dtype=kept)
        log_mass = x0.new_empty(len(times), size) if job.n_columns else None
        n_evaluations = integrate_cells(
            job, x0[rows], first=first, chunks=chunks, out=out, log_mass=log_mass, advance=advance
        )
        group["x"][:, rows] = _narrowed(out, like.dtype)
        if log_mass is not None:
            group["log_mass"][:, rows] = log_mass.cpu().numpy()
        group["evaluations"][part] = n_evaluations
    group.attrs[KEY] = {**dict(group.attrs)[KEY], "complete": True}


def as_store_dtype(dtype: torch.dtype | str | None, default: torch.dtype) -> torch.dtype:
    """Return the type of a store's numbers, `default` for None."""
    name = str(default if dtype is None else dtype).removeprefix("torch.")
    return getattr(torch, _checks.choice(name, STORE_DTYPES, "store_dtype"))


def _narrowed(states: Tensor, dtype: torch.dtype) -> np.ndarray:
    narrow = states.to(dtype)
    if dtype != states.dtype and not bool(torch.isfinite(narrow).all()):
        largest, remedy = float(states.abs().max()), "a wider type, which can hold them"
        got = f"{_name(dtype)}, for states as large as {largest:.3g}"
        raise ValueError(_checks.message("store_dtype", got, remedy))
    return narrow.cpu().numpy()


def _open(
    job: Job, facts: dict[str, Any], *, shape: tuple[int, int, int], cells: int, times: Tensor
) -> Any:
    """Return the group of the job's store: new, or of the same simulation."""
    path = Path(job.how.output.store or "")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        n_times, n, width = shape
        cells = min(cells, n)
        parts, size = -(-n // cells), cells * width * np.dtype(facts["store_dtype"]).itemsize
        layout = (min(n_times, max(1, CHUNK_BYTES // size)), cells, width)
        with whole_folder(path, replace=False) as temporary:
            group = _require_zarr().open_group(str(temporary), mode="w")
            _array(group, "x", shape, layout, facts["store_dtype"])
            if facts["growth"]:
                _array(group, "log_mass", shape[:2], (n_times, cells), facts["dtype"])
            _array(group, "evaluations", (parts,), (1,), "int64")
            group["evaluations"][:] = -1
            _array(group, "times", (n_times,), (n_times,), "float64")
            group["times"][:] = times.numpy()
            group.attrs[KEY] = {"format": FORMAT, "complete": False, "cells": cells, "job": facts}
    group = _open_ours(path, mode="r+")
    remedy = "Name a new folder, or remove this one."
    if group is None:
        got = f"{str(path)!r}, which holds something else"
        raise ValueError(_checks.message("store", got, "a new folder", remedy))
    other = dict(group.attrs)[KEY]["job"]
    for name, value in facts.items():
        known = other.get(name)
        same = known == value
        if name == "fields" and isinstance(known, list) and len(known) == len(value):
            same = np.allclose(known, value, rtol=1e-5, atol=1e-7)  # but for other machines
        if not same:
            got = f"{str(path)!r}, which holds a simulation of other {name.replace('_', ' ')}"
            raise ValueError(_checks.message("store", got, "one of the same", remedy))
    return group


def _array(
    group: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str
) -> None:
    # Uncompressed: floating point numbers shrink by a tenth, and take three times as long.
    if hasattr(group, "create_array"):  # zarr 3
        group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=None)
    else:
        group.create_dataset(name, shape=shape, chunks=chunks, dtype=dtype, compressor=None)


def _facts(job: Job, x0: Tensor, *, times: Tensor, like: Tensor) -> dict[str, Any]:
    """Return what makes it the same simulation; of the fields, what they answer for one cell."""
    how, limits = job.how, job.how.limits
    tolerances = [limits.rtol, limits.atol, limits.max_evaluations]
    return {
        "solver": how.solver,
        "times": _digest(times),
        "cells": _digest(x0),
        "dtype": _name(x0.dtype),
        "store_dtype": _name(like.dtype),
        "growth": job.n_columns > 0,
        "steps": [[segment.start, job.n_steps(segment)] for segment in job.segments],
        "tolerances": tolerances if job.solver.adaptive else None,
        "seed": job.seed,
        "sigma": None if callable(job.dynamics.sigma) else job.dynamics.sigma,
        "fields": _probe(job, x0),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _digest(values: Tensor) -> str:
    return sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _probe(job: Job, x0: Tensor) -> list[float]:
    """Return what the fields and the readout answer for one cell, inside the first segment."""
    segment = job.segments[0]
    time = segment.start + 0.37 * segment.span
    t = x0.new_full((), time, dtype=_checks.time_dtype(x0.device))
    d, x = job.dynamics, x0[:1]
    with torch.no_grad():
        answers = [field(t, x) for field in (d.velocity, d.score, d.growth) if field is not None]
        if job.how.output.readout is not None:
            answers.append(job.how.output.readout(x))
    return torch.cat([a.flatten() for a in answers]).double().nan_to_num().tolist()
