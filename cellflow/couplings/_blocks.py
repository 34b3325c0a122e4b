"""Random blocks of equal mass that two snapshots are cut into."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from cellflow._random import shuffle
from cellflow.timecourse import Snapshot

#: Part of a cell's share below which a splinter is taken for rounding.
SPLINTER = 1e-9


class Block(NamedTuple):
    """Cells of one snapshot, and the part of their mass that is in this block.

    Parameters
    ----------
    cells
        Indices, shape ``(k,)``.
    mass
        Mass of each, shape ``(k,)``, float64, of total one over all blocks.
    """

    cells: np.ndarray
    mass: np.ndarray


def blocks(
    source: Snapshot, target: Snapshot, *, size: int, rounds: int, generator: torch.Generator
) -> list[tuple[Block, list[Block]]]:
    """Cut both snapshots at random into as many blocks, each as heavy as its partner.

    Cells that straddle a cut are in two blocks. What is drawn does not depend on the order of
    the cells.

    Parameters
    ----------
    source, target
        Snapshots of n and m cells.
    size
        Upper bound on the mean number of cells in a block.
    rounds
        How often the target is cut anew; once if there is only one block.
    generator
        Source of randomness.

    Returns
    -------
    Blocks of the source, each with its partners of all rounds.
    """
    n, m = len(source), len(target)
    count = math.ceil(max(n, m) / size)
    # As many cells on both sides: whole cells per block. Otherwise masses decide.
    parts = np.array_split(np.arange(n), count) if n == m else [np.arange(1)] * count
    ends = np.cumsum([len(part) for part in parts])
    levels = np.concatenate([[0.0], ends / ends[-1]])
    left = _cut(source, levels, generator)
    right = [_cut(target, levels, generator) for _ in range(rounds if count > 1 else 1)]
    return [(block, list(partners)) for block, *partners in zip(left, *right, strict=True)]


def ordered(snapshot: Snapshot) -> np.ndarray:
    """Order of the cells by their coordinates, whatever their rows, shift and scale."""
    x = snapshot.x.detach().double().cpu().numpy()
    return np.lexsort([snapshot.weights.cpu().numpy(), *x.T[::-1]])


def _cut(snapshot: Snapshot, levels: np.ndarray, generator: torch.Generator) -> list[Block]:
    """Cut cells, in random order, where their cumulated mass reaches each of `levels`."""
    order = ordered(snapshot)[shuffle(len(snapshot), generator).numpy()]
    mass = snapshot.weights.cpu().numpy()[order]
    # Not summed where it need not be: cuts between whole cells shall be exactly there.
    ends = np.arange(1, len(mass) + 1) / len(mass) if snapshot.is_uniform else mass.cumsum()
    ends[-1] = 1.0
    starts = np.concatenate([[0.0], ends[:-1]])
    out = []
    for low, high in pairwise(levels):
        span = slice(np.searchsorted(ends, low, "right"), np.searchsorted(starts, high, "left"))
        inside = np.minimum(ends[span], high) - np.maximum(starts[span], low)
        whole = (starts[span] >= low) & (ends[span] <= high)
        share = np.where(whole, mass[span], inside)
        kept = share > SPLINTER * mass[span]
        out.append(Block(order[span][kept], share[kept]))
    return out
