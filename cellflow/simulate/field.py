"""The right-hand side that every solver sees: rescaled to the unit interval, counted, guarded."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from cellflow import _checks
from cellflow._typing import Field, Tensor
from cellflow.dynamics import Dynamics


class IntegrationError(RuntimeError):
    """The integration could not go on: blow-up, non-finite values, or too many evaluations."""


class RescaledField:
    r"""``dx/du`` for :math:`t = t_0 + u \cdot \text{span}`, :math:`u \in [0, 1]`.

    Solvers work on the unit interval, so that their step arithmetic is as exact at day 1,000 as
    at day 0, and backward time is nothing but a negative span. Where the `dynamics` have growth,
    the log mass is one more column of the state.

    Time begins at `start` and has the signed length `span`. At most `max_evaluations` calls are
    allowed, None for no bound. A `noisy` field is the drift of the stochastic equation in place of
    the velocity: where time runs backward, that of the SDE run backward. Fields are asked between
    the two `bounds` only. `on_advance` is called with the advance of ``u`` whenever a later time is
    reached.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        start: float,
        span: float,
        *,
        max_evaluations: int | None = None,
        noisy: bool = False,
        bounds: tuple[float, float] | None = None,
        on_advance: Callable[[float], object] | None = None,
    ) -> None:
        self.dynamics, self.start, self.span = dynamics, start, span
        self.max_evaluations, self.on_advance = max_evaluations, on_advance
        self.name = ("drift" if span > 0 else "reverse_drift") if noisy else "velocity"
        self.slope: Field = getattr(dynamics, self.name)
        self.bounds = bounds
        self.n_evaluations = 0
        self.reached = 0.0

    def time(self, u: float) -> float:
        """Return the user's time at `u`."""
        return self.start + u * self.span

    def asked(self, u: float, like: Tensor) -> Tensor:
        """Return the time at which fields are asked at `u`, on the device of `like`."""
        time = self.time(u)  # the sum is done in float64, then rounded once
        if self.bounds is not None:
            time = min(max(time, self.bounds[0]), self.bounds[1])
        return like.new_full((), time, dtype=_checks.time_dtype(like.device))

    def scale(self, u: float, h: float, like: Tensor) -> float:
        """Return the standard deviation of the noise of a step from `u` of length `h`.

        Where the diffusion depends on time, it is that in the middle of the step.
        """
        sigma = self.dynamics.sigma_at(self.asked(u + h / 2, like))
        return float(sigma) * math.sqrt(abs(self.span) * h)

    def __call__(self, u: float, state: Tensor) -> Tensor:
        """Evaluate at the float `u` and the state ``(n, d)``, or ``(n, d + 1)`` with log mass."""
        # A solver probing for its first step may look beyond the end; the field is not asked to.
        u = min(max(u, 0.0), 1.0)
        if self.max_evaluations is not None and self.n_evaluations >= self.max_evaluations:
            raise IntegrationError(
                f"Integration stopped at time {self.time(self.reached):g}: "
                f"{self.n_evaluations} evaluations of the field were not enough. "
                "Loosen `rtol` and `atol`, raise `max_evaluations`, or take solver='rk4'; a stiff "
                "or diverging field needs all the more."
            )
        self.n_evaluations += 1
        self.advance(u)
        t = self.asked(u, state)
        x, growth = state if self.dynamics.growth is None else state[:, :-1], None
        with _checks.by_function("dynamics"):
            slope = self.slope(t, x)
            if self.dynamics.growth is not None:
                growth = self.dynamics.growth(t, x)
        value = self._expect(slope, x, self.name)
        if growth is not None:
            value = torch.cat([value, self._expect(growth, x[:, 0], "growth")[:, None]], dim=1)
        return self.span * value

    def advance(self, u: float) -> None:
        """Note that the integration has come to `u`."""
        if u > self.reached:
            if self.on_advance is not None:
                self.on_advance(u - self.reached)
            self.reached = u

    def require_finite(self, value: Tensor, u: float) -> None:
        """Raise :class:`IntegrationError` if `value` ``(n, ...)`` at `u` is not finite."""
        finite = torch.isfinite(value)
        if bool(finite.all()):
            return
        cells = int((~finite).reshape(len(value), -1).any(1).sum())
        raise IntegrationError(
            f"Integration stopped at time {self.time(u):g}: NaN or infinite values in {cells} of "
            f"{len(value)} cells. The field returns them, or the solution blows up: check the "
            "field at this time, shorten the span, or take smaller steps (`max_step`)."
        )

    def _expect(self, value: Tensor, like: Tensor, name: str) -> Tensor:
        if not isinstance(value, torch.Tensor):
            got = f"a {type(value).__name__}"
            raise TypeError(_checks.message(f"dynamics.{name}", got, "a tensor like its cells"))
        if value.shape == like.shape and value.dtype == like.dtype:
            return value
        got, expected, remedy = f"shape {tuple(value.shape)}", f"shape {tuple(like.shape)}", ""
        if got == expected:
            got, expected = f"values of {value.dtype}", f"{like.dtype} as in `x0`"
            remedy = "Convert the network or `x0` so that they agree."
        raise ValueError(_checks.message(f"dynamics.{name}", got, expected, remedy))
