"""Seeds derived from seeds, so that everything stochastic is a pure function of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._typing import Rng, Tensor

_MASK = 2**64 - 1


def stream_seed(seed: int, index: int, stream: int) -> int:
    """Return a well mixed seed for draw `index` of stream `stream` (SplitMix64's finaliser)."""
    z = seed & _MASK
    for word in (index, stream):
        z = (z ^ word) + 0x9E3779B97F4A7C15 & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        z ^= z >> 31
    return z >> 1


def stream_rng(seed: int, index: int, stream: int) -> torch.Generator:
    """Return a generator on the CPU for draw `index` of stream `stream`: see `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, index, stream))


def draw_seed(generator: Rng, group: ProcessGroup | None = None) -> int:
    """Return the number that everything random in a fit follows from, the same on all ranks."""
    rng = _checks.as_generator(generator)
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    return seed if group is None else group.broadcast(lambda: seed)


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Let what draws from torch's own generators, such as dropout, follow from `seed`.

    Those of the CPU and of NVIDIA GPUs are then as before: the user's own draws stay as they were.
    """
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    before = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def shuffle(n: int, generator: torch.Generator) -> Tensor:
    """Draw a permutation on the device of the generator."""
    return torch.randperm(n, generator=generator, device=generator.device)


def stratified(cumulated: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw `k` indices in proportion to mass, in random order, given the cumulated mass."""
    uniform = torch.rand(k, generator=generator, device=generator.device, dtype=torch.float64)
    level = ((shuffle(k, generator) + uniform) / k).to(cumulated.device) * cumulated[-1]
    # Rounding must not reach the total: the last entries may have no mass.
    below = torch.nextafter(cumulated[-1], torch.zeros_like(cumulated[-1]))
    return torch.searchsorted(cumulated, torch.minimum(level, below), right=True)


def systematic(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw `size` indices in proportion to `weights` ``(n,)`` of total one, in random order.

    Each index comes floor or ceil of its share. The `generator` is on the CPU, as the indices are.
    """
    edges = weights.cpu().cumsum(0)
    ticks = (torch.arange(size) + torch.rand((), generator=generator, dtype=torch.float64)) / size
    index = torch.searchsorted(edges, ticks).clamp_(max=len(edges) - 1)
    return index[torch.randperm(size, generator=generator)]
