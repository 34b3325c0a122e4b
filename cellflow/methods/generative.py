"""Generative models of one cloud: a path from noise, trained by flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import cast

import torch

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._registry import Registry
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.couplings import Independent
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig, NetworkConfig
from cellflow.paths import ConditionalOT, PoissonFlow, VarianceExploding, VariancePreserving
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.simulate import SOLVERS
from cellflow.timecourse import TimeCourse
from cellflow.training.options import FitOptions

#: Steps of a stochastic solver.
_NOISY_STEPS = 500


@dataclass(frozen=True)
class Generative:
    """Generative model of one cloud: hyperparameters, without data.

    It is fitted like a :class:`cellflow.densities.Density`. Two of them, each of its own cloud,
    carry one to the other through their common base :cite:`su2023`.

    Parameters
    ----------
    flow
        How it is learned. Its path starts from noise; or, on a path between cells, the source is
        standard normal cells, which its coupling pairs with those of the cloud.
    """

    flow: FlowMatching = field(default_factory=lambda: FlowMatching(Independent(), ConditionalOT()))

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
        """Learn to generate a cloud from noise.

        Parameters
        ----------
        x
            Cells, shape ``(n, d)``, in any units: they are standardised inside.
        steps, generator, device, dtype, progress
            As in :meth:`cellflow.methods.Method.fit`.

        Raises
        ------
        FloatingPointError
            If training diverges.
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
        rng = torch.Generator().manual_seed(stream_seed(options.seed, 0, 22))
        source = torch.randn(cells.shape, generator=rng, dtype=cells.dtype).to(cells)
        course = TimeCourse.from_arrays([scaling.invert(source), cells], [0.0, 1.0])
        return FittedGenerative(self.flow.train(course, options, scaling))


@dataclass(frozen=True, eq=False)
class FittedGenerative:
    """Generative model of one cloud, in its units: a :class:`cellflow.densities.InvertibleModel`.

    Parameters
    ----------
    fit
        The flow, from the source at time 0 to the cloud at time 1.
    """

    fit: Fit

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.fit.course.dim

    def sample(
        self, n: int, *, generator: Rng = 0, solver: str = "dopri5", max_step: float | None = None
    ) -> Tensor:
        """Draw cells, shape ``(n, d)``.

        Parameters
        ----------
        n
            How many.
        generator
            Seed or generator of the source's noise, and of that of the solver.
        solver
            One of the ODE, or of the reverse SDE where the path has one (variance preserving and
            exploding): ``"euler_maruyama"``, ``"sra1"``, ``"predictor_corrector"``.
        max_step
            Longest step, of a whole of 1; a 500th for the SDE when omitted.
        """
        rng = _checks.as_generator(generator)
        n = _checks.count(n, "n")
        z = torch.randn(n, self.dim, generator=rng, device=rng.device)
        if max_step is None and SOLVERS[_checks.choice(solver, SOLVERS, "solver")].stochastic:
            max_step = 1 / _NOISY_STEPS
        x0, times = self._source(z), [0.0, 1.0]
        out = self.fit.simulate(x0, times, solver=solver, max_step=max_step, generator=rng)
        return out.final

    def encode(self, x: ArrayLike) -> Tensor:
        """Map cells `x` ``(n, d)`` to the standard normal base, shape ``(n, d)``.

        By the probability-flow ODE, to the tolerance of its solver, as :meth:`decode`.
        """
        path = self.fit.method.parts.path
        start = self._scaling.apply(self.fit.simulate(x, [1.0, 0.0], solver="dopri5").final)
        return path.to_normal(start / self._scale)

    def decode(self, z: ArrayLike) -> Tensor:
        """Map points `z` ``(n, d)`` of the base to cells, shape ``(n, d)``."""
        source = self._source(_checks.as_cells(z, "z", dim=self.dim))
        return self.fit.simulate(source, [0.0, 1.0], solver="dopri5").final

    def save(self, folder: str | FilePath) -> FilePath:
        """Write the :attr:`fit` to `folder`; ``FittedGenerative(cellflow.load(folder))`` reads it."""
        return self.fit.save(folder)

    @property
    def _scaling(self) -> Preprocessing:
        return cast(Preprocessing, self.fit.preprocessing)

    @property
    def _scale(self) -> float:
        """Scale of the source, in model coordinates."""
        path = self.fit.method.parts.path
        return path.std_at_start() if path.source_free else 1.0

    def _source(self, z: Tensor) -> Tensor:
        z = z.to(next(self.fit.networks.parameters()))
        return self._scaling.invert(self._scale * self.fit.method.parts.path.from_normal(z))


#: Recipes of generative models by name; each has defaults throughout.
GENERATIVE: Registry[Callable[..., Generative]] = Registry("cellflow.methods")


@GENERATIVE.register("fm")
def FM(sigma_min: float = 1e-3, *, net: NetworkConfig = MLPConfig()) -> Generative:  # noqa: N802
    """Flow matching from noise on conditional optimal-transport paths (Lipman et al. 2023).

    :cite:`lipman2023`, section 4.1, example II; `sigma_min` as in
    :class:`~cellflow.paths.ConditionalOT`, `net` as in :class:`~cellflow.methods.FlowMatching`.
    """
    return Generative(FlowMatching(Independent(), ConditionalOT(sigma_min), net, name="fm"))


@GENERATIVE.register("vp")
def VP(predict: str = "noise", *, net: NetworkConfig = MLPConfig()) -> Generative:  # noqa: N802
    """Variance-preserving diffusion (Ho et al. 2020; Song et al. 2021), by what it predicts.

    :cite:`ho2020`, eq. 14, in the continuous time of :cite:`song2021`; `predict` and `net` as in
    :class:`~cellflow.methods.FlowMatching`.
    """
    path = VariancePreserving()
    return Generative(FlowMatching(Independent(), path, net, name="vp", predict=predict))


@GENERATIVE.register("ve")
def VE(  # noqa: N802
    sigma_max: float = 20.0, *, predict: str = "noise", net: NetworkConfig = MLPConfig()
) -> Generative:
    """Variance-exploding diffusion (Song and Ermon 2019; Song et al. 2021).

    :cite:`song2021`; `sigma_max` is in standard deviations of the cells, as in
    :class:`~cellflow.paths.VarianceExploding`, `predict` and `net` as in
    :class:`~cellflow.methods.FlowMatching`.
    """
    path = VarianceExploding(sigma_max=sigma_max)
    return Generative(FlowMatching(Independent(), path, net, name="ve", predict=predict))


@GENERATIVE.register("pfgm")
def PFGM(extra: int = 128, *, net: NetworkConfig = MLPConfig()) -> Generative:  # noqa: N802
    """Poisson flow generative model, PFGM++ (Xu et al. 2023); with `extra` of 1, that of 2022.

    :cite:`xu2023`, :cite:`xu2022`; `extra` as in :class:`~cellflow.paths.PoissonFlow`, `net` as in
    :class:`~cellflow.methods.FlowMatching`. The network predicts the target, which has bounds
    where the noise has none.
    """
    path = PoissonFlow(extra)
    return Generative(FlowMatching(Independent(), path, net, name="pfgm", predict="target"))
