"""Trajectories written to disk part by part, so that they need not fit in memory.

A store is a zarr group of ``x`` ``(T, n, d)``, ``times``, with growth ``log_mass`` ``(T, n)``, and
``evaluations``: for each part (some thousand cells at all times) how often the fields were asked,
or -1 until the part is written. A part is marked after it is there, so that whatever interrupts
the work costs one part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.simulate.chunks import Chunks, Readout, integrate_cells
from cellflow.simulate.job import Job
from cellflow.simulate.stored import FORMAT, KEY, open_ours, require_zarr

#: Chunks that are written at once, at most.
PART_CHUNKS = 16
#: Bytes of a chunk of the store, so that one time is read without reading all of them.
CHUNK_BYTES = 2**24
#: Types of numbers that a store can hold.
STORE_DTYPES = ("float16", "float32", "float64")


def write_cells(
    job: Job,
    x0: Tensor,
    *,
    times: Tensor,
    path: Path,
    chunks: Chunks,
    memory: float,
    readout: Readout | None,
    like: Tensor,
    advance: Callable[[float], object],
) -> None:
    """Integrate all cells into the store at `path`, or those that are missing there.

    Parameters
    ----------
    job, x0, chunks, readout, advance
        As in :func:`~cellflow.simulate.chunks.integrate_cells`.
    times
        Times asked for, ``(T,)``.
    path
        A store of this very simulation, or nothing yet.
    memory
        Bytes for one part.
    readout
        What to keep of states.
    like
        What is kept of one cell, ``(1, d)``, in the type of the store.

    Raises
    ------
    ValueError
        If something else is at `path`, or a state is beyond what the store's type can hold.
    """
    n, width = len(x0), like.shape[1]
    per_cell = len(times) * (width + job.n_columns) * x0.element_size()
    parts = min(PART_CHUNKS, int(memory // (per_cell * chunks.cells)))
    facts = _facts(job, x0, times=times, readout=readout, like=like)
    shape = (len(times), n, width)
    group = _open(path, facts, shape=shape, cells=chunks.cells * max(1, parts), times=times)
    cells = dict(group.attrs)[KEY]["cells"]
    for part, first in enumerate(range(0, n, cells)):
        rows = slice(first, min(first + cells, n))
        size = rows.stop - first
        if int(group["evaluations"][part]) >= 0:
            advance(-(-size // chunks.cells))
            continue
        kept = x0.dtype if readout is None else readout(x0[:1]).dtype
        out = x0.new_empty(len(times), size, width, dtype=kept)
        log_mass = x0.new_empty(len(times), size) if job.n_columns else None
        n_evaluations = integrate_cells(
            job, x0[rows], first=first, chunks=chunks, readout=readout, out=out,
            log_mass=log_mass, advance=advance,
        )  # fmt: skip
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
    path: Path, facts: dict[str, Any], *, shape: tuple[int, ...], cells: int, times: Tensor
) -> Any:
    """Return the group at `path`: new, or of the same simulation."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        _create(path, facts, shape=shape, cells=cells, times=times)
    group = open_ours(path, mode="r+")
    remedy = "Name a new folder, or remove this one."
    if group is None:
        got = f"{str(path)!r}, which holds something else"
        raise ValueError(_checks.message("store", got, "a new folder", remedy))
    other = dict(group.attrs)[KEY]["job"]
    for name, value in facts.items():
        if not (_near if name == "fields" else eq)(other.get(name), value):
            got = f"{str(path)!r}, which holds a simulation of other {name.replace('_', ' ')}"
            raise ValueError(_checks.message("store", got, "one of the same", remedy))
    return group


def _create(
    path: Path, facts: dict[str, Any], *, shape: tuple[int, ...], cells: int, times: Tensor
) -> None:
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        group = require_zarr().open_group(str(temporary), mode="w")
        n_times, n, width = shape
        cells = min(cells, n)
        size = cells * width * np.dtype(facts["store_dtype"]).itemsize
        layout = (min(n_times, max(1, CHUNK_BYTES // size)), cells, width)
        _array(group, "x", shape, layout, facts["store_dtype"])
        if facts["growth"]:
            _array(group, "log_mass", shape[:2], (n_times, cells), facts["dtype"])
        parts = -(-n // cells)
        _array(group, "evaluations", (parts,), (1,), "int64")
        group["evaluations"][:] = -1
        _array(group, "times", (n_times,), (n_times,), "float64")
        group["times"][:] = times.numpy()
        group.attrs[KEY] = {"format": FORMAT, "complete": False, "cells": cells, "job": facts}
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _array(
    group: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str
) -> None:
    # Uncompressed: floating point numbers shrink by a tenth, and take three times as long.
    if hasattr(group, "create_array"):  # zarr 3
        group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=None)
    else:
        group.create_dataset(name, shape=shape, chunks=chunks, dtype=dtype, compressor=None)


def _facts(
    job: Job, x0: Tensor, *, times: Tensor, readout: Readout | None, like: Tensor
) -> dict[str, Any]:
    """What makes it the same simulation; of the fields, what they answer for one cell."""
    return {
        "solver": job.solver,
        "times": _digest(times),
        "cells": _digest(x0),
        "dtype": _name(x0.dtype),
        "store_dtype": _name(like.dtype),
        "field_dtype": _name(job.field_dtype),
        "growth": job.n_columns > 0,
        "steps": [[segment.start, job.n_steps(segment)] for segment in job.segments],
        "tolerances": [job.rtol, job.atol, job.max_evaluations] if job.adaptive else None,
        "seed": job.seed,
        "sigma": job.dynamics.sigma,
        "fields": _probe(job, x0, readout),
    }


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _digest(values: Tensor) -> str:
    return sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _probe(job: Job, x0: Tensor, readout: Readout | None) -> list[float]:
    """Answers of the fields and of `readout` for the first cell, inside the first segment."""
    segment = job.segments[0]
    time = segment.start + 0.37 * segment.span
    t = x0.new_full((), time, dtype=_checks.time_dtype(x0.device))
    d, x = job.dynamics, x0[:1]
    with torch.no_grad():
        answers = [field(t, x) for field in (d.velocity, d.score, d.growth) if field is not None]
        if readout is not None:
            answers.append(readout(x))
    return torch.cat([a.flatten() for a in answers]).double().nan_to_num().tolist()


def _near(one: Any, other: list[float]) -> bool:
    """Whether fields answer alike: other machines may differ in the last digits."""
    alike = isinstance(one, list) and len(one) == len(other)
    return alike and bool(np.allclose(one, other, rtol=1e-5, atol=1e-7))
