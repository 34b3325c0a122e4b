"""Compilation of kernels. Import this module lazily: it loads numba."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

#: Infinities are used (padding), NaN never occurs; signed zeros do not matter.
FAST = frozenset({"nnan", "nsz", "reassoc", "contract"})


def compiled(function: Callable, math: frozenset[str] | bool = FAST) -> Callable:
    """Compile without the interpreter lock, cached on disk where a place for it is writable."""
    fastmath = set(math) if isinstance(math, frozenset) else math
    try:
        return njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return njit(nogil=True, fastmath=fastmath)(function)
