"""What a simulation returns."""

from __future__ import annotations

from dataclasses import dataclass

from cellflow import _checks
from cellflow._typing import Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States `x` ``(T, n, d)`` of cells at a number of `times`.

    The times ``(T,)``, in float64, are in the user's unit and the order asked for. `log_mass` ``(T,
    n)`` is the logarithm of each cell's mass relative to the first time, None without growth;
    `n_evaluations` counts calls of the velocity field, over all chunks of cells; `solver` is a
    name.
    """

    times: Tensor
    x: Tensor
    log_mass: Tensor | None = None
    n_evaluations: int = 0
    solver: str = ""

    @property
    def final(self) -> Tensor:
        """States at the last time, ``(n, d)``."""
        return self.x[-1]

    @property
    def mass(self) -> Tensor | None:
        """Mass relative to the first time, ``(T, n)``; None without growth."""
        return None if self.log_mass is None else self.log_mass.exp()

    @property
    def path_length(self) -> Tensor:
        """Length of the polygon through each cell's states, ``(n,)``, data units."""
        return (self.x[1:] - self.x[:-1]).norm(dim=-1).sum(0)

    def index(self, time: float) -> int:
        """Return the row of one of the simulated times, `time`."""
        return row_of(self.times, time)

    def at(self, time: float) -> Tensor:
        """Return the states at one of the simulated times, `time`, as ``(n, d)``."""
        return self.x[self.index(time)]


def row_of(times: Tensor, time: float) -> int:
    """Return the row of `time` among `times` ``(T,)``."""
    time = _checks.number(time, "time")
    distance = (times - time).abs()
    row = int(distance.argmin())
    # Times that users computed differently (0.1 + 0.2) are the same time.
    if float(distance[row]) > 1e-9 * float((times[-1] - times[0]).abs()):
        expected = f"one of the simulated times, the nearest being {float(times[row]):g}"
        remedy = "Pass it to `simulate` as well."
        raise ValueError(_checks.message("time", f"{time:g}", expected, remedy))
    return row
