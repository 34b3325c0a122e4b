"""Generative models of one cloud: a path from noise, trained by flow matching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch

from cellflow import _checks
from cellflow._random import stream_rng
from cellflow._registry import Registry
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.couplings import Independent
from cellflow.densities import InvertibleModel
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.paths import ConditionalOT, Path, VarianceExploding, VariancePreserving
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.simulate import SOLVERS
from cellflow.timecourse import TimeCourse
from cellflow.training.options import FitOptions


@dataclass(frozen=True)
class Generative:
    """Generative model of one cloud: hyperparameters, without data.

    It is fitted like a :class:`cellflow.densities.Density`. Two of them, each of its own cloud,
    carry one to the other through their common base :cite:`su2023`. How it is learned says `flow`,
    on a path from noise; its coupling does not matter.
    """

    flow: FlowMatching

    def __post_init__(self) -> None:
        if not self.flow.path.source_free:
            got, expected = type(self.flow.path).__name__, "a path from noise"
            raise ValueError(_checks.message("path", got, expected))

    def fit(
        self,
        x: ArrayLike,
        *,
        steps: int | None = None,
        generator: Rng = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = False,
    ) -> FittedGenerative:
        """Learn to generate the cloud of cells `x` ``(n, d)``, in any units, from noise.

        With the `steps`, `generator`, `device`, `dtype` and `progress` of
        :meth:`cellflow.methods.Method.fit`.
        """
        options = FitOptions(
            steps=self.flow.default_steps if steps is None else steps,
            generator=generator,
            device=device,
            dtype=dtype,
            progress=progress,
        )
        cells = _checks.as_cells(x, "x", min_cells=2).detach()
        scaling = fit_preprocessing(cells, whiten=True)
        rng = stream_rng(options.seed, 0, 22)
        source = torch.randn(cells.shape, generator=rng, dtype=cells.dtype).to(cells)
        course = TimeCourse.from_arrays([scaling.invert(source), cells])
        return FittedGenerative(self.flow.train(course, options, scaling))


@dataclass(frozen=True, eq=False)
class FittedGenerative(InvertibleModel):
    """Generative model of one cloud, in its units.

    Cells go to the base and back by the probability-flow ODE, to the tolerance of its solver.

    The flow is `fit`, from the source at time 0 to the cloud at time 1. It can be saved; of the one
    that is loaded, ``FittedGenerative(fit)`` is the same model.
    """

    fit: Fit

    @property
    def dim(self) -> int:
        return self.fit.course.dim

    def sample(
        self, n: int, *, generator: Rng = 0, solver: str = "dopri5", max_step: float | None = None
    ) -> Tensor:
        """Draw `n` cells ``(n, d)``, as the seed or `generator` says.

        The `solver` is one of the ODE or, where the path has one (variance preserving and
        exploding), of the reverse SDE: ``"sra1"``, ``"predictor_corrector"``. Its longest step,
        `max_step` of a whole of 1, is a 500th for the SDE when omitted.
        """
        rng = _checks.as_generator(generator)
        n = _checks.count(n, "n")
        z = torch.randn(n, self.dim, generator=rng, device=rng.device)
        if max_step is None and SOLVERS[_checks.choice(solver, SOLVERS, "solver")].stochastic:
            max_step = 1 / 500
        how: dict[str, Any] = {"solver": solver, "max_step": max_step, "generator": rng}
        return self.fit.simulate(self._source(z), [0.0, 1.0], **how).final

    def encode(self, x: ArrayLike) -> Tensor:
        start = self._scaling.apply(self.fit.simulate(x, [1.0, 0.0], solver="dopri5").final)
        return self._path.to_normal(start / self._path.std_at_start())

    def decode(self, z: ArrayLike) -> Tensor:
        source = self._source(_checks.as_cells(z, "z", dim=self.dim))
        return self.fit.simulate(source, [0.0, 1.0], solver="dopri5").final

    def log_prob(self, x: ArrayLike) -> Tensor:
        return self.fit.likelihood(x, 1.0, solver="dopri5").log_prob

    @property
    def _scaling(self) -> Preprocessing:
        return cast(Preprocessing, self.fit.preprocessing)

    @property
    def _path(self) -> Path:
        return self.fit.method.parts.path

    def _source(self, z: Tensor) -> Tensor:
        z = z.to(next(self.fit.networks.parameters()))
        return self._scaling.invert(self._path.std_at_start() * self._path.from_normal(z))


#: Makers of generative models by name.
GENERATIVE: Registry[Callable[[], Generative]] = Registry("cellflow.methods")

# What is predicted, and when, is what left the least Wasserstein distance on two moons.
_of_target = partial(FlowMatching, Independent(), predict="target", timesteps="logit_normal")
_fm = FlowMatching(Independent(), ConditionalOT(), name="fm")
_vp = FlowMatching(Independent(), VariancePreserving(), name="vp", predict="noise")
_pfgm = _of_target(VarianceExploding(extra=128), name="pfgm")
GENERATIVE.register("fm")(partial(Generative, _fm))
GENERATIVE.register("vp")(partial(Generative, _vp))
GENERATIVE.register("ve")(partial(Generative, _of_target(VarianceExploding(), name="ve")))
GENERATIVE.register("pfgm")(partial(Generative, _pfgm))
