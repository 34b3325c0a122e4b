"""Seeds derived from seeds, so that everything stochastic is a pure function of one of them."""

from __future__ import annotations

_MASK = 2**64 - 1


def stream_seed(seed: int, index: int, stream: int) -> int:
    """Return a well mixed seed for draw `index` of stream `stream` (SplitMix64's finaliser)."""
    z = seed & _MASK
    for word in (index, stream):
        z = (z ^ word) + 0x9E3779B97F4A7C15 & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        z ^= z >> 31
    return z >> 1
