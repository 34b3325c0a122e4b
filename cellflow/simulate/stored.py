"""Trajectories on disk, read as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.simulate.trajectory import Trajectory, row_of

#: Raised when the layout of stores changes.
FORMAT = 1
#: Under which our attributes are kept.
KEY = "cellflow"


@dataclass(frozen=True, eq=False)
class StoredTrajectory:
    """A trajectory in a zarr store, of which nothing is in memory until it is asked for.

    Parameters
    ----------
    path
        The store.
    times
        In the user's unit and the order asked for, ``(T,)``, float64.
    n_evaluations
        Calls of the velocity field, over all chunks of cells.
    solver
        Name of the solver.
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
        """Return the row of one of the simulated times.

        Parameters
        ----------
        time
            In the user's unit.

        Raises
        ------
        ValueError
            If the simulation was not asked for this time.
        """
        return row_of(self.times, time)

    def at(self, time: float) -> Tensor:
        """Return the states at one of the simulated times, ``(n, d)``, in memory.

        Parameters
        ----------
        time
            In the user's unit.

        Raises
        ------
        ValueError
            If the simulation was not asked for this time.
        """
        return torch.from_numpy(self.x[self.index(time)])

    def load(self) -> Trajectory:
        """Return all of it in memory, ``T * n * d`` numbers."""
        masses = None if self.log_mass is None else torch.from_numpy(self.log_mass[:])
        x = torch.from_numpy(self.x[:])
        return Trajectory(self.times, x, masses, self.n_evaluations, self.solver)

    @cached_property
    def _group(self) -> Any:
        return require_zarr().open_group(str(self.path), mode="r")


def open_trajectory(path: str | Path) -> StoredTrajectory:
    """Open a trajectory that a simulation has written to disk.

    Parameters
    ----------
    path
        What was passed as `store`.

    Returns
    -------
    StoredTrajectory
        Its states are read as they are asked for.

    Raises
    ------
    ValueError
        If there is no such store, it is of another make, or the simulation was interrupted.
    ImportError
        If zarr is not installed.
    """
    group = open_ours(Path(path))
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


def open_ours(path: Path, mode: str = "r") -> Any:
    """Return the group at `path`, opened in `mode`; None if that is no store of this layout."""
    zarr = require_zarr()
    if not path.is_dir():
        return None
    try:
        group = zarr.open_group(str(path), mode=mode)
        facts = dict(group.attrs).get(KEY)
    except (OSError, ValueError, KeyError, TypeError):  # no group, or unreadable attributes
        return None
    return group if isinstance(facts, dict) and facts.get("format") == FORMAT else None


def require_zarr() -> Any:
    """Import zarr, which newer versions of anndata bring along.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        text = "Trajectories on disk need zarr: `pip install zarr`."
        raise ImportError(text) from error
    return zarr
