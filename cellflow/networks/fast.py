"""Dense layers with gradients written out: fewer operations, and the faster product of matrices.

On a CPU torch multiplies matrices by MKL, which on processors of other makers leaves half of the
speed unused; oneDNN, which comes with torch as well, does not. It costs ten microseconds a call
more, so that it is asked for large products alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cellflow._typing import Tensor

#: Multiplications from which oneDNN is the faster one.
LARGE = 1_500_000
_aten = torch.ops.aten
_SELU = 1.6732632423543772, 1.0507009873554805  # alpha and scale, of Klambauer et al. 2017
#: Gradient of an activation's argument, from the gradient of the result, the argument, the result.
Slope = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Activations and their slopes, by name.
ACTIVATIONS: dict[str, tuple[type[nn.Module], Slope]] = {
    "selu": (nn.SELU, lambda g, z, h: _aten.elu_backward(g, *_SELU, 1, False, z)),
    "silu": (nn.SiLU, lambda g, z, h: _aten.silu_backward(g, z)),
    "relu": (nn.ReLU, lambda g, z, h: _aten.threshold_backward(g, z, 0)),
    "gelu": (nn.GELU, lambda g, z, h: _aten.gelu_backward(g, z)),
    "tanh": (nn.Tanh, lambda g, z, h: _aten.tanh_backward(g, h)),
    "softplus": (nn.Softplus, lambda g, z, h: _aten.softplus_backward(g, z, 1, 20)),
}
_SLOPES = dict(ACTIVATIONS.values())
_written_out: ContextVar[bool] = ContextVar("written_out", default=False)


@contextmanager
def written_out() -> Iterator[None]:
    """Take first derivatives of the parameters by :class:`Chain` inside; of nothing else."""
    token = _written_out.set(True)
    try:
        yield
    finally:
        _written_out.reset(token)


def parameters_alone() -> bool:
    """Whether nothing but first derivatives of the parameters will be asked for here."""
    return _written_out.get() and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def chain(
    layers: nn.Sequential, x: Tensor, told: Tensor | None = None, *, rows: Tensor | None = None
) -> Tensor:
    """Return ``layers(x)`` for `x` ``(n, d)``, with gradients written out where that was asked for.

    The `layers` are linear, with an activation between any two. What c conditions are `told`,
    ``(c, k)``, changes what the linear ones answer, see :func:`changes`; the condition of each cell
    is in `rows` ``(n,)``, None where there is one.
    """
    linear = dense(layers)
    if not x.requires_grad and parameters_alone():
        if rows is None and told is not None:
            rows = torch.zeros(len(x), dtype=torch.long, device=x.device)
        own = (p for layer in linear for p in (layer.weight, layer.bias))
        return Chain.apply(x, layers[1], rows, told, *own)
    if told is None:
        return layers(x)
    for k, change in enumerate(changes(told, [layer.out_features for layer in linear])):
        x = changed(linear[k](layers[2 * k - 1](x) if k else x), *change, rows=rows)
    return x


def changed(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, *, rows: Tensor | None
) -> Tensor:
    """Return `x` ``(n, w)`` times one and `scale`, plus `shift`, ``(c, w)``: of each cell its row.

    See :func:`chain` for `rows`.
    """
    if shift is None:
        return x
    shift = _of(shift, rows)
    return x + shift if scale is None else torch.addcmul(shift, x, _of(1 + scale, rows))


def _of(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)


def dense(layers: nn.Sequential) -> list[nn.Linear]:
    """Return the linear ones of the `layers`."""
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def changes(told: Tensor | None, sizes: Sequence[int]) -> list[tuple[Tensor | None, Tensor | None]]:
    """Return how linear layers that answer with `sizes` numbers are changed by what they are told.

    For each, what the scale is above one, and the shift; None for no change. The columns of `told`
    ``(n, k)`` are scale and shift of each layer, but for the last, which has a shift alone; or, of
    fewer, the shifts of the first and the last.
    """
    *inner, last = sizes
    if told is None:
        return [(None, None) for _ in sizes]
    if told.shape[1] == inner[0] + last:
        first, answer = told.split([inner[0], last], 1)
        return [(None, first), *((None, None) for _ in inner[1:]), (None, answer)]
    *parts, answer = told.split([*(size for size in inner for _ in range(2)), last], 1)
    return [*zip(parts[::2], parts[1::2], strict=True), (None, answer)]


class Chain(torch.autograd.Function):
    """Dense layers as one operation, which knows the gradient of its parameters and changes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: nn.Module, *tensors: Tensor) -> Tensor:
        """Evaluate, and keep what the gradient needs; of `tensors`, first come rows and told."""
        rows, told, weights, biases = *tensors[:2], tensors[2::2], tensors[3::2]
        ctx.sizes, ctx.slope = [len(bias) for bias in biases], _SLOPES[type(activation)]
        kept, z = [], x
        layers = zip(weights, biases, changes(told, ctx.sizes), strict=True)
        for k, (weight, bias, change) in enumerate(layers):
            h = activation(z) if k else x
            plain = product(h, weight, bias)
            z = changed(plain, *change, rows=rows)
            kept += [h, plain, z]
        ctx.save_for_backward(rows, told, *weights, *kept[:-2])
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, last layer first."""
        n = len(ctx.sizes)
        rows, told, *weights = ctx.saved_tensors[: n + 2]
        kept, each = ctx.saved_tensors[n + 2 :], changes(told, ctx.sizes)
        found: list[Tensor | None] = []
        of_told: list[Tensor] = []
        for k in range(n - 1, -1, -1):
            scale, shift = each[k]
            if shift is not None:
                of_told.append(torch.zeros_like(shift).index_add_(0, rows, g))
            if scale is not None:
                of_told.append(torch.zeros_like(scale).index_add_(0, rows, g * kept[3 * k + 1]))
                g = g * _of(1 + scale, rows)
            found += [g.sum(0), outer(g, kept[3 * k])]
            if k:
                g = ctx.slope(product(g, weights[k].t()), kept[3 * k - 1], kept[3 * k])
        return None, None, None, torch.cat(of_told[::-1], 1) if of_told else None, *found[::-1]


def outer(g: Tensor, h: Tensor) -> Tensor:
    """Return ``g.T @ h`` of ``(n, m)`` and ``(n, d)``: with the narrower one left MKL is faster."""
    return g.t() @ h if g.shape[1] <= h.shape[1] else (h.t() @ g).t()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` of ``(n, d)``, ``(m, d)`` and ``(m,)``; None is zero."""
    small = len(x) * weight.numel() < LARGE
    if small or x.dtype != torch.float32 or x.device.type != "cpu" or not has_onednn():
        return functional.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@cache
def has_onednn() -> bool:
    """Whether this torch has oneDNN's product, which is not part of its public interface."""
    try:
        x, weight, bias = torch.eye(3, 2), torch.ones(4, 2), torch.arange(4.0)
        found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return bool(torch.allclose(found, functional.linear(x, weight, bias)))
    except (RuntimeError, AttributeError, TypeError):
        return False
