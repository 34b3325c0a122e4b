r"""Courses under drugs, alone and together, whose truth is known for those that no cell saw.

Normal laws whose mean drugs shift, so that the map of every combination has a closed form; and a
switch of two genes, where what drugs do together is not the sum of what they do alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.conditions import Categorical, Conditions
from cellflow.conditions.covariates import Value
from cellflow.timecourse import TimeCourse
from cellflow.toys.exact import Gaussian, matrix_root
from cellflow.toys.genes import walk

#: The condition of cells without a drug.
CONTROL = "control"
#: Longest step of a simulation, and the spread of the logarithms of genes at its start.
STEP, SPREAD = 0.05, 0.2


@dataclass(frozen=True, eq=False)
class DosedGaussians:
    r"""Cells that drugs carry from one normal law to another, by their doses.

    .. math:: N(m_0, S_0) \to N\bigl(m_1 + \textstyle\sum_k f(u_k)\, e_k,\; S_1\bigr),
              \qquad f(u) = \log(1 + u) \text{ or } u

    with :math:`u_k` the dose of drug k: drugs add up, and every map is affine, see
    :func:`gaussian_ot_map`.

    The law of all cells at time 0 is `start`, that of those without a drug at time 1 `end`. Each
    drug shifts the mean by :math:`e_k`, in `effects` ``(d,)``; `log` says whether the logarithm of
    one plus the dose counts.
    """

    start: Gaussian
    end: Gaussian
    effects: Mapping[str, ArrayLike]
    log: bool = True

    def law(self, condition: Value) -> Gaussian:
        """Return the law at time 1 under a `condition`, such as ``{"A": 0.5, "B": 2.0}``."""
        mean = self.end.mean
        for drug, dose in _drug(self.effects).parts(condition).items():
            effect = _checks.as_numbers(self.effects[drug], "effects").to(mean)
            mean = mean + (math.log1p(dose) if self.log else dose) * effect
        return Gaussian(mean, self.end.cov)

    def course(self, n: int, conditions: Sequence[Value], *, generator: Rng = 0) -> TimeCourse:
        """Draw `n` cells of the start, and `n` of each of the `conditions` and of none at time 1.

        With a seed or `generator`; in single precision.
        """
        rng, known = _checks.as_generator(generator), _known(self.effects, conditions)
        laws = [[self.start, self.law(value["drug"])] for value in known.values]
        roots = [[(law.mean, matrix_root(law.cov)) for law in each] for each in laws]
        draws = [
            [m + torch.randn(n, len(m), generator=rng, dtype=m.dtype) @ root for m, root in each]
            for each in roots
        ]
        return _course(draws, [0.0, 1.0], known)


@dataclass(frozen=True)
class ToggleSwitch:
    r"""Two genes that switch each other off, and two that follow them, under drugs.

    .. math::
        da = \Bigl(\frac{3 e^{p}}{1 + b^4} - a\Bigr) dt + s \sqrt{a}\, dW, \quad
        db = \Bigl(\frac{3 e^{q}}{1 + a^4} - b\Bigr) dt + s \sqrt{b}\, dW', \quad
        dc = (a - c)\, dt, \quad dd = (b - d)\, dt

    with p and q the sums of dose times strength over the drugs (Gardner, Cantor and Collins 2000).
    Cells start undecided, near one of each, and decide for one of the two genes.

    The strengths of each drug on the making of either gene are `drugs`, such as ``{"A": (0.4,
    0.0)}``; `noise` is the factor s.
    """

    drugs: Mapping[str, tuple[float, float]]
    noise: float = 0.15

    def simulate(
        self, condition: Value, n: int, times: Sequence[float], *, generator: Rng = 0
    ) -> Tensor:
        """Simulate `n` cells under a `condition` from time zero, by Euler and Maruyama.

        Returns their genes a, b, c, d at the increasing `times`, from zero on: shape ``(T, n, 4)``,
        float64, decided by the seed or `generator`.
        """
        rng = _checks.as_generator(generator)
        strength = torch.zeros(2, dtype=torch.float64)
        for drug, dose in _drug(self.drugs).parts(condition).items():
            strength += dose * torch.tensor(self.drugs[drug], dtype=torch.float64)
        x = torch.randn(_checks.count(n, "n"), 4, generator=rng, dtype=torch.float64)

        def advance(x: Tensor, h: float) -> Tensor:
            pair = x[:, :2]
            made = 3.0 * strength.exp() / (1.0 + pair.flip(1) ** 4)
            w = torch.randn(pair.shape, generator=rng, dtype=x.dtype) * self.noise * h**0.5
            moved = pair + h * (made - pair) + pair.sqrt() * w
            return torch.cat([moved.clamp(min=0.0), x[:, 2:] + h * (pair - x[:, 2:])], 1)

        return torch.stack(walk((SPREAD * x).exp(), times, step=STEP, advance=advance))

    def course(
        self, n: int, times: Sequence[float], conditions: Sequence[Value], *, generator: Rng = 0
    ) -> TimeCourse:
        """Draw other `n` cells at each of the `times`, above zero, and of the control at zero.

        Each time has cells under each of the `conditions` and under none. With a seed or
        `generator`; in single precision.
        """
        rng, known = _checks.as_generator(generator), _known(self.drugs, conditions)
        ends = [0.0, *times]
        draws = []
        for value in known.values:
            x = self.simulate(value["drug"], n * len(ends), ends, generator=rng)
            draws.append([some[k * n : (k + 1) * n] for k, some in enumerate(x)])
        return _course(draws, ends, known)


def _known(drugs: Mapping[str, object], conditions: Sequence[Value]) -> Conditions:
    """Return the control and `conditions`."""
    values = ({"drug": value} for value in (CONTROL, *conditions))
    return Conditions((_drug(drugs),), tuple(values), control=0)


def _drug(drugs: Mapping[str, object]) -> Categorical:
    return Categorical("drug", tuple(drugs), doses=True, none=CONTROL)


def _course(draws: list[list[Tensor]], times: Sequence[float], known: Conditions) -> TimeCourse:
    """Return the course of these `draws` at all times of each condition, of the first at zero."""
    whole = [torch.cat(cells).float() for cells in zip(*draws, strict=True)]
    n, codes = len(draws[0][0]), torch.arange(len(draws)).repeat_interleave(len(draws[0][0]))
    xs = [whole[0][:n], *whole[1:]]
    each = [codes[: len(x)] for x in xs]
    return TimeCourse.from_arrays(xs, times, conditions=known, codes=each)


#: Drugs that push cells to the first gene, A and B, or to the second, C; D undoes the switch.
TOGGLE = ToggleSwitch({"A": (0.3, 0.0), "B": (0.0, -0.3), "C": (0.0, 0.3), "D": (-1.5, -1.5)})
