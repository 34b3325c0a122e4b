"""Seeded draws of indices."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor


def shuffle(n: int, generator: torch.Generator) -> Tensor:
    """Draw a permutation on the device of the generator."""
    return torch.randperm(n, generator=generator, device=generator.device)


def stratified(cumulated: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw `k` indices in proportion to mass, in random order, given the cumulated mass."""
    uniform = torch.rand(k, generator=generator, device=generator.device, dtype=torch.float64)
    strata = shuffle(k, generator)
    level = ((strata + uniform) / k).to(cumulated.device) * cumulated[-1]
    # Rounding must not reach the total: the last entries may have no mass.
    below = torch.nextafter(cumulated[-1], torch.zeros_like(cumulated[-1]))
    return torch.searchsorted(cumulated, torch.minimum(level, below), right=True)
