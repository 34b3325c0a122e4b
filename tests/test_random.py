"""Draws of cells by mass: as even as masses allow, without bias, in random order."""

from __future__ import annotations

import torch

from cellflow._random import systematic

WEIGHTS = torch.tensor([0.05, 0.25, 0.3, 0.4], dtype=torch.float64)


def draws(size: int, number: int) -> list[torch.Tensor]:
    """Independent draws of `size` indices."""
    generator = torch.Generator().manual_seed(0)
    return [systematic(WEIGHTS, size, generator) for _ in range(number)]


def test_each_index_comes_floor_or_ceil_of_its_share() -> None:
    for drawn in draws(7, 50):
        count = drawn.bincount(minlength=4)
        assert bool(((count - 7 * WEIGHTS).abs() < 1).all())


def test_the_mean_of_many_draws_is_the_share() -> None:
    """A count is one of two neighbours, of deviation 1/2 at most: .025 is a standard error."""
    count = torch.stack([drawn.bincount(minlength=4) for drawn in draws(7, 400)]).double()
    assert bool(((count.mean(0) - 7 * WEIGHTS).abs() < 4 * 0.025).all())
    assert bool((count.std(0) > 0).all())


def test_indices_are_in_random_order() -> None:
    """The mean of the first half is that of all, with a standard error of .97 / sqrt(20000)."""
    first = torch.stack([drawn[:100] for drawn in draws(200, 200)]).double()
    expected = float((WEIGHTS * torch.arange(4)).sum())
    assert abs(float(first.mean()) - expected) < 4 * 0.007
