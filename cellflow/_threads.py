"""One thread of torch for a while, also where several threads of Python ask for it at once."""

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
    """Return how many cores this process may use beside the one it runs on: 1 to `MOST_SPARE`.

    A worker beside others has none. Of several ranks on one machine each has its part of the
    cores.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun
    return min(max(1, cores - 1), MOST_SPARE)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside, and as before outside.

    The number is the process's as well as the calling thread's: the first to enter remembers it,
    since all who enter later see 1, and each who leaves puts it back.
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
