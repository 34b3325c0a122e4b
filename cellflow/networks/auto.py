"""The size of a network that a course asks for, and how to train it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cellflow.timecourse import TimeCourse

#: Hidden units for each dimension, and the least and most of them.
PER_DIMENSION, LEAST, MOST = 12, 64, 512
#: Steps of the narrowest one, of so many cells a snapshot or more.
STEPS, CELLS = 3000, 1000


@dataclass(frozen=True)
class Suggestion:
    """What :func:`suggested` says.

    Parameters
    ----------
    width, depth
        Of a perceptron: see :class:`MLPConfig`.
    learning_rate
        Of training.
    steps
        Budget of training steps.
    block_size
        Cells that are coupled together.
    """

    width: int
    depth: int = 3
    learning_rate: float = 1e-3
    steps: int = 3000
    block_size: int = 256


def suggested(course: TimeCourse, n_components: int | None = None) -> Suggestion:
    """Return the size of a perceptron for a course, and how to train it.

    Three layers of 12 hidden units for each dimension, to a power of two from 64 to 512; further
    conditions count as dimensions do, which no benchmark has shown yet. 3,000 steps of 64 units, in
    proportion fewer of wider networks, which take longer and learn more in a step, and of less
    than 1,000 cells a snapshot, 200 at least. Longer training follows the pairs of cells more
    closely and predicts days left out less well; larger blocks and other networks did not do better
    at equal time (benchmarks/conditions/networks.py, simulated courses of 2 to 50 dimensions).

    Parameters
    ----------
    course
        Its dimension, its conditions and the cells of a mean snapshot count.
    n_components
        Dimension of what the network sees, where that is another one.
    """
    told = 0 if course.conditions is None else len(course.conditions) - 1
    units = PER_DIMENSION * ((n_components or course.dim) + told)
    width = min(max(2 ** round(math.log2(units)), LEAST), MOST)
    cells = sum(map(len, course.snapshots)) / len(course)
    steps = STEPS * LEAST / width * min(1, cells / CELLS)
    return Suggestion(width, steps=max(round(steps), 200))
