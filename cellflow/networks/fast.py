"""Dense layers with gradients written out: fewer operations, and the faster product of matrices.

On a CPU torch multiplies matrices by MKL, which on processors of other makers leaves half of the
speed unused; oneDNN, which comes with torch as well, does not. It costs ten microseconds a call
more, so that it is asked for large products alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def chain(layers: nn.Sequential, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return ``layers(x)`` for `x` ``(n, d)``, with gradients written out where that was asked for.

    The `layers` are linear, with an activation between any two. A `shift` ``(n or 1, k)`` is added
    to what the first of them answers.
    """
    if x.requires_grad or not parameters_alone():
        return layers(x) if shift is None else layers[1:](layers[0](x) + shift)
    linear = list(layers)[::2]
    shift = shift if shift is None else shift.expand(len(x), -1)
    own = (p for layer in linear for p in (layer.weight, layer.bias))
    return Chain.apply(x, layers[1], shift, *own)


class Chain(torch.autograd.Function):
    """Dense layers as one operation, which knows the gradient of its parameters and its shift."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: nn.Module, *tensors: Tensor) -> Tensor:
        """Evaluate, and keep what the gradient needs; of the `tensors` the first is the shift."""
        shift, *parameters = tensors
        kept, h = [x], x
        *inner, last = zip(parameters[::2], parameters[1::2], strict=True)
        for weight, bias in inner:
            z = product(h, weight, bias)
            if h is x and shift is not None:
                z = z + shift
            h = activation(z)
            kept += [z, h]
        ctx.save_for_backward(*kept, *parameters[::2])
        ctx.slope = _SLOPES[type(activation)]
        return product(h, *last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, last layer first."""
        depth = (len(ctx.saved_tensors) - 1) // 3
        kept, weights = ctx.saved_tensors[: -depth - 1], ctx.saved_tensors[-depth - 1 :]
        found: list[Tensor | None] = []
        for k in range(depth, -1, -1):
            found += [g.sum(0), g.t() @ kept[2 * k]]
            if k:
                g = ctx.slope(product(g, weights[k].t()), kept[2 * k - 1], kept[2 * k])
        return None, None, g if ctx.needs_input_grad[2] else None, *found[::-1]


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
