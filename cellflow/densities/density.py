"""Density: a model of one cloud of cells, with a likelihood and a map to a normal base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from cellflow import _checks
from cellflow._random import draw_seed, seeded_draws, shuffle, stream_rng
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

    def log_prob(self, x: ArrayLike) -> Tensor:
        """Return the log-densities ``(n,)`` at cells `x` ``(n, d)``, in nats and their units."""

    def sample(self, n: int, *, generator: Rng = 0) -> Tensor:
        """Draw `n` cells ``(n, d)``, as the seed or `generator` says."""

    def encode(self, x: ArrayLike) -> Tensor:
        """Map cells `x` ``(n, d)`` to the standard normal base, shape ``(n, d)``."""

    def decode(self, z: ArrayLike) -> Tensor:
        """Map points `z` ``(n, d)`` of the base to cells, shape ``(n, d)``."""


@dataclass(frozen=True)
class Density:
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
        How the model is trained; the weights of the best likelihood of held-back cells are kept.
    """

    default_steps: ClassVar[int] = 2000
    invertible: ClassVar[bool] = True  # whether it has a map to the base, beside its density
    size: int = 6
    _: KW_ONLY
    width: int = 64
    depth: int = 2
    batch_size: int = 256
    training: Training = Training(learning_rate=5e-3, ema=0.99, patience=10)

    def __post_init__(self) -> None:
        if not isinstance(self.training, Training):
            got = type(self.training).__name__
            raise TypeError(_checks.message("training", got, "a Training"))
        for f in fields(self):
            if f.type == "int":
                object.__setattr__(self, f.name, _checks.count(getattr(self, f.name), f.name))

    @property
    def layers(self) -> dict[str, Any]:
        """Number and perceptrons of the layers, in zuko's words."""
        return {"transforms": self.size, "hidden_features": (self.width,) * self.depth}

    def build(self, dim: int) -> nn.Module:
        """Return a flow of `dim` dimensions, drawn from torch's own generator, as zuko's are.

        By default, zuko's of the same name.
        """
        return getattr(zuko(), type(self).__name__)(dim, **self.layers)

    def start(self, flow: Any, z: Tensor) -> None:
        """Set the first weights of `flow` by standardised cells `z` ``(n, d)``."""

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
        """Learn the density of a cloud of cells `x` ``(n, d)`` by maximum likelihood.

        They are in any units, standardised inside. With the `steps`, `default_steps` when omitted,
        `generator`, `device`, `dtype` and `progress` of :class:`~cellflow.training.FitOptions`.
        Raises FloatingPointError if training diverges.
        """
        steps = self.default_steps if steps is None else steps
        options = FitOptions(
            steps=steps, generator=generator, device=device, dtype=dtype, progress=progress
        )
        cells = _checks.as_cells(x, "x", min_cells=2).detach()
        cells = cells.to(device=options.device or cells.device, dtype=dtype)
        scaling, seed = fit_preprocessing(cells, whiten=True), options.seed
        z = scaling.apply(cells)[shuffle(len(cells), stream_rng(seed, 0, 21)).to(cells.device)]
        n_held = min(int(self.training.validation * len(z)), _MOST_HELD)
        held, kept = _Cells(z[:n_held]), z[n_held:]
        with seeded_draws(seed):
            flow = self.build(z.shape[1]).to(z)
            self.start(flow, kept)
        offset = scaling.scale.log().sum()

        def loss(batch: _Cells) -> dict[str, Tensor]:
            return {"surprise": offset - flow().log_prob(batch.z).mean()}

        def draw(step: int) -> _Cells:
            rng = stream_rng(seed, step, 21)
            rows = torch.randint(len(kept), (self.batch_size,), generator=rng)
            return _Cells(kept[rows.to(kept.device)])

        trainer = Trainer(flow, loss, 1.0, self.training, options.steps)
        with one_thread() if z.device.type == "cpu" else nullcontext():
            history = run(trainer, draw, held if n_held else None, fingerprint={}, options=options)
        return FittedDensity(self, flow.requires_grad_(False), scaling, history)


#: Classes of densities by name; each can be made without arguments.
DENSITIES: Registry[type[Density]] = Registry("cellflow.densities")


@dataclass(frozen=True, eq=False)
class FittedDensity(InvertibleModel):
    """Density model of one cloud, in the units of its cells.

    Its answers are differentiable in their arguments, on the device and in the type of its weights.

    What was fitted is `density`, and `flow` has its weights: a module that answers with a
    distribution of standardised cells, to which `scaling` leads. The `history` of training has mean
    negative log-densities, in nats, in the units of the cells.
    """

    density: Density
    flow: nn.Module = field(repr=False)
    scaling: Preprocessing
    history: History = field(repr=False)

    @property
    def dim(self) -> int:
        return len(self.scaling.mean)

    def log_prob(self, x: ArrayLike) -> Tensor:
        offset = self.scaling.scale.log().sum()
        return self._carry(x, "x", lambda x: self.flow().log_prob(self.scaling.apply(x)) - offset)

    def sample(self, n: int, *, generator: Rng = 0) -> Tensor:
        n = _checks.count(n, "n")
        if self.density.invertible:
            rng = _checks.as_generator(generator)
            return self.decode(torch.randn(n, self.dim, generator=rng, device=rng.device))
        with seeded_draws(draw_seed(generator)):
            return self.scaling.invert(self.flow().sample((n,)))

    def encode(self, x: ArrayLike) -> Tensor:
        to_base = self._transform
        return self._carry(x, "x", lambda x: to_base(self.scaling.apply(x)))

    def decode(self, z: ArrayLike) -> Tensor:
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
            raise FloatingPointError(f"`{name}`: cells too far away, for which NaN would come out.")
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


def from_facts(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedDensity:
    """Rebuild a fitted density from what its `facts` and `tensors` were, on their device."""
    known = {kind.__name__: kind for kind in DENSITIES.values()}
    density = known[_checks.choice(facts["kind"], known, "kind")](**facts["settings"])
    scaling = Preprocessing(tensors["mean"], tensors["scale"])
    with seeded_draws(0):  # weights that are replaced; the user's own draws stay as they were
        flow = density.build(facts["dim"]).to(scaling.mean).eval().requires_grad_(False)
    flow.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("flow/")})
    return FittedDensity(density, flow, scaling, History(**facts["history"]))


def zuko(module: str = "flows") -> ModuleType:
    """Return this `module` of zuko, or raise ImportError; torch's distributions check no more."""
    try:
        return import_module(f"zuko.{module}")
    except ImportError as error:
        remedy = 'pip install "cellflow-sb[densities]"'
        raise ImportError(f"Discrete flows need zuko: {remedy}.") from error


class _Cells(NamedTuple):
    """Batch of standardised cells ``(n, d)``."""

    z: Tensor
    share: float = 1.0
