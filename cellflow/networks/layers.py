"""Layers that several networks are made of: seeded weights, time features, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.networks.fast import parameters_alone

#: Frequencies of time features.
WAVES = 8
#: Fan of a last layer, in multiples of its own: answers are a tenth of what they were at the start.
QUIET = 100


class Linear(nn.Linear):
    """A linear layer whose weights are drawn by its network: torch's would be by a global seed."""

    def reset_parameters(self) -> None:
        """Do nothing."""

    @torch.no_grad()
    def draw(self, generator: torch.Generator, fan_in: int | None = None) -> Self:
        """Draw weights as torch does, uniform within ``1/sqrt(fan_in)``, and return the layer."""
        bound = 1 / math.sqrt(fan_in or self.in_features)
        for parameter in (self.weight, self.bias):
            parameter.uniform_(-bound, bound, generator=generator)
        return self

    @torch.no_grad()
    def zero(self) -> Self:
        """Set the weights to zero, so that what follows is shut at the start; return the layer."""
        for parameter in (self.weight, self.bias):
            parameter.zero_()
        return self


def waves(time: Tensor, horizon: float) -> Tensor:
    """Return `time` ``(n, 1)`` with sines and cosines of it, ``(n, 1 + 2 WAVES)``.

    Periods go from four times the `horizon` to two intervals between snapshots, the unit of time:
    faster ones would be free between the snapshots.
    """
    low, high = math.log2(math.pi / 2 / horizon), math.log2(math.pi)
    angle = time * torch.logspace(low, high, WAVES, 2.0, dtype=time.dtype, device=time.device)
    return torch.cat([time, angle.sin(), angle.cos()], 1)


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return the layer norm of `h` ``(..., w)``, shifted and scaled (adaLN)."""
    return layer_norm(h, h.shape[-1:]) * (1 + scale) + shift


def attention(q: Tensor, k: Tensor, v: Tensor, *, shown: Tensor | None = None) -> Tensor:
    """Return what tokens read of each other, ``softmax(q k' / sqrt(e)) v``, ``(n, heads, m, e)``.

    Keys that are not `shown`, bool ``(n or 1, 1, 1, m)``, are read by none. Torch's kernel, twice
    as fast, has first derivatives alone.
    """
    if parameters_alone():
        return scaled_dot_product_attention(q, k, v, shown)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if shown is not None:
        scores = scores.masked_fill(~shown, -torch.inf)
    return scores.softmax(-1) @ v


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Return `x` ``(..., m, e)`` with its halves turned as pairs by `angles` ``(m, e / 2)``.

    Products of queries and keys then depend on differences of angles alone (:cite:`su2024`).
    """
    one, two = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - two * sin, one * sin + two * cos], -1)


class Heads(nn.Module):
    """Attention of `heads` heads over tokens of `width` features.

    Queries and keys have unit mean square, times learned factors, so that scores stay bounded.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.factors = nn.Parameter(torch.ones(2, width // heads))

    def split(self, qkv: Tensor, angles: Tensor | None = None) -> list[Tensor]:
        """Return queries, keys and values ``(n, heads, m, e)`` of `qkv` ``(n, m, 3 w)``.

        The first two are turned by `angles`, if given: see :func:`rotated`.
        """
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        both = [x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k)]
        both = [x * factor for x, factor in zip(both, self.factors, strict=True)]
        return [*(x if angles is None else rotated(x, angles) for x in both), v]


class Stream(nn.Module):
    """Block of a transformer on tokens of one kind, modulated by what is told (adaLN-zero).

    Tokens have `width` features, attention has `heads` heads; the `ratio` is that of hidden units
    of the layers behind it. Weights are drawn from `rng`, but the gates are shut.
    """

    def __init__(self, width: int, heads: int, ratio: int, *, rng: torch.Generator) -> None:
        super().__init__()
        self.modulation = Linear(width, 6 * width).zero()
        self.heads = Heads(width, heads)
        self.qkv, self.out = Linear(width, 3 * width).draw(rng), Linear(width, width).draw(rng)
        first, last = Linear(width, ratio * width).draw(rng), Linear(ratio * width, width).draw(rng)
        self.layers = nn.Sequential(first, nn.GELU(approximate="tanh"), last)

    def ask(self, h: Tensor, parts: Sequence[Tensor], angles: Tensor | None) -> list[Tensor]:
        """Return queries, keys and values of tokens `h`: see :meth:`Heads.split` for `angles`."""
        return self.heads.split(self.qkv(modulated(h, *parts[:2])), angles)

    def take(self, h: Tensor, parts: Sequence[Tensor], read: Tensor) -> Tensor:
        """Return tokens `h` after what they have `read`, modulated by the `parts`."""
        h = h + parts[2] * self.out(read)
        return h + parts[5] * self.layers(modulated(h, *parts[3:5]))


def joint(
    streams: Sequence[Stream],
    tokens: Sequence[Tensor],
    told: Tensor,
    *,
    shown: Tensor | None = None,
    angles: Tensor | None = None,
) -> list[Tensor]:
    """Return the `tokens` ``(n, m, w)`` of each of the `streams` after a block in which all attend.

    They are modulated by what is `told` of the cells, ``(n or 1, 1, w)``. Keys that are not `shown`
    are padding, and `angles` say where tokens of the first stream stand.
    """
    parts = [stream.modulation(told).chunk(6, -1) for stream in streams]
    turns = [angles, *[None] * (len(tokens) - 1)]
    each = [s.ask(*own) for s, *own in zip(streams, tokens, parts, turns, strict=True)]
    q, k, v = (torch.cat(some, 2) for some in zip(*each, strict=True))
    read = attention(q, k, v, shown=shown).transpose(1, 2).flatten(2)
    own_read = read.split([h.shape[1] for h in tokens], 1)
    return [s.take(*own) for s, *own in zip(streams, tokens, parts, own_read, strict=True)]


class Patches(nn.Module):
    """Components of a cell as at most `most` tokens of `width` features, and back to an answer.

    Cells and answers have `dim` and `out` numbers; where `out` is 1 and `dim` is not, it is that of
    the mean token. Weights are drawn from `rng`.
    """

    def __init__(self, dim: int, out: int, *, most: int, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.size = -(-dim // min(most, dim))
        self.tokens = -(-dim // self.size)
        self.whole = out == dim
        self.first = Linear(self.size, width).draw(rng)
        self.last = Linear(width, self.size if self.whole else out).draw(rng, QUIET * width)

    def cut(self, x: Tensor) -> Tensor:
        """Return the tokens of cells `x`, ``(n, tokens, width)``."""
        rest = self.tokens * self.size - x.shape[1]
        return self.first(nn.functional.pad(x, (0, rest)).unflatten(1, (self.tokens, self.size)))

    def answer(self, h: Tensor, dim: int) -> Tensor:
        """Return the answer of tokens `h` for cells of `dim` numbers, ``(n, out)``."""
        return self.last(h).flatten(1)[:, :dim] if self.whole else self.last(h.mean(1))


def check_heads(width: int, heads: int, *, per_head: int = 1) -> None:
    """Refuse `heads` that do not share `width` features by `per_head`."""
    if width % (heads * per_head):
        expected = f"a divisor of width / {per_head} = {width / per_head:g}"
        raise ValueError(_checks.message("heads", heads, expected))
