"""Flow with invertible attention between programs of genes, or other groups of coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import AffineTransform, Transform, constraints

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.densities.density import DENSITIES, Density, zuko
from cellflow.densities.flows import couplings, normalise

#: Largest gain of the attention, below one, and of the logits of a map; units of a query.
_GAIN, _REACH, _QUERY = 0.9, 3.0, 8


@DENSITIES.register("attnflow")
@dataclass(frozen=True)
class AttnFlow(Density):
    r"""Affine couplings and invertible attention: :math:`y_b = (1 + \gamma E A(x_a) W) x_b`.

    After :cite:t:`sukthanker2022`, for vectors. Coordinates belong to programs; half of them,
    :math:`x_a`, say how the programs of the others attend to each other. Of the kind
    ``"transformer"``, `A` is the softmax of queries times keys, `W` the weighted means of programs,
    `E` hands each back to its coordinates, and :math:`|\gamma| < 1`: by Sylvester's identity the
    determinant is :math:`|1 + \gamma A|`, of the size of the programs. Of the kind ``"map"`` the
    softmax is one weight for each program, which scales its coordinates. For many dimensions in
    known groups, where ``"glow"`` knows none. Give `programs` as a number, of neighbouring
    coordinates, or as the program of each coordinate.
    """

    programs: int | tuple[int, ...] = 4
    kind: str = "transformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.choice(self.kind, ("transformer", "map"), "kind")
        if isinstance(self.programs, int):
            _checks.count(self.programs, "programs")
        else:  # of a file, a list
            object.__setattr__(self, "programs", tuple(map(int, self.programs)))

    def build(self, dim: int) -> nn.Module:
        flow, layers = couplings(self, dim), []
        for k, coupling in enumerate(flow.transform.transforms):
            attention = [Attention(self, self._labels(dim), k % 2)] if dim > 1 else []
            layers += [zuko().ElementWiseTransform(dim), coupling, *attention]
        return zuko().Flow(layers, flow.base)

    start = normalise

    def _labels(self, dim: int) -> Tensor:
        """Return the program of each coordinate, shape ``(dim,)``."""
        if isinstance(self.programs, int):
            return torch.arange(dim) * self.programs // dim
        if len(self.programs) != dim:
            got, expected = f"{len(self.programs)} of them", f"one for each of {dim} dimensions"
            raise ValueError(_checks.message("programs", got, expected))
        return torch.tensor(self.programs)


class Attention(nn.Module):
    """Attention of a `density`, for half `parity` of programs `labels` ``(d,)``; first at rest."""

    members: Tensor
    fixed: Tensor

    def __init__(self, density: AttnFlow, labels: Tensor, parity: int) -> None:
        super().__init__()
        self.maps = density.kind == "map"
        fixed = torch.empty(len(labels), dtype=torch.bool)
        fixed[labels.argsort(stable=True)] = torch.arange(len(labels)) % 2 == parity
        moved = labels[~fixed].unique(return_inverse=True)[1]
        self.register_buffer("fixed", fixed)
        self.register_buffer("members", nn.functional.one_hot(moved).float())  # (d_b, programs)
        hidden = density.layers["hidden_features"]
        answers = self.members.shape[1] * (1 if self.maps else 2 * _QUERY)
        self.net = zuko("nn").MLP(int(fixed.sum()), answers, hidden_features=hidden)
        self.gain = nn.Parameter(torch.zeros(()))
        self.weights = nn.Parameter(torch.zeros(len(moved)))  # of no matter for maps

    def forward(self, context: None = None) -> Transform:
        """Return the transform of cells; there is no `context`."""
        return zuko("transforms").CouplingTransform(self._meta, self.fixed)

    def _meta(self, fixed: Tensor) -> Transform:
        """Return the transform of the other half that the half `fixed` ``(n, d_a)`` says."""
        out = self.net(fixed)
        if self.maps:
            scale = (_REACH * self.gain.tanh() * out.tanh()).softmax(-1) * out.shape[-1]
            return AffineTransform(0.0, scale @ self.members.T, event_dim=1)
        query, key = out.unflatten(-1, (2, -1, _QUERY)).unbind(-3)
        attention = (query @ key.mT / _QUERY**0.5).softmax(-1)
        shares = self.members.T * self.weights.exp()
        shares = shares / shares.sum(1, keepdim=True)
        return _Mix(_GAIN * self.gain.tanh() * attention, self.members, shares)


class _Mix(Transform):
    """The map ``x + members @ attention @ shares @ x``, where ``shares @ members`` is one."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, attention: Tensor, members: Tensor, shares: Tensor) -> None:
        super().__init__()
        self.attention, self.members, self.shares = attention, members, shares
        self.whole = attention + torch.eye(attention.shape[-1]).to(attention)

    def _hand_back(self, means: Tensor) -> Tensor:
        return (self.attention @ means[..., None])[..., 0] @ self.members.T

    def _call(self, x: Tensor) -> Tensor:
        return x + self._hand_back(x @ self.shares.T)

    def _inverse(self, y: Tensor) -> Tensor:
        return y - self._hand_back(torch.linalg.solve(self.whole, y @ self.shares.T))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.whole).logabsdet
