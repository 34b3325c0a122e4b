"""Method: hyperparameters with a name, which can be fitted to a time course."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, cast

import torch

from cellflow import _checks
from cellflow._registry import Registry
from cellflow._typing import Rng, Tensor
from cellflow.costs import CostLike
from cellflow.fits.fit import Fit
from cellflow.fits.folder import to_facts
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density
from cellflow.timecourse import TimeCourse
from cellflow.training.networks import Parts
from cellflow.training.options import Checkpointing, FitOptions, StepReport


class Method(ABC):
    """Hyperparameters with a name, which can be fitted to a time course.

    A member is a frozen dataclass, whose fields are what a saved fit holds of it. A recipe for it
    registers itself by the name that the AnnData door and the command line use:
    ``@METHODS.register("otcfm")``.
    The last four attributes are as in :class:`~cellflow.methods.FlowMatching`.
    """

    default_steps: ClassVar[int] = 3000  #: Budget of training steps where none is given.
    both_sides: bool = False
    predict: str = "velocity"
    timesteps: str | Callable[[Tensor], Tensor] = "uniform"
    times_per_pair: int = 1
    name: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.__name__] = cls

    @property
    def parts(self) -> Parts:
        """Coupling, path, networks and settings of the dynamics; by default the method itself."""
        return cast(Parts, self)

    @property
    def knows_rows(self) -> bool:
        """Whether the coupling knows cells by their rows, which must then stay as they are."""
        return self.parts.coupling.knows_rows

    def scaled_to(self, *courses: TimeCourse) -> Self:
        """Return this method with absolute sigmas, and what its coupling measures.

        Parameters
        ----------
        *courses
            Parts of one course in model coordinates.
        """
        return self

    def by_cost(self, cost: CostLike) -> Self:
        """Return this method with pairs by another ground `cost`.

        An error for a method whose coupling has a cost of its own, or none.
        """
        got, expected = f"one for {self.name!r}", "none, or a method that pairs cells by a cost"
        raise ValueError(_checks.message("cost", got, expected, "Take 'otcfm'."))

    def prior(self, course: TimeCourse) -> tuple[Density, float] | None:
        """Return the density that the flow begins from, and the time of it.

        In model coordinates, as `course` is; None where it begins from the first snapshot.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """Return the method as facts that JSON can hold."""
        return to_facts(self)

    @abstractmethod
    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        """Learn the dynamics that carry each snapshot of `course` into the next.

        What :meth:`fit` does, with its arguments as one value `options`; `preprocessing` as there.
        """

    def fit(
        self,
        course: TimeCourse,
        *,
        steps: int | None = None,
        generator: Rng = 0,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        checkpointing: Checkpointing | None = None,
        progress: bool | None = None,
        on_step: Callable[[StepReport], object] | None = None,
    ) -> Fit:
        """Learn the dynamics that carry each snapshot into the next.

        The fit that is returned can simulate, and be saved. Raises FloatingPointError if training
        diverges.

        Parameters
        ----------
        course
            Snapshots of the population, in data coordinates.
        preprocessing
            Applied to the cells before training and undone in every answer; the noise of the
            path is in its coordinates.
        steps, generator, device, dtype, checkpointing, progress, on_step
            As in :class:`~cellflow.training.FitOptions`; the method's `default_steps` are taken
            when `steps` is omitted, and `generator` decides everything that is random.
        """
        options = FitOptions(
            steps=self.default_steps if steps is None else steps,
            generator=generator,
            device=device,
            dtype=dtype,
            checkpointing=checkpointing or Checkpointing(),
            progress=progress,
            on_step=on_step,
        )
        return self.fit_with(course, options, preprocessing)


#: Recipes of methods by the names that the AnnData door and the command line use; each takes a
#: sigma first.
METHODS: Registry[Callable[..., Method]] = Registry("cellflow.methods")
_KINDS: dict[str, type[Method]] = {}


def kinds() -> dict[str, type[Method]]:
    """Return the classes of methods by their names, which saved fits hold."""
    len(METHODS)  # imports the file of each
    return _KINDS
