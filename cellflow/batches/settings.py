"""How pairs are made."""

from __future__ import annotations

from dataclasses import dataclass

from cellflow import _checks

REFRESH = ("pool", "every_step")


@dataclass(frozen=True)
class Batching:
    """How pairs are made.

    Parameters
    ----------
    batch_size
        Pairs per interval in a training step.
    block_size
        Cells coupled together, at most those of the smaller snapshot; None couples whole
        snapshots, once.
    reuse
        Epochs that a pool of pairs serves before it is coupled anew.
    prefetch
        Whether the next pool is made by background threads (same result either way).
    refresh
        ``"pool"`` takes the pairs of a step from all blocks of a pool, each used `reuse` times.
        ``"every_step"`` couples anew for every step, as minibatch couplings were published:
        ``batch_size`` fresh cells of either snapshot, whatever `block_size` and `reuse`. Each
        pair follows the law of the minibatch coupling either way; only under the second do the
        pairs of a step come from one plan, so that they are as dependent as they are in it.
    """

    batch_size: int = 256
    block_size: int | None = 256
    reuse: int = 32
    prefetch: bool = True
    refresh: str = "pool"

    def __post_init__(self) -> None:
        _checks.count(self.batch_size, "batch_size")
        _checks.count(self.reuse, "reuse")
        _checks.choice(self.refresh, REFRESH, "refresh")
        if self.block_size is not None:
            _checks.count(self.block_size, "block_size", low=2)
