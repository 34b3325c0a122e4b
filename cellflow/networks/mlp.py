"""The default network: a multilayer perceptron on time and state."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Field, Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.encoder import POOLS, SetEncoder
from cellflow.networks.fast import ACTIVATIONS, chain, changes, dense, product
from cellflow.networks.layers import Linear
from cellflow.networks.network import NETWORKS, SMALL, Network, NetworkConfig, Units

#: How the condition of a cell enters.
CONDITIONING = ("concat", "film")
#: Hidden units of the factor of the skip connection.
_GATE_WIDTH = 32


@NETWORKS.register("mlp")
@dataclass(frozen=True)
class MLPConfig(NetworkConfig):
    """Shape of a :class:`MLP`; 3 × 64 as in the OT-CFM paper, with a smooth activation.

    Parameters
    ----------
    width
        Units of each hidden layer.
    depth
        Number of hidden layers.
    activation
        One of ``"selu"``, ``"silu"``, ``"relu"``, ``"gelu"``, ``"tanh"``, ``"softplus"``.
    skip
        Whether a multiple of the centred state is added to the answer, by a factor that a small
        network makes of time alone. The score of a wide cloud and the drift of its bridge are
        mostly that, and hidden layers narrower than the data cannot carry it.
    time
        Whether the field depends on time; False hides it, for one law of motion at all times.
    intervals
        Whether the field is told between which snapshots it is, and how far on, so that it may
        jump at a snapshot as straight paths do. Time alone is a smooth input: over many snapshots,
        fields of a small network round their corners.
    average
        Whether the velocity is learned with its averages over times to come, by which
        :class:`cellflow.methods.FewSteps` carries cells: see :func:`cellflow.methods.MeanFlow`.
    condition
        How the condition of a cell, encoded, enters: ``"concat"``, beside the state and the time;
        ``"film"``, as scale and shift of each hidden layer (:cite:`perez2018`, eq. 2). Either way
        a linear map of it is added to the answer, so that what single drugs change adds up.
    pool
        How tokens of a condition become one: see :class:`cellflow.networks.SetEncoder`.
    """

    width: int = 64
    depth: int = 3
    activation: str = "silu"
    skip: bool = False
    time: bool = True
    intervals: bool = False
    average: bool = False
    condition: str = "concat"
    pool: str = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "average", bool(self.average))
        _checks.count(self.width, "width")
        _checks.count(self.depth, "depth")
        _checks.choice(self.activation, ACTIVATIONS, "activation")
        _checks.choice(self.condition, CONDITIONING, "condition")
        _checks.choice(self.pool, POOLS, "pool")
        if self.intervals and not self.time:
            got, expected = "True with time=False", "False for a field that does not know the time"
            raise ValueError(_checks.message("intervals", got, expected))

    @property
    def jumps(self) -> bool:
        return self.intervals

    @property
    def small(self) -> bool:
        return self.width <= SMALL

    def build(self, units: Units, *, answer: str = "velocity", generator: Rng = 0) -> MLP:
        return MLP(units, self, answer=answer, generator=generator)


class MLP(Network):
    """A field ``(t, x) -> (n, d)``, or ``(n,)`` for growth, of the shape `config`.

    The `units` and the `answer` are those of every :class:`Network`. Initial weights are drawn from
    `generator` as torch's linear layers do: uniform within ``1/sqrt(fan_in)``.
    """

    config: MLPConfig

    def __init__(
        self,
        units: Units,
        config: MLPConfig | None = None,
        *,
        answer: str = "velocity",
        generator: Rng = 0,
    ) -> None:
        super().__init__(units, answer)
        self.config = config or MLPConfig()
        self.small, self.average = self.config.small, self.config.average
        dim = len(units.centre)
        told = 2 * max(len(units.knots) - 1, 0) if self.config.intervals else 0
        told += self.config.average
        sizes = [dim + 1 + told] + [self.config.width] * self.config.depth
        activation, _ = ACTIVATIONS[self.config.activation]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [Linear(fan_in, fan_out), activation()]
        self.layers = nn.Sequential(*layers, Linear(sizes[-1], 1 if answer == "growth" else dim))
        self.gate: nn.Sequential | None = None
        if self.config.skip and answer != "growth":
            first, second = Linear(1, _GATE_WIDTH), Linear(_GATE_WIDTH, _GATE_WIDTH)
            last = Linear(_GATE_WIDTH, 1).zero()  # closed at the start
            self.gate = nn.Sequential(first, activation(), second, activation(), last)
        rng = _checks.as_generator(generator)
        self._initialise(rng, dim + 1)
        self.encoder: SetEncoder | None = None
        self.change: Linear | None = None
        if units.features:  # weights that others have as well are those of others
            width, pool = self.config.width, self.config.pool
            self.encoder = SetEncoder(units.features, width, pool=pool, generator=rng)
            film = 2 * self.config.depth * width if self.config.condition == "film" else 0
            self.change = Linear(width, film + (1 if answer == "growth" else dim)).zero()

    def _initialise(self, generator: torch.Generator, fan_in: int) -> None:
        for layer in (*self.layers, *list(self.gate or ())[:-1]):
            if isinstance(layer, Linear):
                # Of the first layer, what tells the interval is no part of the fan: most is zero.
                layer.draw(generator, fan_in if layer is self.layers[0] else None)

    def forward(self, t: Tensor, x: Tensor, context: Context | None = None) -> Tensor:
        """Evaluate at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``, in a `context`."""
        return self.between(t, t, x, context=context)

    def between(
        self, t: Tensor, until: Tensor, x: Tensor, *, context: Context | None = None
    ) -> Tensor:
        """Average velocity from `t` to `until`, in a `context`: see :meth:`Network.between`."""
        own = next(self.layers.parameters()).dtype
        if x.dtype != own:
            return self.between(t, until, x.to(own), context=context).to(x.dtype)
        time = self.of_time(t, until).to(x.dtype).expand(x.shape[0], -1)
        centred = (x - self.centre.to(x.dtype)) / self.units.scale
        rows = None if context is None else context.rows
        out = chain(self.layers, torch.cat([centred, time], 1), self.told(context), rows=rows)
        if self.gate is not None:
            out = out + self.gate(time[:, :1]) * centred
        out = out * self.unit
        return out[:, 0] if self.answer == "growth" else out

    def told(self, context: Context | None) -> Tensor | None:
        """Return what the layers see of c conditions in a `context`, ``(c, k)``; None if nothing.

        It is for :func:`cellflow.networks.fast.changes`. Of the first layer the encoded condition
        itself is a shift, which is concatenation and its weights.
        """
        if self.encoder is None or self.change is None:
            return None
        encoded = self.encoder(context)
        change: Tensor = self.change(encoded)
        return change if self.config.condition == "film" else torch.cat([encoded, change], 1)

    def of_time(self, t: Tensor, until: Tensor | None = None) -> Tensor:
        """Return what the layers see of the time `t`, scalar or ``(n,)``: shape ``(1 or n, k)``.

        It is the time itself; where averages are learned, how long it is `until` their end; where
        intervals are told, for each of them whether it is that one, and how far on from its middle.
        """
        u, t = self.units, t.reshape(-1, 1)
        time = (t - u.origin) / u.span
        if not self.config.time:
            time = torch.zeros_like(time)
        if self.config.average:
            end = t if until is None else until.reshape(-1, 1)
            time = torch.cat([time, (end - t) / u.span], 1)
        if not self.config.intervals:
            return time
        knots = torch.tensor(u.knots, dtype=t.dtype, device=t.device)
        begun = t >= knots[1:-1]
        first, last = torch.ones_like(t, dtype=torch.bool), torch.zeros_like(t, dtype=torch.bool)
        now = torch.cat([first, begun], 1) & ~torch.cat([begun, last], 1)
        on = (t - knots[:-1]) / knots.diff() - 0.5
        return torch.cat([time, now.to(time), torch.where(now, on.to(time), 0.0)], 1)

    def evaluator(self, like: Tensor, context: Context | None = None) -> Field:
        """Return what evaluates it without gradients, for cells such as `like`, in a `context`."""
        cells = [like, *self.parameters()]
        one = context is None or context.rows is None
        plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in cells)
        watched = self._forward_hooks or self._forward_pre_hooks
        # A subclass may answer otherwise.
        if plain and one and not watched and type(self) is MLP:
            return _Evaluator(self, context)
        return super().evaluator(like, context)


class _Evaluator:
    """Copy of a network on a CPU in float32, with its units in its weights.

    Equal to the network up to rounding, for scalar times.
    """

    @torch.no_grad()
    def __init__(self, net: MLP, context: Context | None) -> None:
        u, own = net.units, []
        self.net, self.units, self.activation = net, u, net.layers[1]
        self.centre, dim = net.centre.float(), len(u.centre)
        linear = dense(net.layers)
        told = changes(net.told(context), [layer.out_features for layer in linear])
        for layer, (scale, shift) in zip(linear, told, strict=True):
            weight, bias = layer.weight.detach(), layer.bias.detach()
            if scale is not None:
                weight, bias = weight * (1 + scale[0])[:, None], bias * (1 + scale[0])
            own.append((weight, bias if shift is None else bias + shift[0]))
        (first, bias), *rest, (weight, last) = own
        self.bias, self.of_time = bias.double(), first[:, dim:].double()
        self.weight = (first[:, :dim].double() / u.scale).float()
        self.rest = [*rest, (weight * net.unit, last * net.unit)]

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Evaluate at the scalar time `t` and cells `x` ``(n, d)``."""
        time = self.net.of_time(torch.tensor(float(t), dtype=torch.float64)).to(self.bias)[0]
        centred = x - self.centre
        h = product(centred, self.weight, (self.bias + self.of_time @ time).float())
        for weight, bias in self.rest:
            silu = isinstance(self.activation, nn.SiLU)
            h = nn.functional.silu(h, inplace=True) if silu else self.activation(h)
            h = product(h, weight, bias)
        if self.net.gate is not None:  # of time alone: the same for all cells
            factor = self.net.gate(time.float()[None, :1]) * (self.net.unit / self.units.scale)
            h.addcmul_(centred, factor)
        return h[:, 0] if self.net.answer == "growth" else h
