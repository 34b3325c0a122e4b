"""The size of a network that a course asks for, and how to train it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cellflow.timecourse import TimeCourse

#: Hidden units for each dimension, and the least and most of them.
PER_DIMENSION, LEAST, MOST = 12, 64, 512


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

    Parameters
    ----------
    course
        Its dimension and its conditions count.
    n_components
        Dimension of what the network sees, where that is another one.
    """
    told = 0 if course.conditions is None else len(course.conditions) - 1
    units = PER_DIMENSION * ((n_components or course.dim) + told)
    width = min(max(2 ** round(math.log2(units)), LEAST), MOST)
    return Suggestion(width)
