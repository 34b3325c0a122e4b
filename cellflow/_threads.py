"""Threads of torch: one for a while, and how many cores are left for others."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_before = 1

#: Background threads beyond which coupling gains nothing.
MOST_SPARE = 8


def spare_cores() -> int:
    """Return how many cores this process may use beside its own, from 1 to `MOST_SPARE`.

    A worker beside others has none; ranks of one machine share its cores.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun
    return min(max(1, cores - 1), MOST_SPARE)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of torch inside, and as before outside.

    The number belongs to the process as well as to the calling thread: the first call remembers
    it, since later ones see 1, and each restores it at its end.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_before)
