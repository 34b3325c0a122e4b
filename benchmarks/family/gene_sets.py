"""Sets of genes drawn by a GFlowNet, against all sets listed.

    python benchmarks/family/gene_sets.py        # with torchgfn

Effects of genes by themselves and in pairs are drawn at random; what is below zero is none, which
is a third of the sets. Total variation is between shares in 20,000 draws and effect^beta over Z;
`noise` is that of as many exact draws. Sets are of up to three genes; `asked` are those whose
effect was asked for. Two seeds.
"""

from __future__ import annotations

import time

import numpy as np

from cellflow.answers import GFlowNet, gene_sets

SEEDS = (0, 1)
#: Genes, beta and training steps.
CASES = ((10, 1, 500), (10, 1, 2000), (10, 2, 500), (10, 2, 2000), (30, 2, 2000))


class Pairs:
    """Effects of genes alone and in pairs."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(n)
        self.alone, self.paired = rng.random(n), rng.normal(size=(n, n))
        self.genes = [f"g{k}" for k in range(n)]

    def __call__(self, sets: list[tuple[str, ...]]) -> np.ndarray:
        x = np.array([[float(gene in one) for gene in self.genes] for one in sets])
        return np.maximum(x @ self.alone + (x @ self.paired * x).sum(1) / 2, 0)


def main() -> None:
    named = (
        "genes",
        "beta",
        "steps",
        "seed",
        "sets",
        "asked",
        "TV",
        "noise",
        "log Z",
        "exact",
        "s",
    )
    print("".join(f"{name:>7}" for name in named))
    for n, beta, steps in CASES:
        total = n + n * (n - 1) // 2 + n * (n - 1) * (n - 2) // 6
        for seed in SEEDS:
            effect, start = Pairs(n), time.perf_counter()
            found = gene_sets(
                effect,
                effect.genes,
                beta=beta,
                sampler=GFlowNet(steps),
                draws=20_000,
                list_to=10_000,
                generator=seed,
            )
            seconds = time.perf_counter() - start
            print(f"{n:7}{beta:7}{steps:7}{seed:7}{total:7}{found.n_evaluated:7}", end="")
            print(f"{found.total_variation:7.3f}{found.noise:7.3f}{found.log_z:7.2f}", end="")
            print(f"{found.exact_log_z:7.2f}{seconds:7.0f}", flush=True)


if __name__ == "__main__":
    main()
