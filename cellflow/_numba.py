"""Compilation of kernels. Import this module lazily: it loads numba."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba import njit
from numba.core import event

from cellflow.logging import say

#: Infinities are used (padding), NaN never occurs; signed zeros do not matter.
FAST = frozenset({"nnan", "nsz", "reassoc", "contract"})


def compiled(function: Callable, math: frozenset[str] | bool = FAST) -> Callable:
    """Compile without the interpreter lock, cached on disk where a place for it is writable."""
    fastmath = set(math) if isinstance(math, frozenset) else math
    try:
        return njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return njit(nogil=True, fastmath=fastmath)(function)


class _Told(event.Listener):
    """It says, once, that kernels are being compiled."""

    told = False

    def on_start(self, event: object) -> None:
        if not self.told:
            self.told = True
            text = "Compiling the solvers of optimal transport, once: 10 seconds on an idle core."
            say(text)

    def on_end(self, event: object) -> None:
        """Nothing to say."""


@contextmanager
def told_of_compilation(show: bool | None) -> Iterator[None]:
    """If `show`, say on standard error when kernels are compiled meanwhile, here or in threads."""
    if not show:
        yield
        return
    with event.install_listener("numba:compile", _Told()):
        yield
