"""Aliases used in public signatures. Shapes are stated in each docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

Tensor: TypeAlias = torch.Tensor
#: Anything a user may hand us as numbers: converted once, at the door.
ArrayLike: TypeAlias = np.ndarray | torch.Tensor | list | tuple
#: A seed or a generator; see :func:`cellflow._checks.as_generator`.
Rng: TypeAlias = int | torch.Generator | np.random.Generator | None
#: ``(t, x) -> value`` with ``t`` a scalar or ``(n,)`` and ``x`` of shape ``(n, d)``.
Field: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
