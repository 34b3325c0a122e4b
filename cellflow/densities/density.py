"""Density: a model of one cloud of cells, with a likelihood and a map to a normal base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from cellflow import _checks
from cellflow._files import read_state, write_state
from cellflow._random import draw_seed, seeded_draws, stream_seed
from cellflow._registry import Registry
from cellflow._threads import one_thread
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.training.loop import run
from cellflow.training.options import FitOptions
from cellflow.training.trainer import History, Trainer, Training

#: Cells that are carried at once, and cells that are held back, at most.
_BLOCK, _MOST_HELD = 2**14, 10_000


@runtime_checkable
class InvertibleModel(Protocol):
    """Model of one cloud that has a density, and a map to a standard normal base and back."""

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        ...

    def log_prob(self, x: ArrayLike) -> Tensor:
        """Return the log-densities ``(n,)`` at `x` ``(n, d)``, in the units of the data."""
        ...

    def sample(self, n: int, *, generator: Rng = 0) -> Tensor:
        """Draw `n` cells ``(n, d)``, as the seed or `generator` says."""
        ...

    def encode(self, x: ArrayLike) -> Tensor:
        """Map cells `x` ``(n, d)`` to the standard normal base, shape ``(n, d)``."""
        ...

    def decode(self, z: ArrayLike) -> Tensor:
        """Map points `z` ``(n, d)`` of the base to cells, shape ``(n, d)``."""
        ...


@dataclass(frozen=True)
class Density(ABC):
    """Hyperparameters of a density model, without data.

    Parameters
    ----------
    size
        Number of layers.
    width, depth
        Hidden units and hidden layers of the perceptron that steers each layer.
    batch_size
        Cells of a training step, drawn with replacement.
    training
        How the model is trained; the weights that are kept are those of the best likelihood of
        the cells held back.
    """

    default_steps: ClassVar[int] = 2000
    #: Whether it has a map to the base, beside its density.
    invertible: ClassVar[bool] = True

    size: int = 5
    width: int = field(default=64, kw_only=True)
    depth: int = field(default=2, kw_only=True)
    batch_size: int = field(default=256, kw_only=True)
    training: Training = field(
        default=Training(learning_rate=2e-3, ema=0.99, patience=10), kw_only=True
    )

    def __post_init__(self) -> None:
        for name in ("size", "width", "depth", "batch_size"):
            _checks.count(getattr(self, name), name)

    @property
    def layers(self) -> dict[str, Any]:
        """Number and perceptrons of the layers, in zuko's words."""
        return {"transforms": self.size, "hidden_features": (self.width,) * self.depth}

    @abstractmethod
    def build(self, dim: int) -> nn.Module:
        """Return a flow of `dim` dimensions, drawn from torch's own generator.

        Called without arguments, it answers with a distribution of zuko: ``log_prob(x)``, and
        where :attr:`invertible` the ``transform`` from cells to the base.
        """

    def start(self, flow: Any, z: Tensor) -> None:  # noqa: B027 # most need none
        """Set the first weights of `flow` by standardised cells `z` ``(n, d)``; by default none."""

    def fit(
        self,
        x: ArrayLike,
        *,
        steps: int | None = None,
        generator: Rng = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = False,
    ) -> FittedDensity:
        """Learn the density of a cloud by maximum likelihood.

        Parameters
        ----------
        x
            Cells, shape ``(n, d)``, in any units: they are standardised inside.
        steps, generator, device, dtype, progress
            As in :class:`~cellflow.training.FitOptions`; `default_steps` are taken when `steps`
            is omitted.

        Raises
        ------
        FloatingPointError
            If training diverges.
        ImportError
            If zuko is not installed.
        """
        options = FitOptions(
            steps=self.default_steps if steps is None else steps,
            generator=generator,
            device=device,
            dtype=dtype,
            progress=progress,
        )
        cells = _checks.as_cells(x, "x", min_cells=2).detach()
        cells = cells.to(device=options.device or cells.device, dtype=dtype)
        scaling, seed = fit_preprocessing(cells, whiten=True), options.seed
        order = torch.randperm(len(cells), generator=_generator(seed, 0))
        z = scaling.apply(cells)[order.to(cells.device)]
        n_held = min(int(self.training.validation * len(z)), _MOST_HELD)
        held, kept = _Cells(z[:n_held]), z[n_held:]
        with seeded_draws(seed):
            flow = self.build(z.shape[1]).to(z)
            self.start(flow, kept)
        offset = scaling.scale.log().sum()

        def loss(batch: _Cells) -> dict[str, Tensor]:
            return {"surprise": offset - flow().log_prob(batch.z).mean()}

        def draw(step: int) -> _Cells:
            rows = torch.randint(len(kept), (self.batch_size,), generator=_generator(seed, step))
            return _Cells(kept[rows.to(kept.device)])

        trainer = Trainer(flow, loss, 1.0, self.training, options.steps)
        with one_thread() if z.device.type == "cpu" else nullcontext():
            history = run(trainer, draw, held if n_held else None, fingerprint={}, options=options)
        return FittedDensity(self, flow.requires_grad_(False), scaling, history)


#: Classes of densities by name; each can be made without arguments.
DENSITIES: Registry[type[Density]] = Registry("cellflow.densities")


@dataclass(frozen=True, eq=False)
class FittedDensity:
    """Density model of one cloud, in the units of its cells: an :class:`InvertibleModel`.

    Its answers are differentiable in their arguments, on the device and in the type of its weights.

    Parameters
    ----------
    density
        What was fitted.
    flow
        Its weights: a module that answers with a distribution of standardised cells.
    scaling
        From cells to standardised ones.
    history
        Of training; losses are mean negative log-densities, in nats, in the units of the cells.
    """

    density: Density
    flow: nn.Module
    scaling: Preprocessing
    history: History

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.scaling.mean)

    def log_prob(self, x: ArrayLike) -> Tensor:
        """Return the log-densities ``(n,)`` at cells `x` ``(n, d)``, in nats."""
        offset = self.scaling.scale.log().sum()
        return self._carry(x, "x", lambda x: self.flow().log_prob(self.scaling.apply(x)) - offset)

    def sample(self, n: int, *, generator: Rng = 0) -> Tensor:
        """Draw `n` cells ``(n, d)``, as the seed or `generator` says."""
        n = _checks.count(n, "n")
        if self.density.invertible:
            rng = _checks.as_generator(generator)
            return self.decode(torch.randn(n, self.dim, generator=rng, device=rng.device))
        with seeded_draws(draw_seed(generator)):
            return self.scaling.invert(self.flow().sample((n,)))

    def encode(self, x: ArrayLike) -> Tensor:
        """Map cells `x` ``(n, d)`` to the standard normal base, shape ``(n, d)``."""
        to_base = self._transform
        return self._carry(x, "x", lambda x: to_base(self.scaling.apply(x)))

    def decode(self, z: ArrayLike) -> Tensor:
        """Map points `z` ``(n, d)`` of the base to cells, shape ``(n, d)``."""
        from_base = self._transform.inv
        return self._carry(z, "z", lambda z: self.scaling.invert(from_base(z)))

    @property
    def _transform(self) -> Any:
        if self.density.invertible:
            return self.flow().transform
        got, expected = type(self.density).__name__, "a flow, such as 'nsf'"
        raise ValueError(_checks.message("density", got, expected, "A mixture has no map."))

    def _carry(self, x: ArrayLike, name: str, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `function` to `x`, some cells at a time; what it answers must be numbers."""
        cells = _checks.as_cells(x, name, dim=self.dim).to(self.scaling.mean)
        out = torch.cat([function(some) for some in cells.split(_BLOCK)])
        if bool(out.isnan().any()):
            raise FloatingPointError(
                f"{int(out.isnan().sum())} values are no numbers: cells too far from those fitted?"
            )
        return out if cells.requires_grad else out.detach()

    def facts(self) -> dict[str, Any]:
        """Return what JSON can hold; how it was trained (``density.training``) is left out."""
        kept = {f.name: getattr(self.density, f.name) for f in fields(self.density)}
        kept.pop("training")
        kind = type(self.density).__name__
        return {"kind": kind, "settings": kept, "dim": self.dim, "history": asdict(self.history)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, by name; :func:`from_facts` needs both."""
        weights = {f"flow/{name}": tensor for name, tensor in self.flow.state_dict().items()}
        return weights | {"mean": self.scaling.mean, "scale": self.scaling.scale}

    def save(self, path: str | Path) -> None:
        """Write the safetensors file `path`, without pickle; :func:`load_density` reads it."""
        write_state(path, self.tensors(), self.facts())


def from_facts(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedDensity:
    """Rebuild a fitted density from what its `facts` and `tensors` were, on their device."""
    known = {kind.__name__: kind for kind in DENSITIES.values()}
    density = known[_checks.choice(facts["kind"], known, "kind")](**facts["settings"])
    scaling = Preprocessing(tensors["mean"], tensors["scale"])
    with seeded_draws(0):  # weights that are replaced; the user's own draws stay as they were
        flow = density.build(facts["dim"]).to(scaling.mean).eval().requires_grad_(False)
    flow.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("flow/")})
    return FittedDensity(density, flow, scaling, History(**facts["history"]))


def load_density(path: str | Path) -> FittedDensity:
    """Read what :meth:`FittedDensity.save` wrote to `path`, on the CPU."""
    tensors, facts = read_state(path)
    return from_facts(facts, tensors)


def zuko(module: str = "flows") -> ModuleType:
    """Return this `module` of zuko, which is imported no earlier; ImportError where it is not."""
    try:
        return import_module(f"zuko.{module}")
    except ImportError as error:
        text = 'Discrete flows need zuko: pip install "cellflow-sb[densities]".'
        raise ImportError(text) from error


@dataclass(frozen=True, eq=False)
class _Cells:
    """Batch of standardised cells ``(n, d)``."""

    z: Tensor
    share: float = 1.0


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, step, 21))
