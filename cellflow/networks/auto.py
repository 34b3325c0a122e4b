"""The size of a network that a course asks for, and how to train it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cellflow import _checks
from cellflow.timecourse import TimeCourse

#: Hidden units for each dimension, and the least and most of them.
PER_DIMENSION, LEAST, MOST = 12, 64, 512
#: Steps times dimension, and the fewest.
STEPS, FEWEST = 6000, 400


@dataclass(frozen=True)
class Suggestion:
    """What :func:`suggested` says.

    A perceptron of that `width` and `depth` (see :class:`MLPConfig`), trained with that
    `learning_rate` for at most so many `steps`, on cells that are coupled in blocks of
    `block_size`.
    """

    width: int
    depth: int = 3
    learning_rate: float = 1e-3
    steps: int = 3000
    block_size: int = 256


def suggested(course: TimeCourse, n_components: int | None = None) -> Suggestion:
    """Return the size of a perceptron for a course, and how to train it.

    Three layers of 12 hidden units for each dimension, to a power of two from 64 to 512; further
    conditions count as dimensions do, which no benchmark has shown yet. The budget is 6,000 steps
    over the dimension, from 400 to 3,000: beyond two dimensions longer training follows the pairs
    of cells more closely and predicts days left out less well, of 150 cells a day as of 4,000. The
    rate and the blocks are the defaults, to which others and larger ones were no better, and other
    networks are behind at equal time (benchmarks/conditions/networks.py, simulated courses).

    The dimension of the `course` and its conditions count, or `n_components` where the network sees
    another dimension.
    """
    dim = course.dim if n_components is None else _checks.count(n_components, "n_components")
    told = 0 if course.conditions is None else len(course.conditions) - 1
    width = min(max(2 ** round(math.log2(PER_DIMENSION * (dim + told))), LEAST), MOST)
    return Suggestion(width, steps=min(max(round(STEPS / dim), FEWEST), 3000))
