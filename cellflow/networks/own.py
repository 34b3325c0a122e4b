"""Networks of the user's own, in the units that ours see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from cellflow import _checks
from cellflow._random import seeded_draws, stream_seed
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.network import Network, NetworkConfig, Units

#: What serves where networks are asked for: see :func:`as_network_config`.
NetworkLike: TypeAlias = "NetworkConfig | nn.Module | Callable[[Units, str], nn.Module]"


class OwnField(Network):
    """A module of the user's own as a field for `answer`.

    The `module` sees ``(t - origin) / span``, shape ``(n,)``, and ``(x - centre) / scale``, shape
    ``(n, d)``, and answers ``(n, d)``, or for growth ``(n,)``, in the unit of the answer. Where
    cells have conditions, it is called with a :class:`~cellflow.conditions.Context` as well; one
    without any token present says nothing of them.
    """

    def __init__(self, module: nn.Module, units: Units, answer: str) -> None:
        super().__init__(units, answer)
        self.module = module

    def forward(self, t: Tensor, x: Tensor, context: Context | None = None) -> Tensor:
        """Evaluate at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``, in a `context`."""
        seen = [((t - self.units.origin) / self.units.span).to(x.dtype).expand(len(x))]
        seen.append((x - self.centre.to(x.dtype)) / self.units.scale)
        if self.units.features:
            told = Context.nothing(self.units.features) if context is None else context
            out = self.module(*seen, told.to(x))
        else:
            out = self.module(*seen)
        shape = x.shape[:1] if self.answer == "growth" else x.shape
        if not isinstance(out, Tensor) or out.shape != shape:  # it would be broadcast
            got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            what = f"an answer of shape {tuple(shape)} to times and cells"
            raise ValueError(_checks.message("net", f"{got} for the {self.answer}", what))
        return out * self.unit


@dataclass(frozen=True, eq=False)
class OwnNetworks(NetworkConfig):
    """Networks that the user made, or makes when they are asked for; each fit has copies.

    The `net` is a module, one for each answer, or a function that makes them.
    """

    net: nn.Module | Callable[[Units, str], nn.Module]

    @property
    def shape(self) -> NetworkConfig | None:
        """The shape of networks of ours, those of another fit; None for others."""
        parts = self.net.values() if isinstance(self.net, nn.ModuleDict) else ()
        shapes = {part.config if isinstance(part, Network) else None for part in parts}
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def small(self) -> bool:
        return self.shape is not None and self.shape.small

    @property
    def jumps(self) -> bool:
        """Whether fields may jump at the times of snapshots; those of others do not."""
        return self.shape is not None and self.shape.jumps

    def build(self, units: Units, *, answer: str, generator: Rng = 0) -> Network:
        """Return a copy of the module, or one that the function makes by this seed."""
        module: object = self.net
        if isinstance(self.net, nn.ModuleDict):
            module = self.net[_checks.choice(answer, self.net.keys(), "net")]
        elif not isinstance(self.net, nn.Module):
            seed = _checks.as_generator(generator).initial_seed()
            with seeded_draws(stream_seed(seed, 0, 10)):
                module = self.net(units, answer)
        if not isinstance(module, nn.Module):
            got = f"a function that returns {type(module).__name__}"
            raise TypeError(_checks.message("net", got, "one that returns an nn.Module"))
        module = copy.deepcopy(module)
        if isinstance(module, Network) and module.units.features != units.features:
            got = f"networks that are told {module.units.features} numbers of a condition"
            raise ValueError(_checks.message("net", got, f"{units.features}, as of the course"))
        return module if isinstance(module, Network) else OwnField(module, units, answer)


def as_network_config(net: NetworkLike) -> NetworkConfig:
    """Return `net` itself, or networks of the user's own as something that builds them.

    Those are a module, which serves one answer; an ``nn.ModuleDict`` with one for each, such as
    the networks of a fit, from which another goes on; or a function from the units of the data
    and the answer (``"velocity"``, ``"score"``, ``"growth"``) to a fresh module.
    """
    if isinstance(net, NetworkConfig):
        return net
    if isinstance(net, nn.Module) or callable(net):
        return OwnNetworks(net)
    expected = "MLPConfig(), an nn.Module, or a function (units, answer) that makes one"
    raise TypeError(_checks.message("net", repr(net), expected))
