"""Means, variances and principal directions of many cells, a block of rows at a time.

Everything is summed in float64. What is held beside the cells is one block, so that memory does
not grow with their number; cells that fit into one block are treated as the whole that they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from cellflow._typing import Tensor

#: Numbers in a block: 32 MB in float64.
_BLOCK = 2**22


def blocks(xs: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the rows of several ``(n_k, d)`` tensors in order, some at a time, as they are."""
    for x in xs:
        # Directions need blocks that are taller than wide.
        yield from x.split(max(_BLOCK // x.shape[1], 2 * x.shape[1]))


def mean(xs: Sequence[Tensor]) -> Tensor:
    """Return the mean of all rows, shape ``(d,)``."""
    total = xs[0].new_zeros(xs[0].shape[1], dtype=torch.float64)
    for x in blocks(xs):
        total += x.sum(0, dtype=torch.float64)
    return total / sum(map(len, xs))


def variance(xs: Sequence[Tensor], centre: Tensor, loadings: Tensor | None = None) -> Tensor:
    """Return the mean square of all rows around `centre`, along each of the columns `loadings`."""
    total = torch.zeros_like(centre if loadings is None else loadings[0])
    for x in blocks(xs):
        z = x - centre  # in float64, which the centre is in
        total += (z if loadings is None else z @ loadings).square_().sum(0)
    return total / sum(map(len, xs))


def directions(xs: Sequence[Tensor], centre: Tensor) -> Tensor:
    """Return the right singular vectors of all rows around `centre`, shape ``(k, d)``, k ≤ d.

    Several blocks are folded into one triangle by QR decompositions, which is as exact as a
    decomposition of all rows: O(n d²) operations.
    """
    folded: list[Tensor] = []
    for x in blocks(xs):
        if folded:
            folded = [torch.linalg.qr(torch.cat(folded), mode="r").R]
        folded.append(x - centre)
    return torch.linalg.svd(torch.cat(folded), full_matrices=False).Vh
