r"""Networks of genes that switch each other on and off, by BoolODE (Pratapa et al. 2020).

A gene has messages x and proteins p, and a Boolean rule of the proteins that bind to it. Each binds
by itself, with the chance of a Hill function, and the gene is transcribed at its rule's mean:

.. math::
    dx = (m f(p) - l_x x)\,dt + s \sqrt{x}\,dW, \qquad
    dp = (r x - l_p p)\,dt + s \sqrt{p}\,dW', \qquad
    f(p) = \sum_{b} \text{rule}(b) \prod_i \frac{(p_i / k)^{n b_i}}{1 + (p_i / k)^n}

where b goes over all patterns of bound and unbound proteins. A network whose genes are knocked out
is simulated like any other, so the effect of that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import pairwise, product
from typing import TypeVar

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.timecourse import TimeCourse

Rule = Callable[..., bool]
S = TypeVar("S")

#: Rates m and r at which messages and proteins are made, and at which they decay, per unit of time.
TRANSCRIPTION, TRANSLATION, MESSAGE_DECAY, PROTEIN_DECAY = 20.0, 10.0, 10.0, 1.0
#: Hill's exponent n, and his threshold k: half of the proteins of a gene that is always on.
HILL, THRESHOLD = 10, 10.0
#: Messages, at the start, of a gene that no one names.
OFF = 0.01


@dataclass(frozen=True)
class GeneNetwork:
    """Genes that regulate each other.

    For each gene `rules` have whether it is on, a function whose arguments have the names of its
    regulators: ``{"a": lambda b: not b, "b": lambda: True}``. Messages of genes at time zero are
    those of `start`, 0.01 of those left out. Proteins are in balance with them.
    """

    rules: Mapping[str, Rule]
    start: Mapping[str, float]

    def __post_init__(self) -> None:
        regulators = [name for rule in self.rules.values() for name in signature(rule).parameters]
        for gene in (*regulators, *self.start):
            _checks.choice(gene, self.rules, "gene")

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes, in the order of columns."""
        return tuple(self.rules)

    def perturbed(
        self, *, knock_out: Sequence[str] = (), over_express: Sequence[str] = ()
    ) -> GeneNetwork:
        """Return the network with the genes `knock_out` never on and `over_express` always on.

        Genes that are knocked out have no messages from the start.
        """
        for gene in (*knock_out, *over_express):
            _checks.choice(gene, self.rules, "gene")
        rules = dict.fromkeys(knock_out, lambda: False) | dict.fromkeys(over_express, lambda: True)
        start = {**self.start, **dict.fromkeys(knock_out, 0.0)}
        return replace(self, rules={**self.rules, **rules}, start=start)

    def activity(self, proteins: Tensor) -> Tensor:
        """Share of time for which each gene is on, given `proteins` ``(n, g)``: ``(n, g)``."""
        powers = (proteins / THRESHOLD) ** HILL
        bound = dict(zip(self.genes, (powers / (1 + powers)).unbind(1), strict=True))
        columns = []
        for rule in self.rules.values():
            by = [bound[name] for name in signature(rule).parameters]
            column = torch.zeros_like(proteins[:, 0])
            for pattern in product((False, True), repeat=len(by)):
                if rule(*pattern):
                    chances = (p if b else 1 - p for p, b in zip(by, pattern, strict=True))
                    column = column + math.prod(chances, start=torch.ones_like(column))
            columns.append(column)
        return torch.stack(columns, 1)

    def simulate(
        self,
        n: int,
        times: Sequence[float] | ArrayLike,
        *,
        noise: float = 1.0,
        step: float = 0.01,
        generator: Rng = 0,
    ) -> Tensor:
        """Simulate messages of `n` cells from time zero, by Euler and Maruyama: ``(T, n, g)``.

        In float64. The `times` are increasing and not below zero; a `step` is the longest. The
        `noise` is the factor s, for BoolODE itself 1, zero for the ordinary equation, by a seed or
        `generator`. What it takes below zero is set to zero.
        """
        noise, rng = _checks.number(noise, "noise", low=0.0), _checks.as_generator(generator)
        step = _checks.number(step, "step", low=0.0, open_low=True)
        first = torch.tensor([self.start.get(g, OFF) for g in self.genes], dtype=torch.float64)
        x = first.expand(_checks.count(n, "n"), -1)

        def advance(state: tuple[Tensor, Tensor], h: float) -> tuple[Tensor, Tensor]:
            x, p = state
            dx = TRANSCRIPTION * self.activity(p) - MESSAGE_DECAY * x
            dp = TRANSLATION * x - PROTEIN_DECAY * p
            w, v = torch.randn(2, *x.shape, generator=rng, dtype=x.dtype) * noise * h**0.5
            x, p = (x + h * dx + x.sqrt() * w, p + h * dp + p.sqrt() * v)
            return x.clamp(min=0), p.clamp(min=0)

        start = x, x * (TRANSLATION / PROTEIN_DECAY)
        return torch.stack([x for x, _ in walk(start, times, step=step, advance=advance)])

    def course(
        self, n: int, times: Sequence[float], *, noise: float = 1.0, generator: Rng = 0
    ) -> TimeCourse:
        """Draw a time course of messages: at each of the `times` other `n` cells, as measured.

        With `noise` and `generator` of :meth:`simulate`; in single precision.
        """
        cells = self.simulate(n * len(times), times, noise=noise, generator=generator)
        return TimeCourse.from_arrays(
            [x[k * n : (k + 1) * n].float() for k, x in enumerate(cells)], times, unit="hour"
        )


def walk(
    state: S, times: Iterable[float], *, step: float, advance: Callable[[S, float], S]
) -> list[S]:
    """Return the states at increasing `times`, from `state` at zero on.

    By ``advance(state, h)``, in even steps h that are at most `step`.
    """
    ends, out = [_checks.number(float(t), "times", low=0.0) for t in times], []
    if not ends or any(b <= a for a, b in pairwise(ends)):
        raise ValueError(_checks.message("times", f"{ends}", "increasing times"))
    for t, end in pairwise([0.0, *ends]):
        steps = math.ceil((end - t) / step - 1e-9)
        for _ in range(steps):
            state = advance(state, (end - t) / steps)
        out.append(state)
    return out


#: The networks ``dyn-BF`` and ``dyn-TF`` of Beeline, whose cells have two and three fates.
BIFURCATING = GeneNetwork(
    {
        "g1": lambda g4, g6: not (g4 or g6),
        "g2": lambda g1: g1,
        "g3": lambda g2: g2,
        "g4": lambda g3, g4, g6: (g3 or g4) and not g6,
        "g6": lambda g3, g6, g4: (g3 or g6) and not g4,
        "g7": lambda g4: g4,
        "g8": lambda g4: not g4,
    },
    {"g1": 1.0},
)
TRIFURCATING = GeneNetwork(
    {
        "g1": lambda g4, g5, g6: not (g4 or g5 or g6),
        "g2": lambda g1: g1,
        "g3": lambda g2: g2,
        "g4": lambda g3, g4, g5, g6: (g3 or g4) and not (g5 or g6),
        "g5": lambda g3, g5, g4, g6: (g3 or g5) and not (g4 or g6),
        "g6": lambda g3, g6, g7, g4, g5: (g3 or g6 or g7) and not (g4 or g5),
        "g7": lambda g6: g6,
        "g8": lambda g4: not g4,
    },
    {"g1": 1.0, "g7": 1.0},
)
