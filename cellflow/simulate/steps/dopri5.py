"""The adaptive Runge-Kutta pair of Dormand and Prince (1980), order 5, with dense output."""

from __future__ import annotations

from cellflow.simulate.solver import SOLVERS, Pair, Solver

# Hairer, Norsett and Wanner (1993), table II.5.2; `quartic` as in their code of that name.
PAIR = Pair(
    order=5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    quartic=(
        -12715105075 / 11282082432,
        0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    ),
)
SOLVERS.register("dopri5")(Solver(order=PAIR.order, pair=PAIR))
