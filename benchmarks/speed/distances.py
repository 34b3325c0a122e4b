"""Exact W1 and W2 of some 4,000 × 4,000 cells against POT's `emd2`, run to convergence.

    python benchmarks/speed/distances.py FOLDER [--rounds 5] [--large]

Both go from points to a distance, on one thread. Each row is the worse of two ratios: day 3 against
day 4, and two samples of day 4 (a good prediction against the truth), which POT finds easier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from timing import Row, Timing, in_subprocess, interleaved, print_rows, skip_aloud

from cellflow.metrics import wasserstein1, wasserstein2

SHAPES = ((4_000, 4_000), (4_000, 3_600))
DISTANCES = {1: wasserstein1, 2: wasserstein2}
TARGET, AGREEMENT = "≥ 4x", 1e-9


def clouds(data: Path, dims: int, n: int, m: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return pairs of clouds, by name."""
    file = np.load(data / "cite13176_pca100.npz")
    rng = np.random.default_rng(0)
    early, late = (
        rng.permutation(file["X"][file["t"] == day, :dims].astype(np.float64)) for day in (3, 4)
    )
    return {"two days": (early[:n], late[:m]), "one day": (late[:n], late[n : n + m])}


def by_pot(x: np.ndarray, y: np.ndarray, power: int) -> float:
    """The distance by POT, with as many pivots as it takes."""
    import ot

    cost = ot.dist(x, y, metric="euclidean" if power == 1 else "sqeuclidean")
    a, b = (np.full(len(v), 1.0 / len(v)) for v in (x, y))
    return float(ot.emd2(a, b, cost, numItermax=1_000_000_000)) ** (1.0 / power)


def peak_of(data: Path, dims: int, n: int, m: int, power: int) -> float:
    """Compute one distance; for a process of its own."""
    torch.set_num_threads(1)
    return DISTANCES[power](*clouds(data, dims, n, m)["two days"])


def _keep(found: dict[str, float], name: str, run: Callable[[], float]) -> None:
    found[name] = run()


def rows(data: Path, *, quick: bool = True, rounds: int | None = None) -> Iterator[Row]:
    """The eight rows of the table."""
    try:
        import ot  # noqa: F401
    except ImportError as error:
        skip_aloud("POT", error)
        return
    torch.set_num_threads(1)
    rounds = (2 if quick else 5) if rounds is None else rounds
    for dims in (5, 50):
        for n, m in SHAPES:
            pairs = clouds(data, dims, n, m)
            for power, ours in DISTANCES.items():
                timings: dict[str, Timing] = {}
                found: dict[str, float] = {}
                gap = 0.0
                ours(*(v[::2] for v in pairs["two days"]))  # compiled code is loaded now
                for name, (x, y) in pairs.items():
                    timings[name] = interleaved(
                        partial(_keep, found, "ours", partial(ours, x, y)),
                        partial(_keep, found, "theirs", partial(by_pot, x, y, power)),
                        rounds=rounds,
                        warmup=0,
                    )
                    gap = max(gap, abs(found["ours"] / found["theirs"] - 1.0))
                worst = min(timings.values(), key=lambda t: t.ratio)
                peak = None
                if power == 1 and n == m:
                    _, peak = in_subprocess(peak_of, data, dims, n, m, power)
                note = ", ".join(f"{name} {t.ratio:.1f}x" for name, t in timings.items())
                yield Row(
                    f"exact W{power}, {n:,} × {m:,}, {dims}-D", "ot.emd2 to convergence",
                    worst.ours, worst.theirs, "s", TARGET, worst.ratio,
                    f"{note}; values agree to {gap:.0e}", peak, worst.span,
                    worst.ratio >= 4.0 and gap <= AGREEMENT,
                )  # fmt: skip


def large() -> Iterator[Row]:
    """How time grows, on normal samples; nothing to compare with."""
    rng = np.random.default_rng(0)
    for n in (2_000, 4_000, 8_000, 16_000, 32_000):
        for dims in (5, 50):
            x, y = rng.normal(size=(n, dims)), 1.2 * rng.normal(size=(n, dims)) + 0.3
            for power, ours in DISTANCES.items():
                seconds = _seconds(partial(ours, x, y))
                work = f"exact W{power}, {n:,} × {n:,}, {dims}-D"
                yield Row(work, "-", seconds, None, "s", "-", None)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=5)
@click.option("--large", "grow", is_flag=True, help="How time grows with the cells, too.")
def main(data: Path, rounds: int, grow: bool) -> None:
    print_rows(rows(data, quick=False, rounds=rounds))
    if grow:
        print_rows(large())


if __name__ == "__main__":
    main()
